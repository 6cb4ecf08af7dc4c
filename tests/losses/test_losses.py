"""Every loss against plain loops in float64, the released figures, and gradients where distances are zero."""

import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from saai_jax.losses import centres, common, identity
from saai_jax.losses.diversity import mask_separation, part_diversity
from saai_jax.systems.means import mean_classifiers
from tests.golden_files import load

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "kernels.npz")
B, K, D = 12, 5, 6
SEEDS = st.integers(0, 2**31)
quick = settings(deadline=None, max_examples=20)
MODALITY = np.arange(B) % 3 % 2  # 8 visible, 4 infrared


def normal(seed, *shape, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def identities(seed, n=K):
    return np.random.default_rng(seed).integers(0, n, B).astype(np.int32)


def probabilities(row):
    e = np.exp(np.float64(row) - row.max())
    return e / e.sum()


def mean(values):
    """0 of no values: a modality absent from a batch adds nothing."""
    return float(np.mean(values)) if len(values) else 0.0


def slow_shared(logits, y):
    return mean([-np.log(probabilities(row)[i]) for row, i in zip(logits, y, strict=True)])


def slow_specific(logits, y, modality):
    return sum(slow_shared(logits[modality == m], y[modality == m]) for m in (0, 1))


def slow_mutual(own, other, modality, variant):
    """Supplement, Eq. 3; the released code leaves the targets' entropy out and takes one mean over all rows."""
    rows = []
    for a, b in zip(own, other, strict=True):
        p, t = probabilities(a), probabilities(b)
        rows.append(sum(t[k] * (np.log(t[k]) * (variant == "paper") - np.log(p[k])) for k in range(len(p))))
    rows = np.array(rows)
    return mean(rows) if variant == "released" else sum(mean(rows[modality == m]) for m in (0, 1))


def slow_centre(feature, y, rho1, rho2):
    """Eq. 5."""
    feature = np.float64(feature)
    centre = {i: feature[y == i].mean(0) for i in np.unique(y)}
    gather = mean([max(0, np.linalg.norm(f - centre[i]) - rho1) for f, i in zip(feature, y, strict=True)])
    pairs = itertools.combinations(centre, 2)
    return gather + mean([max(0, rho2 - np.linalg.norm(centre[j] - centre[k])) for j, k in pairs])


def slow_diversity(similarity, variant):
    """Eq. 4 for each image, and the released form of it: root mean square, after the sigmoid."""
    total = []
    for maps in np.float64(similarity):
        if variant == "released":
            maps = 1 / (1 + np.exp(-maps))
        for i, j in itertools.combinations(range(len(maps)), 2):
            squares = (maps[i] - maps[j]) ** 2
            total.append(np.sqrt(squares.mean() if variant == "released" else squares.sum()))
    return -mean(total)


def slow_separation(mask):
    """MPANet: inner products of an image's masks, raw, a mean over images and pairs."""
    pairs = [(i, j) for i, j in itertools.combinations(range(mask.shape[1]), 2)]
    return mean([sum(a * b for a, b in zip(m[i], m[j], strict=True)) for m in np.float64(mask) for i, j in pairs])


def slow_divergence(own, other):
    """MPANet: sum p (log p - log q) of own p and the other modality's q, a mean over the batch."""
    rows = [(probabilities(a), probabilities(b)) for a, b in zip(own, other, strict=True)]
    return mean([(p * (np.log(p) - np.log(q))).sum() for p, q in rows])


specific = jax.jit(identity.specific_identity)
mutual = jax.jit(identity.mutual_identity, static_argnames="variant")
centre = jax.jit(centres.centre_separation)
diversity = jax.jit(part_diversity, static_argnames="variant")
both = pytest.mark.parametrize("variant", ["released", "paper"])


@quick
@given(SEEDS)
def test_identity_losses_are_the_loops(seed):
    logits, y, modality = normal(seed, B, K, scale=3), identities(seed), identities(seed + 1, 2)
    np.testing.assert_allclose(identity.shared_identity(logits, y), slow_shared(logits, y), rtol=1e-5)
    np.testing.assert_allclose(specific(logits, y, modality), slow_specific(logits, y, modality), rtol=1e-5)
    of_parts = normal(seed + 2, B, 3, K, scale=3)
    expected = sum(slow_shared(of_parts[:, i], y) for i in range(3))
    np.testing.assert_allclose(identity.shared_identity(of_parts, y), expected, rtol=1e-5)


@both
@quick
@given(SEEDS)
def test_mutual_identity_is_the_loop(variant, seed):
    own, other, modality = normal(seed, B, K, scale=3), normal(seed + 1, B, K, scale=3), identities(seed, 2)
    expected = slow_mutual(own, other, modality, variant)
    np.testing.assert_allclose(mutual(own, other, modality, variant=variant), expected, rtol=1e-5, atol=1e-6)


def test_logits_of_any_size_give_finite_losses():
    logits = np.float32([[1e4, -1e4, 0], [0, 1e4, -1e4]])
    y, modality = np.array([1, 1]), np.array([0, 1])
    assert float(identity.shared_identity(logits, y)) == 1e4  # (2e4 + 0) / 2
    for variant in ("released", "paper"):
        value, gradient = jax.value_and_grad(identity.mutual_identity)(logits, -logits, modality, variant=variant)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


def test_modality_losses_ignore_an_absent_modality_and_its_gradient_is_finite():
    own, other, y = normal(0, B, K), normal(1, B, K), identities(0)
    for modality in (np.zeros(B, int), np.ones(B, int)):
        value, gradient = jax.value_and_grad(identity.specific_identity)(own, y, modality)
        np.testing.assert_allclose(value, slow_shared(own, y), rtol=1e-5)
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0
        value, gradient = jax.value_and_grad(identity.mutual_identity)(own, other, modality, variant="paper")
        np.testing.assert_allclose(value, slow_mutual(own, other, modality, "paper"), rtol=1e-5)
        assert np.isfinite(gradient).all()


@both
def test_the_mean_classifiers_get_no_gradient_and_are_the_minimum(variant):
    own, other = normal(0, B, K), normal(1, B, K)
    to_own, to_other = jax.grad(identity.mutual_identity, (0, 1))(own, other, MODALITY, variant=variant)
    assert np.abs(to_own).max() > 1e-3
    np.testing.assert_array_equal(to_other, 0)
    at_target = jax.grad(identity.mutual_identity)(other, other, MODALITY, variant=variant)
    np.testing.assert_allclose(at_target, 0, atol=1e-7)


def test_printed_mutual_gradient_is_twice_the_released_one_when_balanced():
    own, other, modality = normal(2, B, K), normal(3, B, K), np.arange(B) % 2
    released, paper = (
        jax.grad(identity.mutual_identity)(own, other, modality, variant=v) for v in ("released", "paper")
    )
    np.testing.assert_allclose(paper, 2 * released, atol=1e-6)


@quick
@given(SEEDS, st.integers(1, K), st.sampled_from([0.2, 2.0]))
def test_centre_separation_is_eq_5_for_any_counts(seed, number, scale):
    feature, y = normal(seed, B, D, scale=scale), identities(seed, number)  # unequal counts, now and then one identity
    for rho1, rho2 in ((0.01, 0.7), (1.0, 5.0)):
        expected = slow_centre(feature, y, rho1, rho2)
        np.testing.assert_allclose(centre(feature, y, rho1=rho1, rho2=rho2), expected, rtol=2e-5, atol=1e-6)


@quick
@given(SEEDS)
def test_centre_separation_takes_any_order_of_rows_and_any_names(seed):
    feature, y = normal(seed, B, D), identities(seed)
    order = np.random.default_rng(seed).permutation(B)
    value = centre(feature, y, rho2=5.0)
    np.testing.assert_allclose(centre(feature[order], 100 - 7 * y[order], rho2=5.0), value, rtol=1e-5)


def test_centre_separation_is_the_released_one():
    feature, y = GOLDEN["cs/features"], GOLDEN["cs/identity"]
    value, gradient = jax.value_and_grad(centres.centre_separation)(feature, y, rho1=0.01, rho2=7.0)
    np.testing.assert_allclose(value, GOLDEN["cs/loss"], rtol=1e-5)
    np.testing.assert_allclose(gradient, GOLDEN["cs/gradient"], rtol=1e-4, atol=1e-6)
    assert slow_centre(feature, y, 0, 7.0) - slow_centre(feature, y, 0, 0) > 0.1  # the second term is really there


@pytest.mark.parametrize("seed", range(3))
def test_near_centres_far_from_the_origin_keep_their_distance(seed):
    """Norms of 2,000 and distances of 1.6: squares in float32 without a common origin would leave noise."""
    near = np.repeat(normal(seed, 6, 512, scale=0.05), 4, 0)
    feature, y = near + normal(seed + 9, 512, scale=100), np.repeat(np.arange(6), 4)
    expected = slow_centre(feature, y, 1.0, 2.0)
    assert 0.3 < expected < 0.5
    np.testing.assert_allclose(centre(feature, y, rho1=1.0, rho2=2.0), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("feature", "y"),
    [
        (np.ones((B, D)), np.arange(B)),  # every sample is its centre and all centres are one
        (np.repeat(normal(0, 3, D), 4, 0), np.repeat(np.arange(3), 4)),  # duplicates
        (np.tile(normal(1, 4, D), (3, 1)), np.repeat(np.arange(3), 4)),  # distinct samples, equal centres
        (normal(2, B, D), np.zeros(B, int)),  # one identity
        (np.zeros((B, D)), np.zeros(B, int)),
    ],
)
def test_centre_separation_has_a_finite_gradient_where_a_distance_is_zero(feature, y):
    feature = jnp.asarray(feature, jnp.float32)
    value, gradient = jax.value_and_grad(centres.centre_separation)(feature, y, rho1=0.0, rho2=0.7)
    # Distances of equal centres come from a Gram matrix: float32 leaves some 1e-3 of them.
    np.testing.assert_allclose(value, slow_centre(feature, y, 0.0, 0.7), atol=3e-3)
    assert np.isfinite(gradient).all()
    assert np.linalg.norm(gradient, axis=1).max() < 3  # at most 1/N to a centre and 2/M between centres, not 1/0


@both
@quick
@given(SEEDS)
def test_part_diversity_is_the_loop(variant, seed):
    similarity = normal(seed, 3, 4, 10, scale=2)
    np.testing.assert_allclose(diversity(similarity, variant=variant), slow_diversity(similarity, variant), rtol=1e-5)


@both
def test_part_diversity_with_equal_prototypes_or_one(variant):
    similarity = normal(0, 2, 3, 10)
    similarity[:, 1] = similarity[:, 0]
    value, gradient = jax.value_and_grad(part_diversity)(similarity, variant=variant)
    np.testing.assert_allclose(value, slow_diversity(similarity, variant), rtol=1e-5)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[:, 2]).min() > 0
    same = np.repeat(similarity[:, :1], 3, 1)
    np.testing.assert_array_equal(jax.grad(part_diversity)(same, variant=variant), 0)
    assert part_diversity(similarity[:, :1], variant=variant) == 0
    assert part_diversity(similarity[:, :0], variant=variant) == 0


