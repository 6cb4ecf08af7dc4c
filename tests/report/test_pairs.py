"""Pairs of images against a loop over all of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saai_jax.report.pairs import cosine_distances, pairs

quick = settings(deadline=None, max_examples=50)


def slow_pairs(identity, left, right, same):
    if right is None:
        every = {frozenset((a, b)) for a in left for b in left if a != b}
    else:
        every = {frozenset((a, b)) for a in left for b in right}
    return {pair for pair in every if (len({identity[row] for row in pair}) == 1) == same}


@quick
@given(st.lists(st.integers(0, 3), max_size=12), st.integers(0, 12), st.booleans(), st.booleans())
def test_all_pairs_are_found_once(identity, cut, within, same):
    identity = np.array(identity, np.int32)
    rows = np.random.default_rng(0).permutation(len(identity))
    left, right = (rows, None) if within else (rows[:cut], rows[cut:])
    found, total = pairs(identity, left, right, same=same, limit=1000)
    assert total == len(found)
    assert {frozenset(pair) for pair in found.tolist()} == slow_pairs(identity, left, right, same)
    assert len({frozenset(pair) for pair in found.tolist()}) == total


@pytest.mark.parametrize("same", [True, False])
def test_drawn_pairs_are_the_same_each_time_and_evenly_spread(same):
    identity = np.repeat(np.arange(10), 20)
    left = np.arange(200)
    every, total = pairs(identity, left, same=same, limit=10**6)
    drawn, counted = pairs(identity, left, same=same, limit=500)
    assert counted == total == len(every)
    assert len(np.unique(drawn, axis=0)) == 500
    np.testing.assert_array_equal(drawn, pairs(identity, left, same=same, limit=500)[0])
    share = np.bincount(identity[drawn[:, 0]], minlength=10) / 500
    expected = np.bincount(identity[every[:, 0]], minlength=10) / total
    assert np.abs(share - expected).max() < 0.07


def test_distances():
    embedding = np.float32([[1, 0], [2, 0], [0, 3], [-1, 0]])
    found = cosine_distances(embedding, np.array([1, 1, 2, 2]), np.arange(4))
    np.testing.assert_allclose(np.sort(found.genuine), [0, 1], atol=1e-7)
    np.testing.assert_allclose(np.sort(found.impostor), [1, 1, 2, 2], atol=1e-7)
    across = cosine_distances(embedding, np.array([1, 1, 2, 2]), np.array([0]), np.array([1, 3]), limit=1)
    np.testing.assert_allclose(across.genuine, [0], atol=1e-7)
    np.testing.assert_allclose(across.impostor, [2], atol=1e-7)
    assert (across.genuine_pairs, across.impostor_pairs) == (1, 1)
