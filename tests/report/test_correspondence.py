"""The strongest correspondences against a loop, and what must hold for any images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saai_jax.report.correspondence import Matches, centres, described, strongest


def slow_strongest(probability, back, count, mask, target_mask, threshold):
    """One position after the other: (position, target, probability), the strongest first."""
    found = []
    for p, row in enumerate(probability):
        q = max(range(len(row)), key=lambda q: (row[q], -q))
        if back is not None and max(range(len(probability)), key=lambda p: (back[q][p], -p)) != p:
            continue
        if mask is not None and (mask[p] < threshold or target_mask[q] < threshold):
            continue
        found.append((p, q, row[q]))
    return sorted(found, key=lambda match: -match[2])[:count]


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def both_ways(x, target):
    """Matching probability of features f[n c] and f[m c], and of the other direction, as models.cmalign has it."""
    x, target = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (x, target))
    return softmax(50 * x @ target.T), softmax(50 * target @ x.T)


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 30), st.booleans(), st.booleans(), st.integers(1, 25))
def test_equals_the_loop(seed, n, m, mutual, masked, count):
    """Rounded to a tenth, many values are equal."""
    random = np.random.default_rng(seed)
    probability, back = np.round(random.random((n, m)), 1), np.round(random.random((m, n)), 1)
    drawn = {"mask": np.round(random.random(n), 1), "target_mask": np.round(random.random(m), 1)}
    masks = drawn if masked else {}
    threshold = random.choice([0.2, 0.5])
    found = strongest(probability, back if mutual else None, count=count, **masks, threshold=threshold)
    expected = slow_strongest(
        probability, back if mutual else None, count, masks.get("mask"), masks.get("target_mask"), threshold
    )
    assert list(zip(*(of.tolist() for of in found), strict=True)) == expected


@given(st.integers(0, 10**6), st.booleans())
def test_moving_positions_moves_the_matches_with_them(seed, mutual):
    random = np.random.default_rng(seed)
    x, target = random.standard_normal((12, 6)), random.standard_normal((15, 6))
    masks = random.random(12), random.random(15)
    a, b = random.permutation(12), random.permutation(15)  # position i is what was a[i]

    def found(x, target, mask, target_mask):
        probability, back = both_ways(x, target)
        return strongest(probability, back if mutual else None, count=8, mask=mask, target_mask=target_mask)

    plain, moved = found(x, target, *masks), found(x[a], target[b], masks[0][a], masks[1][b])
    np.testing.assert_array_equal(a[moved.position], plain.position)
    np.testing.assert_array_equal(b[moved.target], plain.target)
    np.testing.assert_allclose(moved.probability, plain.probability)


@given(st.integers(0, 10**6), st.booleans())
def test_an_image_matches_itself_position_by_position(seed, mutual):
    x = np.random.default_rng(seed).standard_normal((30, 8))
    probability, back = both_ways(x, x)
    found = strongest(probability, back if mutual else None, count=30)
    np.testing.assert_array_equal(found.position, found.target)
    assert sorted(found.position) == list(range(30))


def test_mutual_asks_the_other_direction_and_not_the_columns():
    """Position 0 has the larger share of target 0, but position 1 is nearer to it: it has another neighbour beside."""
    x, target = np.array([[1, 0.5], [1, 0.0]]), np.array([[1, 0.0], [1, -0.05]])
    probability, back = both_ways(x, target)
    assert probability[:, 0].argmax() == 0
    assert back[0].argmax() == 1
    assert strongest(probability, back).position.tolist() == [1]
    assert strongest(probability).position.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("given", "how", "message"),
    [
        ((np.ones(4),), {}, r"probability has shape \(4,\), expected finite numbers f\[n m\]"),
        ((np.ones((0, 3)),), {}, r"probability has shape \(0, 3\)"),
        ((np.full((2, 2), np.nan),), {}, r"expected finite numbers"),
        ((np.ones((2, 3)), np.ones((2, 3))), {}, r"back has shape \(2, 3\), expected \(3, 2\)"),
        ((np.ones((2, 3)),), {"mask": np.ones(3)}, r"mask has shape \(3,\), expected \(2,\)"),
        ((np.ones((2, 3)),), {"target_mask": np.ones(2)}, r"target_mask has shape \(2,\), expected \(3,\)"),
        ((np.ones((2, 3)),), {"count": 0}, "count is 0, expected at least 1"),
    ],
)
def test_what_does_not_match_is_refused(given, how, message):
    with pytest.raises(ValueError, match=message):
        strongest(*given, **how)


def test_centres_are_x_and_y_of_row_major_cells():
    found = centres(np.array([0, 1, 8, 161]), (18, 9), (288, 144))
    np.testing.assert_allclose(found, [[8, 8], [24, 8], [136, 8], [136, 280]])
    with pytest.raises(ValueError, match="162"):
        centres(np.array([162]), (18, 9), (288, 144))


def test_a_description_has_number_and_range():
    matches = Matches(np.arange(2), np.arange(2), np.array([0.75, 0.0314]))
    assert described(matches) == "2 correspondences, probability 0.031 – 0.750"
    assert described(Matches(*np.zeros((3, 0), int))) == "no correspondence is left"
