import io
import sys

import numpy as np
import pytest
from PIL import Image

from saai_jax.affinity import Nearest
from saai_jax.report import charts, pictures, projection
from saai_jax.report.correspondence import Matches, strongest
from saai_jax.report.pairs import Distances
from tests import report_run

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


TERMS = ["loss", "shared", "specific", "mutual", "separation", "diversity"]


@pytest.mark.parametrize(
    "metrics", [entries(TERMS), entries(["loss", "shared"]), entries(["loss"])[:1], entries(["loss"])[-1:], []]
)
def test_training(tmp_path, metrics):
    charts.training(metrics).savefig(tmp_path / "curves.png", dpi=120)
    picture = read(tmp_path / "curves.png")
    assert picture.shape[:2] == (480, 1200)
    assert has(picture, (0, 114, 178)) == any("shared" in entry or "rank1" in entry for entry in metrics)
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_training_draws_whatever_terms_were_logged():
    """The total first and in black, then every logged term under its own name, in colours that come round again."""
    terms = [f"term{i}" for i in range(9)]
    train = [entry | {"gradient_norm": 1.0, "_$late": 2.0} for entry in entries([*terms, "loss"])]
    left = charts.training(train).axes[0]
    assert [line.get_label() for line in left.lines] == ["total", *terms, r" _\$late"]
    colours = [line.get_color() for line in left.lines]
    assert colours == [charts.BLACK, *charts.COLOURS[:-1], *charts.COLOURS[:3]]
    np.testing.assert_allclose(left.lines[1].get_data(), left.lines[0].get_data())


def test_ranked_lists(tmp_path):
    query, gallery = RANDOM.randint(100, 120, (2, 24, 12, 3)), RANDOM.randint(100, 120, (2, 2, 5, 24, 12, 3))
    query, gallery = query.astype(np.uint8), gallery.astype(np.uint8)
    correct = np.zeros((2, 2, 5), bool)
    file = tmp_path / "ranked.png"
    pictures.ranked_lists(query, gallery, correct).savefig(file)
    assert has(read(file), pictures.WRONG)
    assert not has(read(file), pictures.RIGHT)
    correct[1, 1, 4] = True
    skipped = np.zeros_like(correct)
    skipped[0, 0, 0] = True
    names = ["cosine", "AIM (k1=20, k2=6), a long name"]
    pictures.ranked_lists(query, gallery, correct, skipped, names).savefig(file)
    assert has(read(file), pictures.WRONG)
    assert has(read(file), pictures.RIGHT)
    assert has(read(file), pictures.SKIPPED, 5)
    with pytest.raises(ValueError, match=r"correct has shape \(2, 2, 4\)"):
        pictures.ranked_lists(query, gallery, correct[..., :4])


def test_attention_maps(tmp_path):
    images = RANDOM.randint(0, 255, (2, 48, 24, 3)).astype(np.uint8)
    attention = RANDOM.rand(2, 3, 6, 3).astype(np.float32)
    attention[0, 0] = 0.5  # a flat map has no range
    file = tmp_path / "attention.png"
    pictures.attention_maps(images, attention, ["a", "b"]).savefig(file, dpi=150)
    assert read(file).shape[1] > 1000
    with pytest.raises(ValueError, match="do not match"):
        pictures.attention_maps(images, attention, ["a"])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["$\\frac{$.jpg", "王 \U0001f6b6.jpg", "_\t\udc80"])
def test_any_name_can_be_drawn(name, tmp_path):
    """Without being read as a formula, and without matplotlib's warning of a character that its font lacks."""
    image = np.zeros((1, 8, 4, 3), np.uint8)
    nearest = Nearest(np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float32))
    pictures.search_lists(image, image[None], nearest, [name]).savefig(tmp_path / "list.png")
    charts.save(charts.cmc_curves({name: np.ones(3)}, name), tmp_path, "curves")


def test_search_lists():
    found = Nearest(np.zeros((2, 3), np.int32), np.arange(6, dtype=np.float32).reshape(2, 3))
    query, images = np.zeros((2, 12, 6, 3), np.uint8), np.full((2, 3, 12, 6, 3), 200, np.uint8)
    query[1], images[1, 2] = 30, 40
    figure = pictures.search_lists(query, images, found, ["first $\\frac{", "a/" + "long" * 40])
    (axes,) = figure.axes
    sheet = axes.images[0].get_array()
    assert sheet is not None
    for value, pixels in ((0, 72), (30, 72), (40, 72), (200, 5 * 72)):
        assert (sheet == value).all(-1).sum() == pixels
    texts = [text.get_text() for text in axes.texts]
    assert texts[0] == r"query: first \$\frac{"
    assert texts[1:4] == ["1:  0.000", "2:  1.000", "3:  2.000"]
    assert texts[4].startswith("query: ...")
    assert len(texts[4]) < 80
    with pytest.raises(ValueError, match="do not fit 2 lists of 3"):
        pictures.search_lists(query, images[:, :2], found, ["a", "b"])