@quick
@given(SEEDS, st.integers(1, 6))
def test_mask_separation_is_the_loop_in_any_order(seed, p):
    mask = np.random.default_rng(seed).random((3, p, 8), np.float32)
    value = mask_separation(mask)
    np.testing.assert_allclose(value, slow_separation(mask), rtol=1e-5)
    np.testing.assert_allclose(mask_separation(mask[::-1, ::-1, ::-1]), value, rtol=1e-5)
    overlapping = mask_separation(np.ones((2, p, 8), np.float32))
    np.testing.assert_allclose(overlapping, 8 if p > 1 else 0)  # a sum over positions, no mean


@quick
@given(SEEDS)
def test_mutual_divergence_is_the_loop_and_the_mean_classifiers_get_no_gradient(seed):
    own, other = normal(seed, B, K, scale=3), normal(seed + 1, B, K, scale=3)
    value = identity.mutual_divergence(own, other)
    np.testing.assert_allclose(value, slow_divergence(own, other), rtol=1e-5, atol=1e-6)
    to_own, to_other = jax.grad(identity.mutual_divergence, (0, 1))(own, other)
    assert np.abs(to_own).max() > 1e-3
    np.testing.assert_array_equal(to_other, 0)
    np.testing.assert_allclose(jax.grad(identity.mutual_divergence)(other, other), 0, atol=1e-7)


