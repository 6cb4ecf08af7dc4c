import sys

import numpy as np
import pytest
from PIL import Image

from saai_jax.report import charts, projection
from saai_jax.report import pictures as plots
from saai_jax.report.pairs import Distances

RANDOM = np.random.RandomState(0)


def read(file):
    return np.asarray(Image.open(file).convert("RGB")).astype(int)


def has(picture, colour, tolerance=30):
    return (np.abs(picture - np.array(colour)).max(axis=-1) <= tolerance).any()


def entries(terms):
    train = [
        dict(kind="train", step=s, epoch=s // 100, learning_rate=1e-3, **dict.fromkeys(terms, 5 / s))
        for s in range(1, 999)
    ]
    return train + [dict(kind="validation", step=100 * e, epoch=e, rank1=10.0 * e, map=9.0 * e) for e in range(1, 9)]


@pytest.mark.parametrize(
    "metrics", [entries(plots.LOSSES), entries(["loss", "shared"]), entries(["loss"])[:1], entries(["loss"])[-1:], []]
)
def test_curves(tmp_path, metrics):
    plots.curves(metrics, tmp_path / "curves.png")
    picture = read(tmp_path / "curves.png")
    assert picture.shape[:2] == (480, 1200)
    assert has(picture, (0, 114, 178)) == any("shared" in entry or "rank1" in entry for entry in metrics)
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_ranked_lists(tmp_path):
    query, gallery = RANDOM.randint(100, 120, (2, 24, 12, 3)), RANDOM.randint(100, 120, (2, 2, 5, 24, 12, 3))
    query, gallery = query.astype(np.uint8), gallery.astype(np.uint8)
    correct = np.zeros((2, 2, 5), bool)
    file = tmp_path / "ranked.png"
    plots.ranked_lists(file, query, gallery, correct)
    assert has(read(file), plots.WRONG)
    assert not has(read(file), plots.RIGHT)
    correct[1, 1, 4] = True
    skipped = np.zeros_like(correct)
    skipped[0, 0, 0] = True
    plots.ranked_lists(file, query, gallery, correct, skipped, ["cosine", "AIM (k1=20, k2=6), a long name"])
    assert has(read(file), plots.WRONG)
    assert has(read(file), plots.RIGHT)
    assert has(read(file), plots.SKIPPED, 5)
    with pytest.raises(ValueError, match=r"correct has shape \(2, 2, 4\)"):
        plots.ranked_lists(file, query, gallery, correct[..., :4])


def test_attention_maps(tmp_path):
    images = RANDOM.randint(0, 255, (2, 48, 24, 3)).astype(np.uint8)
    attention = RANDOM.rand(2, 3, 6, 3).astype(np.float32)
    attention[0, 0] = 0.5  # a flat map has no range
    file = tmp_path / "attention.png"
    plots.attention_maps(file, images, attention, ["a", "b"])
    assert read(file).shape[1] > 1000
    with pytest.raises(ValueError, match="do not match"):
        plots.attention_maps(file, images, attention, ["a"])


def test_overlay_spans_the_map_and_keeps_the_picture_below():
    image = np.zeros((40, 20, 3), np.uint8)
    image[:, 10:] = 255
    over, span = plots.overlay(image, np.float32([[0.25, 0.25], [0.75, 0.75]]))
    assert over.shape == image.shape
    assert span == "0.25 – 0.75"
    assert (over[:, 15].astype(int) > over[:, 5]).all()  # the picture
    assert over[-1, 5, 0] > over[0, 5, 0] + 100  # yellow below dark blue


def test_charts_are_saved_twice_and_repeat(tmp_path):
    curves = {"_under": np.linspace(20, 90, 20), "a$^b$ <i>\ud800": np.linspace(30, 95, 20)}
    spread = Distances(RANDOM.rand(50), np.zeros(0), 50, 0)
    points, identity, modality = RANDOM.rand(30, 2), np.arange(30) % 10, np.arange(30) % 2
    for name, make in {
        "cmc": lambda: charts.cmc_curves(curves, "a$title"),
        "one": lambda: charts.cmc_curves({"one": np.array([50.0])}, "one image"),
        "distances": lambda: charts.distance_histogram(spread, "within"),
        "map": lambda: charts.feature_map(points, identity, modality, "before"),
    }.items():
        text = charts.save(make(), tmp_path, name)
        assert text == charts.save(make(), tmp_path, name) == (tmp_path / f"{name}.svg").read_text()
        assert has(read(tmp_path / f"{name}.png"), (0, 114, 178))


def test_people_are_of_both_modalities_and_evenly_spread():
    identity = np.concatenate([np.repeat(np.arange(20), 10), [50, 51]])
    modality = np.concatenate([np.arange(200) % 2, [0, 1]])
    rows = projection.people(identity, modality, identities=4, images=3)
    assert sorted(set(identity[rows])) == [0, 6, 12, 19]
    for person in set(identity[rows]):
        np.testing.assert_array_equal(np.bincount(modality[rows[identity[rows] == person]]), [3, 3])
    few = projection.people(identity, modality, np.arange(95, 105))
    assert set(few) == set(range(95, 105))
    assert not len(projection.people(identity, np.zeros_like(modality)))


def test_tsne_keeps_groups_together_and_repeats():
    group = np.repeat([0, 1, 2], 10)
    feature = 5 * np.eye(8)[group] + RANDOM.standard_normal((30, 8)) * RANDOM.uniform(0.1, 0.5, (30, 1))
    feature *= RANDOM.uniform(0.01, 100, (30, 1))  # lengths do not count
    points = projection.tsne(feature)
    apart = np.linalg.norm(points[:, None] - points[None], axis=2) + np.diag(np.full(30, np.inf))
    np.testing.assert_array_equal(group[apart.argmin(1)], group)
    np.testing.assert_array_equal(points, projection.tsne(feature))
    with pytest.raises(ValueError, match="at least 4 rows"):
        projection.tsne(feature[:3])
    with pytest.raises(ValueError, match="row 4 is not finite"):
        projection.tsne(np.where(np.arange(30)[:, None] == 4, np.nan, feature))
