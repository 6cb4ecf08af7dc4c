"""Could it be luck: bootstrap intervals and paired sign-flip tests of per-query scores, over queries or identities.

Queries of one identity are not independent: some forty pictures of one person look for the same few gallery pictures,
and succeed or fail together. What a method is asked to do is to find people it has not seen, so people, not pictures,
are the sample: resampling queries as if they were independent gives intervals that are too narrow and p-values that
are too small, by as much as the square root of the queries a person has. Both functions therefore take `groups`, the
identity of each query, and then draw, or flip, all queries of an identity together; without it they answer only for
other pictures of the same people. The gallery is held as it is either way. Of fewer than some twenty people the
percentile interval is too narrow; the test then still holds its level, and cannot find much.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

BLOCK = 2**21  # numbers drawn at once


def bootstrap_interval(
    values: Float[np.ndarray, q],
    *,
    groups: Int[np.ndarray, q] | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap interval (low, high) of the mean of values, in their unit; the same for the same seed.

    groups: drawn with all their values, so a resample's mean is over as many values as its groups happen to have.
    Raises ValueError for values that are not finite, lengths that differ, and for a single value or group: it says
    nothing about others. Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; groups: Field and
    Welsh, Bootstrapping clustered data, 2007.
    """
    from scipy import stats  # takes a second that only who asks for an interval should wait

    total, count = _totals(values, groups)
    if len(total) < 2:
        raise ValueError("an interval needs at least two values, and two groups if there are groups; there is one")
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(f"confidence is {confidence} and resamples {resamples}, expected between 0 and 1, at least 1")

    def mean(total, count=None, *, axis):
        return total.mean(axis) if count is None else total.sum(axis) / count.sum(axis)

    data = (total,) if groups is None else (total, count)  # without groups every count is 1 and need not be drawn
    how = {"confidence_level": confidence, "n_resamples": resamples, **_draws(len(total), seed)}
    found = stats.bootstrap(data, mean, paired=True, method="percentile", **how).confidence_interval
    return float(found.low), float(found.high)


def paired_test(
    a: Float[np.ndarray, q],
    b: Float[np.ndarray, q],
    *,
    groups: Int[np.ndarray, q] | None = None,
    permutations: int = 10000,
    seed: int = 0,
) -> float:
    """The two-sided p-value of mean(a) - mean(b): how often a difference as large comes of swapping a and b by chance.

    Swaps a and b of each query, or of all queries of a group, with probability 1/2: all ways if there are no more of
    them than `permutations`, otherwise so many random ones, and then (1 + as large) / (1 + permutations), which is
    never 0. With k groups no p-value is below 2 ** (1 - k). Raises ValueError for values that are not finite and
    lengths that differ. Fisher, The Design of Experiments, 1935; Phipson and Smyth, 2010, for the 1.
    """
    from scipy import stats

    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"a has shape {a.shape} and b {b.shape}, expected one value of each for every query")
    if permutations < 1:
        raise ValueError(f"permutations is {permutations}, expected at least 1")
    total, _ = _totals(a - b, groups)
    # Rounding must not decide ties, such as the swap of everything with itself.
    threshold = abs(total.sum()) - 1e-9 * np.abs(total).sum()
    total = total[total != 0]
    if len(total) < 2:
        return 1.0  # either way the difference is as large

    def as_large(total, axis):
        return (np.abs(total.sum(axis)) >= threshold).astype(float)

    how = {"alternative": "greater", "n_resamples": permutations, **_draws(len(total), seed)}
    return float(stats.permutation_test((total,), as_large, permutation_type="samples", **how).pvalue)


def _draws(number: int, seed: int) -> dict[str, Any]:
    """How scipy draws resamples of so many values: no more than BLOCK numbers at once, the same for the same seed."""
    return {"vectorized": True, "batch": max(1, BLOCK // number), "rng": np.random.default_rng(seed)}


def _totals(values: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The sum and the number of values of each group; of each value without groups."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"values have shape {values.shape}, expected [q], at least one, all of them finite")
    if groups is None:
        return values, np.ones(len(values))
    if np.shape(groups) != values.shape:
        raise ValueError(f"groups have shape {np.shape(groups)}, expected one for each of {len(values)} values")
    inverse = np.unique(groups, return_inverse=True)[1]
    return np.bincount(inverse, values), np.bincount(inverse).astype(np.float64)
