"""CMAlign against loops in float64, the released figures, and what matching positions must do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saai_jax.losses import triplet
from saai_jax.models import cmalign
from saai_jax.systems import lba
from tests.golden_files import load
from tests.systems.originals import of

SEEDS = st.integers(0, 2**31)
quick = settings(deadline=None, max_examples=20)
B, H, W, C = 4, 3, 2, 5
MARGIN = 0.3


def maps(seed, *shape):
    """Maps after a ReLU, one position without any value."""
    x = np.maximum(np.random.default_rng(seed).standard_normal(shape or (B, H, W, C)), 0).astype(np.float32)
    x[0, 0, 0] = 0
    return x


def slow_minmax(x):
    x = x - x.min()
    return x / (x.max() + 1e-12)


def slow_mask(image):
    return slow_minmax(np.array([np.sqrt((f**2).sum()) for f in image]))


def slow_matches(image, target):
    """Of every position: cosines, and their softmax with beta = 50."""
    unit = lambda f: f / max(np.sqrt((f**2).sum()), 1e-12)  # noqa: E731
    cosine = np.array([[unit(f) @ unit(g) for g in target] for f in image])
    return cosine, np.array([np.exp(50 * (row - row.max())) / np.exp(50 * (row - row.max())).sum() for row in cosine])


def slow_align(x, positive, negative, frozen=None):
    """The published module on maps f64[b n c]: reconstruction, dense triplet, co-attention, mask.

    frozen: masks and co-attentions, which pass no gradient, in the place of those of x.
    """
    masks = [slow_mask(image) for image in x] if frozen is None else frozen[0]
    found = []
    for i, image in enumerate(x):
        made = []
        for j in (positive[i], negative[i]):
            probability = slow_matches(image, x[j])[1]
            warped = [sum(p * g for p, g in zip(row, x[j], strict=True)) for row in probability]
            made.append([m * w + (1 - m) * f for m, w, f in zip(masks[i], warped, image, strict=True)])
            if j == positive[i]:
                shared = slow_minmax(np.array([m * (p @ masks[j]) for m, p in zip(masks[i], probability, strict=True)]))
        far, near = (
            np.array([np.sqrt(((f - g + 1e-6) ** 2).sum()) for f, g in zip(image, other, strict=True)])
            for other in made
        )
        shared = shared if frozen is None else frozen[1][i]
        found.append((made[0], np.maximum(far - near + MARGIN, 0), shared, masks[i]))
    return [np.array(figures) for figures in zip(*found, strict=True)]


def slow_weighted(loss, shared, cross_batch):
    """The mean over positions of each image, or of all pairs of images."""
    pairs = [(a, b) for a in range(len(loss)) for b in range(len(loss)) if cross_batch or a == b]
    return np.mean([shared[a] * loss[b] for a, b in pairs])


def flat(x):
    return np.float64(x).reshape(len(x), -1, x.shape[-1])


ALIGN = jax.jit(functools.partial(lba.align, margin=MARGIN))
POSITIVE, NEGATIVE = np.array([2, 3, 0, 1]), np.array([3, 2, 1, 0])


@quick
@given(SEEDS)
def test_aligning_is_the_loop(seed):
    x = maps(seed)
    found, expected = ALIGN(x, POSITIVE, NEGATIVE), slow_align(flat(x), POSITIVE, NEGATIVE)
    for ours, theirs in zip(found, expected, strict=False):
        np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, atol=2e-5)
    np.testing.assert_allclose(cmalign.mask(x).reshape(B, -1), expected[3], atol=1e-6)
    for cross_batch in (False, True):
        value = triplet.attended(found.triplet, found.coattention, cross_batch=cross_batch)
        np.testing.assert_allclose(value, slow_weighted(*expected[1:3], cross_batch), rtol=1e-4)


@pytest.mark.parametrize("cross_batch", [False, True])
def test_the_gradient_is_the_loops_with_masks_and_coattention_fixed(cross_batch):
    x = maps(1) + np.float32(0.1)  # no zero norm, which has no derivative

    def loss(x):
        found = ALIGN(x, POSITIVE, NEGATIVE)
        return triplet.attended(found.triplet, found.coattention, cross_batch=cross_batch)

    gradient = np.float64(jax.grad(loss)(x)).reshape(B, -1, C)
    _, _, shared, masks = slow_align(flat(x), POSITIVE, NEGATIVE)

    def slow(x):
        return slow_weighted(*slow_align(x, POSITIVE, NEGATIVE, (masks, shared))[1:3], cross_batch)

    for along in np.random.default_rng(0).standard_normal((3, *gradient.shape)):
        numerical = (slow(flat(x) + 1e-6 * along) - slow(flat(x) - 1e-6 * along)) / 2e-6
        np.testing.assert_allclose((gradient * along).sum(), numerical, rtol=1e-3, atol=1e-5)


@quick
@given(SEEDS)
def test_what_is_permuted_is_permuted_everywhere(seed):
    x, y = maps(seed), maps(seed + 1)
    s, t = (np.random.default_rng(seed + n).permutation(H * W) for n in (2, 3))
    moved, target = (a.reshape(B, -1, C)[:, p].reshape(a.shape) for a, p in ((x, s), (y, t)))
    probability, other = cmalign.probability(x, y), cmalign.probability(moved, target)
    np.testing.assert_allclose(other, np.asarray(probability)[:, s][:, :, t], atol=1e-5)
    shown = cmalign.mask(x), cmalign.mask(y)
    for name, before, after in (
        ("warped", cmalign.warp(probability, y), cmalign.warp(other, target)),
        ("coattention", cmalign.coattention(probability, *shown), None),
    ):
        after = cmalign.coattention(other, cmalign.mask(moved), cmalign.mask(target)) if after is None else after
        before, after = (np.asarray(a).reshape(B, H * W, -1) for a in (before, after))
        np.testing.assert_allclose(after, before[:, s], atol=1e-5, err_msg=name)


def test_identical_images_match_position_by_position():
    x = np.random.default_rng(0).standard_normal((2, 6, 3, 64)).astype(np.float32)
    np.testing.assert_allclose(cmalign.probability(x, x), np.tile(np.eye(18), (2, 1, 1)), atol=1e-6)
    np.testing.assert_allclose(cmalign.warp(cmalign.probability(x, x), x), x, atol=1e-4)
    # of equal norms at most positions, both images show the whole of it
    shown = jnp.ones((2, 6, 3)).at[:, 0, 0].set(0)
    np.testing.assert_allclose(cmalign.coattention(cmalign.probability(x, x), shown, shown), shown, atol=1e-6)


def test_positions_outside_the_mask_stay_and_those_within_are_warped():
    x, warped = maps(0), maps(1)
    shown = jnp.zeros((B, H, W)).at[1].set(1)
    found = cmalign.reconstruct(x, warped, shown)
    np.testing.assert_array_equal(found[0], x[0])
    np.testing.assert_array_equal(found[1], warped[1])
    least = np.asarray(cmalign.mask(x + np.float32(1))) == 0
    aligned = np.asarray(ALIGN(x + np.float32(1), POSITIVE, NEGATIVE).reconstructed)
    assert least.sum() == B
    np.testing.assert_array_equal(aligned[least], x[least] + np.float32(1))


def test_masks_and_coattention_pass_no_gradient_and_values_are_from_0_to_1():
    x, y = maps(3), maps(4)
    probability = cmalign.probability(x, y)
    for found in (cmalign.mask(x), cmalign.coattention(probability, cmalign.mask(x), cmalign.mask(y))):
        np.testing.assert_allclose(found.min((1, 2)), 0)
        np.testing.assert_allclose(found.max((1, 2)), 1, rtol=1e-6)
    assert not jax.grad(lambda x: cmalign.mask(x).sum())(x).any()
    assert not jax.grad(lambda p: cmalign.coattention(p, cmalign.mask(x), cmalign.mask(y)).sum())(probability).any()


def test_maps_in_bfloat16_are_matched_in_float32():
    x = jnp.asarray(maps(5), jnp.bfloat16)
    found = ALIGN(x, POSITIVE, NEGATIVE)
    assert {figure.dtype for figure in found} == {jnp.dtype(jnp.float32)}
    for ours, exact in zip(found, slow_align(flat(np.float32(x)), POSITIVE, NEGATIVE), strict=False):
        np.testing.assert_allclose(ours.reshape(exact.shape), exact, atol=2e-5)


@pytest.fixture(scope="module")
def golden():
    return of(load("lba"), "cmalign/")


def drawn(seed):
    return np.random.RandomState(seed).standard_normal((24, 32, 6, 3)).astype(np.float32).transpose(0, 2, 3, 1)


def test_kernels_are_the_released_ones(golden):
    x, every = drawn(6), slice(None, None, 4)  # the figures are of every fourth image
    shown = cmalign.mask(x)
    for rows in ("pos", "neg"):
        target = x[golden[rows]]
        found = {"similarity": cmalign.similarity(x, target), "probability": cmalign.probability(x, target)}
        warped = cmalign.warp(found["probability"], target)
        reconstructed = cmalign.reconstruct(x, warped, shown)
        found |= {"warped": warped.transpose(0, 3, 1, 2), "reconstructed": reconstructed.transpose(0, 3, 1, 2)}
        for name, figure in found.items():
            np.testing.assert_allclose(figure[every], golden[f"{name}_{rows}"], atol=1e-5, err_msg=name)
    np.testing.assert_allclose(shown, golden["mask"], atol=1e-5)


@pytest.mark.parametrize("weighting", ["persample", "crossbatch"])
def test_losses_and_gradients_are_the_released_ones_with_both_weightings(golden, weighting):
    x, cross_batch = drawn(6), weighting == "crossbatch"

    def loss(x):
        found = ALIGN(x, golden["pos"], golden["neg"])
        return triplet.attended(found.triplet, found.coattention, cross_batch=cross_batch), found

    (value, found), gradient = jax.value_and_grad(loss, has_aux=True)(x)
    np.testing.assert_allclose(value, golden[f"{weighting}/loss"], atol=1e-5)
    np.testing.assert_allclose(gradient.transpose(0, 3, 1, 2)[:, ::4], golden[f"{weighting}/loss_grad"], atol=1e-5)
    np.testing.assert_allclose(found.triplet, golden["dense_triplet"], atol=1e-5)
    np.testing.assert_allclose(found.coattention, golden["coattention"], atol=1e-5)
    weighted = np.asarray(found.coattention)[:, None] * np.asarray(found.triplet)
    weighted = weighted[::4, ::4] if cross_batch else weighted[np.arange(24), np.arange(24)]
    np.testing.assert_allclose(weighted, golden[f"{weighting}/weighted"], atol=1e-5)


def test_the_reconstructions_gradient_is_the_released_one(golden):
    probe = drawn(7)
    gradient = jax.grad(lambda x: (ALIGN(x, golden["pos"], golden["neg"]).reconstructed * probe).sum())(drawn(6))
    gap = np.abs(gradient.transpose(0, 3, 1, 2)[:, ::4] - golden["reconstructed_grad"]).max()
    assert gap <= 1e-5 * np.abs(golden["reconstructed_grad"]).max()