@pytest.mark.parametrize("size", [(48, 24), (576, 288), (12, 12)])
def test_lines_connect_the_centres_of_matched_cells_each_in_its_colour(size):
    """Two matches of a map of 4 x 2, far from each other; the ends and the middle of each line have its hue."""
    height, width = size
    matches = Matches(np.array([0, 7]), np.array([1, 6]), np.array([0.9, 0.2]))
    drawn = pictures.connected(np.full((2, height, width, 3), 128, np.uint8), matches, (4, 2)).astype(int)
    scale = len(drawn) / height
    assert drawn.shape[0] == height * max(1, round(288 / height))
    assert drawn.shape[1] == (2 * width + width // 4) * scale
    right = width + width // 4
    for (x, y), (x2, y2), colour in (
        ((width / 4, height / 8), (right + width * 3 / 4, height / 8), (255, 0, 0)),
        ((width * 3 / 4, height * 7 / 8), (right + width / 4, height * 7 / 8), (0, 75, 255)),
    ):
        for px, py in ((x, y), (x2, y2), ((x + x2) / 2, (y + y2) / 2)):
            assert np.abs(drawn[int(scale * py), int(scale * px)] - colour).max() < 40
    assert (drawn[:, int(scale * (width + width // 8))] == 255).all(1).mean() > 0.9  # paper between them
    none = Matches(*np.zeros((3, 0), int))
    assert set(np.unique(pictures.connected(np.full((2, 12, 12, 3), 128, np.uint8), none, (4, 2)))) <= {
        *range(128, 256)
    }


@pytest.mark.filterwarnings("error")
def test_sheets_of_pairs_say_whose_and_what():
    random = np.random.default_rng(0)
    images, aligned = np.full((2, 2, 48, 24, 3), 9, np.uint8), [report_run.aligned(random) for _ in range(2)]
    matches = [strongest(aligned[0].probability[0]), Matches(*np.zeros((3, 0), int))]
    names, titles = [("a$\\frac{.jpg", "王"), ("b/" + "long" * 40, "c")], ["scale $", ""]
    first = pictures.correspondences(images, matches, (6, 3), names, titles)
    second = pictures.coattention_maps(images, aligned, names, titles)
    texts = [[text.get_text() for text in figure.axes[0].texts] for figure in (first, second)]
    assert [of[0] for of in texts] == [r"scale \$"] * 2
    assert texts[0][1].startswith("a\\$\\frac{.jpg\n\\u738b\n18 correspondences, probability 0.")
    assert texts[0][2].split("\n")[1:] == ["c", "no correspondence is left"]
    assert len(texts[0][2].split("\n")[0]) == 60
    assert [text.split("\n")[-1] for text in texts[1][1:5]] == ["mask", "co-attention", "co-attention", "mask"]
    sheet = np.asarray(second.axes[0].images[0].get_array())
    for pair, of in zip(images, aligned, strict=True):
        for over, name in pictures.aligned_overlays(pair, of):
            assert name in ("mask", "co-attention")
            assert any(
                (sheet[y : y + 48, x : x + 24] == over).all()
                for y, x in np.ndindex(len(sheet) - 47, len(sheet[0]) - 23)
                if (sheet[y, x] == over[0, 0]).all()
            )
    first_mask, _, _, second_mask = pictures.aligned_overlays(images[0], aligned[0])
    np.testing.assert_array_equal(first_mask[0], pictures.overlay(images[0, 0], aligned[0].mask[0])[0])
    np.testing.assert_array_equal(second_mask[0], pictures.overlay(images[0, 1], aligned[0].mask[1])[0])
    for figure in (first, second):
        figure.savefig(io.BytesIO())
    with pytest.raises(ValueError, match="shorter"):
        pictures.coattention_maps(images, aligned, names, titles[:1])


def test_a_network_sees_the_pictures_in_parts():
    images = RANDOM.randint(0, 255, (7, 4, 2, 3)).astype(np.uint8)
    rows, modality, seen = np.array([6, 0, 3, 3, 1]), np.array([1, 0, 1, 0, 1]), []

    def network(image, modality):
        seen.append(len(image))
        return image.reshape(len(image), -1).astype(np.float32) + 1000 * modality[:, None]

    found = pictures.apply(network, images.__getitem__, rows, modality, batch=2)
    np.testing.assert_array_equal(found, network(images[rows], modality))
    assert seen == [2, 2, 1, 5]


def test_overlay_spans_the_map_and_keeps_the_picture_below():
    image = np.zeros((40, 20, 3), np.uint8)
    image[:, 10:] = 255
    over, span = pictures.overlay(image, np.float32([[0.25, 0.25], [0.75, 0.75]]))
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