def test_mask_separation_is_the_released_one():
    golden = load("mpanet")
    logits = np.random.RandomState(210).standard_normal((4, 6, 6, 3)).astype(np.float32)
    half = lambda x: 0.5 * mask_separation(jax.nn.sigmoid(x).reshape(4, 6, -1))  # noqa: E731
    value, gradient = jax.value_and_grad(half)(logits)
    np.testing.assert_allclose(value, golden["separation/weighted"], rtol=1e-5)
    np.testing.assert_allclose(2 * value, golden["separation/loss"], rtol=1e-5)
    expected = golden["separation/grad_of_weighted"]
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("case", ["plain", "small", "mixed"])
def test_mpanets_centre_cluster_is_the_released_one(case):
    golden = load("mpanet")
    y = golden["centre/labels"]
    x, c = (
        np.random.RandomState(seed).standard_normal((n, 48)).astype(np.float32) for seed, n in ((213, 32), (214, 4))
    )
    small = np.float32(0.15) * x
    feature = {"plain": x, "small": small, "mixed": small + np.float32(0.05) * c[y]}[case]
    value, gradient = jax.value_and_grad(centres.centre_separation)(feature, y, rho1=0.0, rho2=0.7)
    np.testing.assert_allclose(value, golden[f"centre/{case}/loss"], rtol=1e-5)
    pull = centres.centre_separation(feature, y, rho1=0.0, rho2=-1.0)
    np.testing.assert_allclose(pull, golden[f"centre/{case}/pull"], rtol=1e-5)
    np.testing.assert_allclose(value - pull, golden[f"centre/{case}/push"], rtol=1e-5, atol=1e-5 * float(value))
    expected = golden[f"centre/{case}/grad"]
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_mpanets_mutual_learning_is_the_released_one():
    """The means move first; the divergence goes from a row's own modality to the other's mean classifier."""
    golden, y = load("mpanet"), np.repeat(np.arange(4), 4)
    modality = golden["mutual/infrared_rows"]
    drawn = [
        np.float32(0.3) * np.random.RandomState(s).standard_normal((12, 48)).astype(np.float32) for s in range(215, 219)
    ]
    feature = np.random.RandomState(219).standard_normal((16, 48)).astype(np.float32)
    kernels = [{"kernel": jnp.asarray(a.T)} for a in drawn]
    params = {"visible_classifier": kernels[0], "infrared_classifier": kernels[1]}
    means = mean_classifiers(params, {"visible": kernels[2], "infrared": kernels[3]}, 0.2)

    def own(params, feature):
        visible, infrared = (feature @ params[f"{m}_classifier"]["kernel"] for m in ("visible", "infrared"))
        return jnp.where(modality[:, None] == 0, visible, infrared)

    visible, infrared = (feature @ means[m]["kernel"] for m in ("visible", "infrared"))
    other = jnp.where(modality[:, None] == 0, infrared, visible)
    loss = lambda params, feature: identity.mutual_divergence(own(params, feature), other)  # noqa: E731
    value, (to_params, to_feature) = jax.value_and_grad(loss, (0, 1))(params, feature)
    np.testing.assert_allclose(value, golden["mutual/kl"], rtol=1e-5)
    both_entropies = golden["mutual/ce_visible"] + golden["mutual/ce_infrared"]
    np.testing.assert_allclose(identity.specific_identity(own(params, feature), y, modality), both_entropies, rtol=1e-5)
    found = {"kl_grad/features": to_feature}
    for m in ("visible", "infrared"):
        found[f"kl_grad/{m}_classifier"] = to_params[f"{m}_classifier"]["kernel"].T
        found[f"ema_after/{m}_classifier_"] = means[m]["kernel"].T
    for name, array in found.items():
        expected = golden[f"mutual/{name}"]
        np.testing.assert_allclose(array, expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=name)


