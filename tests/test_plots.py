import sys

import numpy as np
import pytest
from PIL import Image

from saai_jax import plots

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
