"""CMKIC against a loop in float64 with its gradient, the supervised contrastive loss, and batches without positives."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from saai_jax.losses.contrastive import hardest_positives
from tests.losses.test_losses import SEEDS, normal, quick

B, D, TAU = 12, 6, 0.07
MODALITY = np.arange(B) % 3 % 2  # 8 visible, 4 infrared


def drawn(seed, b=B):
    z = np.float64(normal(seed, b, D))
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def identities(seed):
    """Three, some without images of a modality."""
    return np.random.default_rng(seed).integers(0, 3, B).astype(np.int32)


def slow_rows(z, y, modality, hardest, against="both"):
    """Each row's loss and its gradient, of the supplement's Eq. 1; None for a row without positives."""
    found = []
    for i in range(len(z)):
        positives = [p for p in range(len(z)) if y[p] == y[i] and modality[p] != modality[i]]
        positives = sorted(positives, key=lambda p: z[i] @ z[p])[:hardest]
        compared = [a for a in range(len(z)) if a != i and (against == "both" or modality[a] != modality[i])]
        if not positives:
            found.append((None, np.zeros(z.shape)))
            continue
        all_of = sum(np.exp(z[i] @ z[a] / TAU) for a in compared)
        value = -np.mean([np.log(np.exp(z[i] @ z[p] / TAU) / all_of) for p in positives])
        gradient = np.zeros(z.shape)
        for a in compared:
            slope = (np.exp(z[i] @ z[a] / TAU) / all_of - (a in positives) / len(positives)) / TAU
            gradient[i] += slope * z[a]
            gradient[a] += slope * z[i]
        found.append((value, gradient))
    return found


def slow(z, y, modality, hardest, against="both", reduction="sum"):
    rows = slow_rows(z, y, modality, hardest, against)
    total, gradient = 0.0, np.zeros(z.shape)
    for m in (0, 1):  # from visible to infrared, and back
        of = [row for row, kind in zip(rows, modality, strict=True) if kind == m and row[0] is not None]
        share = 1 if reduction == "sum" else 1 / max(len(of), 1)
        total += share * sum(value for value, _ in of)
        gradient += share * sum((g for _, g in of), np.zeros(z.shape))
    return total, gradient


fast = jax.jit(jax.value_and_grad(hardest_positives), static_argnames=("hardest", "against", "reduction"))
OPTIONS = list(itertools.product((1, 2, 50), ("both", "other"), ("sum", "mean")))  # 50: more than there are


@pytest.mark.parametrize(("hardest", "against", "reduction"), OPTIONS)
@quick
@given(SEEDS)
def test_it_is_the_loop_with_its_gradient(hardest, against, reduction, seed):
    z, y = drawn(seed), identities(seed)
    value, gradient = fast(np.float32(z), y, MODALITY, hardest=hardest, against=against, reduction=reduction)
    expected, of_z = slow(np.float64(np.float32(z)), y, MODALITY, hardest, against, reduction)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradient, of_z, atol=1e-4 * max(np.abs(of_z).max(), 1))


def test_of_all_positives_it_is_the_supervised_contrastive_loss_across_modalities():
    """Written out by matrices: sum_i -1/|P(i)| sum_p log softmax_i(p), of positives of the other modality."""
    z, y = drawn(3), identities(3)
    score = z @ z.T / TAU - np.diag([np.inf] * B)
    log_share = score - np.log(np.exp(score).sum(1, keepdims=True))
    positive = (y[:, None] == y) & (MODALITY[:, None] != MODALITY)
    each = [-row[p].mean() for row, p in zip(log_share, positive, strict=True) if p.any()]
    value, _ = fast(np.float32(z), y, MODALITY, hardest=int(positive.sum(1).max()))
    np.testing.assert_allclose(value, sum(each), rtol=1e-5)
    less, _ = fast(np.float32(z), y, MODALITY, hardest=1)
    assert less > value + 1  # the hardest alone


@quick
@given(SEEDS)
def test_the_order_of_rows_and_the_names_of_identities_do_not_matter(seed):
    z, y, order = np.float32(drawn(seed)), identities(seed), np.random.default_rng(seed).permutation(B)
    value, gradient = fast(z, y, MODALITY, hardest=2)
    other, of_other = fast(z[order], 100 - 7 * y[order], MODALITY[order], hardest=2)
    np.testing.assert_allclose(other, value, rtol=1e-5)
    np.testing.assert_allclose(of_other, gradient[order], rtol=1e-4, atol=1e-4)


def test_a_rows_loss_ignores_whose_the_others_are():
    """Of one identity's rows, when those of the others change names and places among themselves."""
    z, y = np.float32(drawn(5)), np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3], np.int32)
    kind = np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1], np.int32)

    def of_first(z, y, kind):
        """What is left when the others have no positives: each alone."""
        return float(hardest_positives(jnp.asarray(z), np.where(y == 0, 0, np.arange(1, B + 1)), kind, hardest=2))

    order = np.array([0, 1, 2, 3, *(4 + np.random.default_rng(0).permutation(8))])
    np.testing.assert_allclose(of_first(z[order], y[order], kind[order]), of_first(z, y, kind), rtol=1e-6)
    rows = slow_rows(np.float64(z), y, kind, 2)
    np.testing.assert_allclose(of_first(z, y, kind), sum(value for value, _ in rows[:4]), rtol=1e-5)


@pytest.mark.parametrize("against", ["both", "other"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("case", ["visible alone", "nobody in both", "equal"])
def test_it_is_finite(case, reduction, against):
    z = np.ones((B, D)) / np.sqrt(D) if case == "equal" else drawn(0)
    modality = np.zeros(B, np.int32) if case == "visible alone" else MODALITY
    y = MODALITY if case == "nobody in both" else identities(0)
    value, gradient = fast(np.float32(z), y, modality, hardest=2, against=against, reduction=reduction)
    assert np.isfinite(gradient).all()
    if case == "equal":
        np.testing.assert_allclose(value, slow(z, y, modality, 2, against, reduction)[0], rtol=1e-4)
    else:
        assert value == 0
        np.testing.assert_array_equal(gradient, 0)


def test_half_precision_is_computed_in_float32():
    z, y = jnp.asarray(drawn(1), jnp.bfloat16), identities(1)
    value = hardest_positives(z, y, MODALITY, hardest=2)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, slow(np.asarray(z, np.float64), y, MODALITY, 2)[0], rtol=1e-5)


def test_the_temperature_divides():
    z, y = np.float32(drawn(2)), identities(2)
    hot = functools.partial(hardest_positives, jnp.asarray(z), y, MODALITY, hardest=2)
    np.testing.assert_allclose(hot(), hot(temperature=TAU))
    assert float(hot(temperature=1.0)) < float(hot())