def test_gradients_are_the_numerical_ones():
    logits, other, y = normal(4, B, K), normal(5, B, K), identities(4)
    feature, similarity = normal(6, B, D), normal(7, 2, 3, 8)

    def check(loss, at):
        check_grads(loss, (at,), 1, modes=["rev"], atol=1e-2, rtol=1e-2, eps=1e-2)

    check(lambda x: identity.shared_identity(x, y), logits)
    check(lambda x: identity.specific_identity(x, y, MODALITY), logits)
    check(lambda x: centres.centre_separation(x, y, rho1=0.01, rho2=20.0), feature)
    check(lambda x: identity.mutual_divergence(x, other), logits)
    check(mask_separation, similarity)
    for variant in ("released", "paper"):
        check(lambda x, v=variant: identity.mutual_identity(x, other, MODALITY, variant=v), logits)
        check(lambda x, v=variant: part_diversity(x, variant=v), similarity)


def test_safe_sqrt_and_masked_mean():
    value, gradient = jax.vmap(jax.value_and_grad(common.safe_sqrt))(jnp.array([4.0, 0.0, -1.0]))
    np.testing.assert_array_equal(value, [2, 0, 0])
    np.testing.assert_array_equal(gradient, [0.25, 0, 0])
    x, mask = jnp.array([1.0, 3.0, jnp.inf]), jnp.array([True, True, False])
    assert common.masked_mean(x, mask) == 2  # what is masked does not matter, not even infinity
    assert common.masked_mean(x, ~mask) == jnp.inf
    assert common.masked_mean(x, mask & False) == 0
