"""Parts, patterns, generalised means and the two-modality neck against plain loops and the released figures."""

import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from saai_jax.models import heads
from tests.golden_files import load
from tests.tensors import tensor

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "kernels.npz")
SEEDS = st.integers(0, 2**31)
quick = settings(deadline=None, max_examples=20)
EPS, MOMENTUM = 1e-5, 0.9


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def released(name, *shape):
    """The stream that the golden figures' parameters were drawn from, by their PyTorch names."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)


def slow_safl(x, prototypes, position, aggregate_position):
    """Eq. 1 and 2; the released code aggregates the pixels without their position embedding."""
    x, prototypes, position = np.float64(x), np.float64(prototypes), np.float64(position)
    b, h, w, c = x.shape
    parts, similarity = np.zeros((b, len(prototypes), c)), np.zeros((b, len(prototypes), h * w))
    for image in range(b):
        for i in range(len(prototypes)):
            for j in range(h * w):
                pixel = x[image, j // w, j % w]
                similarity[image, i, j] = prototypes[i] @ (pixel + position[j])
                share = 1 / (1 + np.exp(-similarity[image, i, j]))
                parts[image, i] += share * (pixel + position[j] * aggregate_position) / (h * w)
    return parts, similarity


def slow_batch_norm(x, scale, mean, var, *, train):
    """torch.nn.BatchNorm1d without bias: outputs and the next mean and var; var is divided by n - 1."""
    x, scale, mean, var = (np.float64(a) for a in (x, scale, mean, var))
    if not train:
        return (x - mean) / np.sqrt(var + EPS) * scale, mean, var
    y = (x - x.mean(0)) / np.sqrt(x.var(0) + EPS) * scale
    if len(x) > 1:
        mean = MOMENTUM * mean + (1 - MOMENTUM) * x.mean(0)
        var = MOMENTUM * var + (1 - MOMENTUM) * x.var(0, ddof=1)
    return y, mean, var


def slow_neck(x, modality, scale, mean, var, *, train):
    """Two separate ones, each for the rows of its modality."""
    y, mean, var = np.zeros(x.shape), np.float64(mean), np.float64(var)
    for m in np.unique(modality):
        rows = modality == m
        y[rows], mean[m], var[m] = slow_batch_norm(x[rows], scale[m], mean[m], var[m], train=train)
    return y, mean, var


def neck_inputs(seed, b=8, d=5):
    scale, mean, var = 1 + 0.3 * normal(seed, 2, d), normal(seed + 1, 2, d), 0.5 + normal(seed + 2, 2, d) ** 2
    return 2 + 3 * normal(seed + 3, b, d), scale, mean, var


safl = jax.jit(heads.safl, static_argnames="aggregate_position")
neck = jax.jit(heads.modality_batch_norm, static_argnames="train")
train_or_not = pytest.mark.parametrize("train", [True, False])


def assert_neck_is_slow(x, modality, scale, mean, var, train):
    y, running = neck(x, modality, scale, mean, var, train=train)
    for found, expected in zip((y, *running), slow_neck(x, modality, scale, mean, var, train=train), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    return y, running


@pytest.mark.parametrize("aggregate_position", [False, True])
@quick
@given(SEEDS)
def test_safl_is_the_loop(aggregate_position, seed):
    x, prototypes, position = normal(seed, 2, 3, 4, 6), normal(seed + 1, 5, 6), normal(seed + 2, 12, 6)
    parts, similarity = safl(x, prototypes, position, aggregate_position=aggregate_position)
    slow_parts, slow_similarity = slow_safl(x, prototypes, position, aggregate_position)
    np.testing.assert_allclose(parts, slow_parts, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(similarity, slow_similarity, rtol=1e-4, atol=1e-5)


def test_safl_is_the_released_one():
    x = np.random.RandomState(4).standard_normal((2, 2048, 18, 9)).astype(np.float32).transpose(0, 2, 3, 1)
    prototypes = np.float32(released("part_tokens", 7, 2048) * np.sqrt(2 / 7))
    position = np.float32(released("pos_embeding", 162, 2048) * np.sqrt(2 / 162))
    parts, similarity = heads.safl(x, prototypes, position)
    # Inner products of 2048 terms, some 25 in size: a sigmoid near 0 is exact to 1e-4 of 1, not of itself.
    np.testing.assert_allclose(jax.nn.sigmoid(similarity), GOLDEN["safl/attention"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(parts.reshape(2, -1), GOLDEN["safl/parts"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("aggregate_position", [False, True])
def test_safl_gradients_are_the_numerical_ones(aggregate_position):
    arguments = normal(0, 2, 2, 3, 4), normal(1, 3, 4), normal(2, 6, 4)
    f = lambda *a: safl(*a, aggregate_position=aggregate_position)  # noqa: E731
    check_grads(f, arguments, 1, modes=["rev"], atol=1e-2, rtol=1e-2, eps=1e-2)


def test_safl_module_sizes_its_parameters_by_the_map_and_draws_them_as_released():
    x = normal(0, 2, 6, 3, 512)
    variables = heads.Safl(parts=4).init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables) == {"params": {"prototypes": (4, 512), "position": (18, 512)}}
    for value in variables["params"].values():
        np.testing.assert_allclose(value.std(), np.sqrt(2 / 512), rtol=0.1)
        assert abs(value.mean()) < 0.01
    for aggregate in (False, True):
        expected = heads.safl(x, **variables["params"], aggregate_position=aggregate)
        found = heads.Safl(4, aggregate).apply(variables, x)
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), found, expected)


@pytest.mark.parametrize("parts", [1, 2, 6, 9, 7, 5])
def test_stripes_are_adaptive_average_pooling(parts):
    x, h = normal(0, 2, 18, 3, 4), 18
    rows = [x[:, h * i // parts : int(np.ceil(h * (i + 1) / parts))] for i in range(parts)]
    expected = np.stack([np.float64(stripe).mean((1, 2)) for stripe in rows], 1)
    np.testing.assert_allclose(heads.stripes(x, parts), expected, rtol=1e-4, atol=1e-6)
    if h % parts == 0:
        np.testing.assert_allclose(heads.stripes(x, parts).mean(1), x.mean((1, 2)), atol=1e-6)


def slow_gem(x, power, eps=1e-12):
    out = np.zeros((len(x), x.shape[3]))
    for image, channel in np.ndindex(*out.shape):
        out[image, channel] = ((np.float64(x[image, :, :, channel]) ** power).mean() + eps) ** (1 / power)
    return out


@quick
@given(SEEDS, st.sampled_from([1.0, 2.5, 3.0]))
def test_gem_is_the_loop_between_mean_and_maximum(seed, power):
    x = np.maximum(normal(seed, 2, 3, 4, 5), 0)
    found = heads.gem(x, power)
    np.testing.assert_allclose(found, slow_gem(x, power), rtol=1e-5)
    assert (found >= x.mean((1, 2)) * (1 - 1e-5)).all()
    assert (found <= x.max((1, 2)) + 1.1e-12 ** (1 / power)).all()


def test_gem_gradients_are_the_numerical_ones_and_finite_where_all_is_zero():
    x = 0.5 + np.abs(normal(0, 2, 2, 3, 4))
    check_grads(heads.gem, (x,), 1, modes=["rev"], atol=1e-2, rtol=1e-2, eps=1e-2)
    np.testing.assert_array_equal(jax.grad(lambda x: heads.gem(x).sum())(np.zeros((1, 2, 2, 3), np.float32)), 0)


def drawn(seed, *shape):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def assert_close_to_scale(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_gem_is_the_released_one():
    golden, x = load("agw"), np.maximum(drawn(202, 2, 32, 6, 3), 0)
    x[1, 5] = 0
    y, pull = jax.vjp(heads.gem, x.transpose(0, 2, 3, 1))
    assert_close_to_scale(y, golden["gem/out"])
    assert_close_to_scale(pull(drawn(203, 2, 32))[0].transpose(0, 3, 1, 2), golden["gem/grad"])


def slow_patterns(x, logits):
    """[p1 ... pk, g]: means over all positions of mask x; the global mean is last."""
    b, h, w, c = x.shape
    pooled = np.zeros((b, logits.shape[3] + 1, c))
    for image, i, j in np.ndindex(b, h, w):
        for k, logit in enumerate([*np.float64(logits[image, i, j]), np.inf]):
            pooled[image, k] += x[image, i, j] / (1 + np.exp(-logit)) / (h * w)
    return pooled.reshape(b, -1)


@quick
@given(SEEDS)
def test_patterns_are_the_loop(seed):
    x, logits = normal(seed, 2, 3, 4, 6), normal(seed + 1, 2, 3, 4, 5)
    feature, mask = heads.patterns(x, logits)
    np.testing.assert_allclose(feature, slow_patterns(x, logits), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(mask[1, 2, 7], 1 / (1 + np.exp(-logits[1, 1, 3, 2])), rtol=1e-5)  # row-major


def test_patterns_gradients_are_the_numerical_ones():
    f = lambda *a: heads.patterns(*a)[0]  # noqa: E731
    check_grads(f, (normal(0, 2, 2, 3, 4), normal(1, 2, 2, 3, 5)), 1, modes=["rev"], atol=1e-2, rtol=1e-2, eps=1e-2)


def test_patterns_are_the_released_ones():
    golden, x = load("mpanet"), np.maximum(drawn(211, 2, 32, 6, 3), 0).transpose(0, 2, 3, 1)
    weight, bias = (
        np.float32(tensor(f"spatial_attention.{leaf}", shape))
        for leaf, shape in (("weight", (6, 32, 1, 1)), ("bias", (6,)))
    )
    masked = lambda x, weight, bias: heads.patterns(x, x @ weight[:, :, 0, 0].T + bias)[0]  # noqa: E731
    y, pull = jax.vjp(masked, x, weight, bias)
    to_x, to_weight, to_bias = pull(drawn(212, 2, 224))
    assert_close_to_scale(y, golden["pattern/out"])
    assert_close_to_scale(to_x.transpose(0, 3, 1, 2), golden["pattern/grad_input"])
    assert_close_to_scale(to_weight, golden["pattern/grad_weight"])
    assert_close_to_scale(to_bias, golden["pattern/grad_bias"])


@train_or_not
@quick
@given(SEEDS, st.lists(st.integers(0, 1), min_size=8, max_size=8))
def test_neck_of_any_mix_is_two_batch_norms(train, seed, modality):
    x, scale, mean, var = neck_inputs(seed)
    assert_neck_is_slow(x, np.array(modality), scale, mean, var, train)


@train_or_not
def test_neck_keeps_the_statistics_of_an_absent_modality_and_of_a_single_row(train):
    x, scale, mean, var = neck_inputs(0)
    for modality in (np.zeros(8, int), np.array([0, 0, 0, 1, 0, 0, 0, 0])):
        y, running = assert_neck_is_slow(x, modality, scale, mean, var, train)
        for found, old in zip(running, (mean, var), strict=True):
            np.testing.assert_array_equal(found[1], old[1])
            assert train == (np.abs(found[0] - old[0]).min() > 1e-4)
        if train:
            np.testing.assert_array_equal(np.asarray(y)[modality == 1], 0)  # a row alone is its own mean


def test_neck_gradients_are_finite_in_any_mix_and_the_numerical_ones():
    x, scale, mean, var = neck_inputs(1)
    weight = normal(9, 8, 5)
    for modality in (np.arange(8) % 2, np.zeros(8, int), np.arange(8) // 7):

        def loss(x, scale, modality=modality):
            return (weight * neck(x, modality, scale, mean, var, train=True)[0]).sum()

        check_grads(loss, (x, scale), 1, modes=["rev"], atol=2e-2, rtol=2e-2, eps=1e-2)
        to_scale = jax.grad(loss, 1)(x, scale)
        assert np.isfinite(to_scale).all()
        assert (np.abs(to_scale).max(1) > 0).tolist() == [(modality == m).sum() > 1 for m in (0, 1)]
    same = jax.grad(lambda x: (weight * neck(x, np.arange(8) % 2, scale, mean, var, train=True)[0]).sum())
    assert np.isfinite(same(np.ones((8, 5), np.float32))).all()  # no variance at all


def test_neck_is_the_released_one():
    x = np.random.RandomState(5).standard_normal((10, 96)).astype(np.float32)
    modality = np.isin(np.arange(10), [2, 4, 5, 8]).astype(np.int32)
    draw = lambda leaf: np.float32([released(f"bn_neck.bn_neck_{m}.{leaf}", 96) for m in "vi"])  # noqa: E731
    scale, mean, var = (
        1 + 0.1 * draw("weight"),
        0.1 * draw("running_mean"),
        1 + 0.1 * np.abs(draw("running_var")),
    )
    y, running = neck(x, modality, scale, mean, var, train=True)
    np.testing.assert_allclose(y, GOLDEN["neck/train"], rtol=1e-4, atol=1e-5)
    for m, name in enumerate(("visible", "infrared")):
        np.testing.assert_allclose(running[0][m], GOLDEN[f"neck/{name}_mean"], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(running[1][m], GOLDEN[f"neck/{name}_var"], rtol=1e-4, atol=1e-6)
    y, _ = neck(x, modality, scale, *running, train=False)
    np.testing.assert_allclose(y, GOLDEN["neck/eval_after"], rtol=1e-4, atol=1e-5)


def test_neck_module_starts_neutral_and_updates_statistics_only_in_training():
    x, modality = 3 + normal(0, 6, 4), np.arange(6) % 2
    module = heads.ModalityBatchNorm()
    variables = module.init(jax.random.key(0), x, modality, train=True)
    start = {"scale": np.ones((2, 4)), "mean": np.zeros((2, 4)), "var": np.ones((2, 4))}
    for name, value in start.items():
        np.testing.assert_array_equal((variables["params"] | variables["batch_stats"])[name], value)
    y, after = module.apply(variables, x, modality, train=True, mutable="batch_stats")
    expected = slow_neck(x, modality, **start, train=True)
    for found, slow in zip((y, after["batch_stats"]["mean"], after["batch_stats"]["var"]), expected, strict=True):
        np.testing.assert_allclose(found, slow, rtol=1e-4, atol=1e-5)
    y, after = module.apply(variables, x, modality, train=False, mutable="batch_stats")
    np.testing.assert_allclose(y, x / np.sqrt(1 + EPS), rtol=1e-5)
    np.testing.assert_array_equal(after["batch_stats"]["mean"], 0)


@train_or_not
def test_pcb_is_the_loop(train):
    """Each of six stripes alone: pooled, reduced, normalised with its own statistics, classified."""
    x, module = np.abs(normal(0, 5, 12, 3, 4)), heads.Stripes(identities=7, width=3)
    variables = jax.tree.map(np.array, dict(module.init(jax.random.key(0), x, False)))
    assert variables["params"]["reduce5"]["kernel"].shape == (4, 3)
    for name, of in variables["params"].items():
        for leaf in of:
            of[leaf] = 0.5 * released(f"{name}/{leaf}", *of[leaf].shape) + (leaf == "scale")
    for name, of in variables["batch_stats"].items():
        of.update(mean=released(f"{name}/mean", 3), var=0.5 + released(f"{name}/var", 3) ** 2)
    (pooled, reduced, logits), after = module.apply(
        jax.tree.map(np.float32, variables), x, train, mutable=["batch_stats"]
    )
    assert (pooled.shape, reduced.shape, logits.shape) == ((5, 6, 4), (5, 18), (5, 6, 7))
    for i in range(6):
        reduce, norm, classifier = (variables["params"][f"{name}{i}"] for name in ("reduce", "bn", "classifier"))
        running = variables["batch_stats"][f"bn{i}"]
        stripe = np.float64(x[:, 2 * i : 2 * i + 2]).mean((1, 2))
        h, mean, var = slow_batch_norm(stripe @ reduce["kernel"], norm["scale"], **running, train=train)
        h = np.maximum(h + norm["bias"], 0)
        for found, wanted in (
            (pooled[:, i], stripe),
            (reduced[:, 3 * i : 3 * i + 3], h),
            (logits[:, i], h @ classifier["kernel"] + classifier["bias"]),
            (after["batch_stats"][f"bn{i}"]["mean"], mean),
            (after["batch_stats"][f"bn{i}"]["var"], var),
        ):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
