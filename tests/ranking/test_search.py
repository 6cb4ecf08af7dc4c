"""Ranking without identities, against loops."""

import csv
import functools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saai_jax import affinity
from saai_jax.affinity import Nearest
from saai_jax.ranking.search import search, write_csv

RANDOM = np.random.RandomState(0)
AIM = functools.partial(affinity.aim, k1=4, k2=2)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), top=st.integers(1, 7))
def test_nearest_first_and_the_earlier_of_equals(seed, top):
    matrix = np.random.RandomState(seed).randint(0, 3, (4, 7)).astype(np.float32)
    found = search(np.ones((4, 2)), np.ones((7, 2)), lambda q, g: jnp.asarray(matrix), top)
    for row, index, distance in zip(matrix, *found, strict=True):
        expected = sorted(range(7), key=lambda i: (row[i], i))[:top]
        assert index.tolist() == expected
        assert distance.tolist() == [row[i] for i in expected]


@pytest.mark.parametrize("distance", [affinity.cosine, affinity.euclidean, AIM, affinity.k_reciprocal])
def test_any_inference(distance):
    query, gallery = RANDOM.standard_normal((5, 8)), RANDOM.standard_normal((30, 8))
    gallery[17] = query[2]
    found = search(query, gallery, distance, 3)
    assert found.index.shape == found.distance.shape == (5, 3)
    assert found.index[2, 0] == 17
    assert (np.diff(found.distance, axis=1) >= 0).all()


def test_aim_is_as_in_a_gallery_that_is_kept():
    query, gallery = RANDOM.standard_normal((5, 8)), RANDOM.standard_normal((30, 8))
    kept = affinity.Gallery.build(gallery, k1=4, k2=2).search(query, 30)
    found = search(query, gallery, AIM, 30)
    assert affinity.agreement(found, kept)["places"] == 1
    np.testing.assert_allclose(found.distance, kept.distance, atol=2e-6)


def test_what_cannot_be_ranked():
    ones = np.ones((3, 2), np.float32)
    assert search(np.zeros((0, 2)), ones, affinity.cosine, 2).index.shape == (0, 2)
    with pytest.warns(UserWarning, match="top=9 is lowered to the gallery's 3 images"):
        assert search(ones, ones, affinity.cosine, 9).index.shape == (3, 3)
    for query, gallery, top, message in (
        (ones, np.zeros((0, 2)), 1, "the gallery is empty"),
        (ones, np.ones((3, 4)), 1, r"gallery is f32\[3, 4\], expected \[n, 2\]"),
        (ones, np.full((3, 2), np.nan), 1, "gallery row 0 is not finite"),
        (ones[0], ones, 1, r"query is f32\[2\]"),
        (ones, ones, 0, "top is 0, expected a positive integer"),
    ):
        with pytest.raises(ValueError, match=message):
            search(query, gallery, affinity.cosine, top)
    with pytest.raises(ValueError, match="distance row 0 is not finite"):
        search(ones, ones, lambda q, g: jnp.full((3, 3), jnp.inf), 1)


def test_csv(tmp_path):
    found = Nearest(np.array([[2, 0], [1, 2]], np.int32), np.array([[0.25, 0.5], [-1, 1 / 3]], np.float32))
    file = tmp_path / "new" / "ranked.csv"
    write_csv(file, found, ["q,1.png", "ü.png"], np.array(["a.png", "b.png", "c.png"]))
    with open(file, newline="", encoding="utf-8") as stream:
        assert list(csv.reader(stream)) == [
            ["query", "rank", "gallery", "distance"],
            ["q,1.png", "1", "c.png", "0.250000"],
            ["q,1.png", "2", "a.png", "0.500000"],
            ["ü.png", "1", "b.png", "-1.000000"],
            ["ü.png", "2", "c.png", "0.333333"],
        ]
    write_csv(file, found, ["=1+2.png", "@a.png"], ["-a.png", "+b.png", "a=b.png"])  # formulas, to a spreadsheet
    rows = [line.split(",")[:3:2] for line in file.read_text(encoding="utf-8").splitlines()[1:]]
    assert rows == [
        ["./=1+2.png", "a=b.png"],
        ["./=1+2.png", "./-a.png"],
        ["./@a.png", "./+b.png"],
        ["./@a.png", "a=b.png"],
    ]
    with pytest.raises(ValueError, match="results are of 2 queries, and 1 paths were given"):
        write_csv(file, found, ["q"], ["a", "b", "c"])
    with pytest.raises(ValueError, match="results name gallery row 2, and 2 paths were given"):
        write_csv(file, found, ["q", "r"], ["a", "b"])
