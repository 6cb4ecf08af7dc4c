"""Bootstrap and sign-flip tests against loops over every resample, and against cases whose answer is known."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saai_jax.ranking import statistics
from saai_jax.ranking.statistics import bootstrap_interval, paired_test


def slow_p(a, b, groups=None):
    """All ways to swap a and b of whole groups, one by one."""
    names = sorted(set(range(len(a)) if groups is None else groups))
    groups = list(range(len(a))) if groups is None else groups
    observed, larger = abs(np.mean(a) - np.mean(b)), 0
    for swaps in itertools.product([False, True], repeat=len(names)):
        swap = dict(zip(names, swaps, strict=True))
        one = [y if swap[g] else x for x, y, g in zip(a, b, groups, strict=True)]
        two = [x if swap[g] else y for x, y, g in zip(a, b, groups, strict=True)]
        larger += abs(np.mean(one) - np.mean(two)) >= observed - 1e-12
    return larger / 2 ** len(names)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 8), st.sampled_from([2, 5, 1000]), st.booleans())
def test_few_queries_are_enumerated(seed, number, levels, grouped):
    random = np.random.default_rng(seed)
    a, b = random.integers(0, levels, (2, number)) / 10
    groups = random.integers(0, 3, number) if grouped else None
    assert paired_test(a, b, groups=groups) == pytest.approx(slow_p(a, b, groups))


def test_random_permutations_come_near_the_enumeration():
    random = np.random.default_rng(0)
    a, b = random.random((2, 16))
    exact = paired_test(a, b, permutations=2**16)
    assert 0.1 < exact < 0.9
    assert paired_test(a, b, permutations=10000) == pytest.approx(exact, abs=0.02)
    assert paired_test(a, b, permutations=10000) != exact
    assert paired_test(b, a) == paired_test(a, b)


def test_blocks_do_not_matter(monkeypatch):
    random = np.random.default_rng(0)
    a, b = random.random((2, 40))
    small = random.random((2, 9))
    whole = bootstrap_interval(a), paired_test(*small)
    monkeypatch.setattr(statistics, "BLOCK", 100)
    assert (bootstrap_interval(a), paired_test(*small)) == whole
    assert paired_test(a, b) == pytest.approx(paired_test(a, b, seed=1), abs=0.03)


def test_a_large_and_no_difference():
    a = np.random.default_rng(0).random(300)
    assert paired_test(a + 1, a) == 1 / 10001  # never 0
    assert paired_test(a, a) == 1
    assert paired_test(np.ones(3), np.zeros(3)) == 2 / 8


def test_chance_is_called_chance_as_often_as_promised():
    """Of identities whose queries fail together: queries alone would find differences where there are none."""
    random, groups = np.random.default_rng(0), np.repeat(np.arange(20), 10)
    found = {"identity": 0, "query": 0}
    for _ in range(150):
        difference = random.standard_normal(20)[groups] + 0.1 * random.standard_normal(200)
        zero = np.zeros(200)
        found["identity"] += paired_test(difference, zero, groups=groups, permutations=400) < 0.05
        found["query"] += paired_test(difference, zero, permutations=400) < 0.05
    assert found["identity"] <= 0.12 * 150  # 0.05, and four standard errors
    assert found["query"] > 0.3 * 150


@pytest.mark.parametrize("clusters", [None, 4])
def test_the_interval_is_the_loops(clusters):
    """The same draws, resample by resample."""
    random = np.random.default_rng(3)
    values = random.random(12)
    groups = None if clusters is None else random.permutation(np.repeat(np.arange(clusters) * 7, [1, 2, 4, 5]))
    each = [[v] for v in values] if groups is None else [values[groups == g] for g in np.unique(groups)]
    draws = np.random.default_rng(5).integers(0, len(each), (200, len(each)), dtype=np.int32)
    means = [np.concatenate([each[i] for i in draw]).mean() for draw in draws]
    found = bootstrap_interval(values, groups=groups, resamples=200, seed=5, confidence=0.8)
    np.testing.assert_allclose(found, np.quantile(means, [0.1, 0.9]))


def test_the_interval_has_the_width_of_theory_and_holds_the_mean():
    values = np.random.default_rng(0).normal(5, 2, 400)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.12)
    assert bootstrap_interval(values) == (low, high) != bootstrap_interval(values, seed=1)
    # ten copies of everything are no more information, if they are known to be copies
    copies, groups = np.repeat(values, 10), np.repeat(np.arange(400), 10)
    assert np.subtract(*bootstrap_interval(copies, groups=groups)) == pytest.approx(low - high)
    assert np.subtract(*bootstrap_interval(copies)) == pytest.approx((low - high) / 10**0.5, rel=0.15)


def test_the_interval_covers_the_truth_as_often_as_promised():
    random = np.random.default_rng(0)
    covered = sum(low < 0 < high for low, high in (bootstrap_interval(random.normal(size=60)) for _ in range(300)))
    assert 0.90 < covered / 300 < 0.985


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval(np.ones(1)), "at least two values"),
        (lambda: bootstrap_interval(np.ones(3), groups=np.zeros(3)), "and two groups"),
        (lambda: bootstrap_interval(np.array([])), "at least one"),
        (lambda: bootstrap_interval(np.array([1, np.nan])), "all of them finite"),
        (lambda: bootstrap_interval(np.ones((2, 2))), r"shape \(2, 2\)"),
        (lambda: bootstrap_interval(np.ones(3), groups=np.zeros(2)), "groups have shape"),
        (lambda: bootstrap_interval(np.ones(3), confidence=95), "confidence is 95"),
        (lambda: paired_test(np.ones(3), np.ones(2)), "a has shape"),
        (lambda: paired_test(np.ones(3), np.full(3, np.inf)), "finite"),
        (lambda: paired_test(np.ones(3), np.ones(3), permutations=0), "permutations is 0"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
