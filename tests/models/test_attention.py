"""Attention blocks against loops and the released figures; instance normalisation. MAM's loop is in the ResNet's."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from saai_jax.models.attention import Miim, ModalityAttention, NonLocal, region_interaction
from saai_jax.models.normalisation import instance_norm
from saai_jax.models.resnet import conv
from saai_jax.weights.names import Names, from_torch, to_torch
from tests.golden_files import load
from tests.models.test_resnet import normal, number, scattered, slow_batch_norm, slow_conv, slow_instance_norm
from tests.tensors import tensor

SEEDS = st.integers(0, 2**31)
quick = settings(deadline=None, max_examples=20)


@quick
@given(SEEDS)
def test_instance_norm_is_the_loop_and_forgets_scale_and_offset(seed):
    x = normal(seed, 2, 3, 4, 5)
    np.testing.assert_allclose(instance_norm(x), slow_instance_norm(x), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(instance_norm(50 * x + 7), instance_norm(x), atol=1e-3)


def test_instance_norm_of_a_flat_channel_is_zero_and_pulls_nowhere():
    flat = jnp.full((1, 2, 3, 2), 4.0)
    np.testing.assert_array_equal(instance_norm(flat), 0)
    assert np.isfinite(jax.grad(lambda x: (x * instance_norm(x)).sum())(flat)).all()


def slow_non_local(x, params, stats, train):
    """z = x + BN(W y), y_i the mean over positions j of theta_i phi_j g_j; and the next statistics."""
    b, h, w, _ = x.shape
    linear = lambda name, x: x @ params[name]["kernel"][0, 0] + params[name]["bias"]  # noqa: E731
    y = np.zeros((b, h * w, 1))
    for image in range(b):
        theta, phi, g = (linear(name, x[image].reshape(h * w, -1))[:, 0] for name in ("theta", "phi", "g"))
        for i in range(h * w):
            y[image, i] = sum(theta[i] * phi[j] * g[j] for j in range(h * w)) / (h * w)
    bn = params["bn"]["scale"], params["bn"]["bias"], stats["bn"]["mean"], stats["bn"]["var"]
    normalised, mean, var = slow_batch_norm(linear("w", y).reshape(x.shape), *bn, train)
    return x + normalised, mean, var


NON_LOCAL = NonLocal(conv)
VARIABLES = jax.eval_shape(lambda: NON_LOCAL.init(jax.random.key(0), jnp.zeros((1, 2, 3, 4)), False))
non_local = jax.jit(lambda v, x, train: NON_LOCAL.apply(v, x, train, mutable="batch_stats"), static_argnames="train")


@pytest.mark.parametrize("train", [True, False])
@quick
@given(SEEDS)
def test_non_local_is_the_loop_over_pairs_of_positions(train, seed):
    x, variables = normal(seed, 2, 3, 2, 4), scattered(VARIABLES, seed)
    y, after = non_local(variables, x, train=train)
    params, stats = jax.tree.map(np.float64, (variables["params"], variables["batch_stats"]))
    expected = slow_non_local(np.float64(x), params, stats, train)
    assert np.abs(expected[0] - x).max() > 0.01
    for found, slow in zip(
        (y, after["batch_stats"]["bn"]["mean"], after["batch_stats"]["bn"]["var"]), expected, strict=True
    ):
        np.testing.assert_allclose(found, slow, rtol=1e-3, atol=1e-4)
    turned, _ = non_local(variables, x[::-1, ::-1, ::-1], train=train)  # no position is before another
    np.testing.assert_allclose(turned[::-1, ::-1, ::-1], y, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("train", [True, False])
def test_non_local_gradients_are_the_numerical_ones(train):
    x, weight, variables = normal(0, 2, 2, 2, 4), normal(1, 2, 2, 2, 4), scattered(VARIABLES, 2)

    def loss(params, x):
        return (weight * non_local({**variables, "params": params}, x, train=train)[0]).sum()

    check_grads(loss, (variables["params"], x), 1, modes=["rev"], atol=2e-2, rtol=2e-2, eps=1e-2)


def test_non_local_starts_as_the_identity_with_torchs_weights():
    x = normal(0, 2, 6, 3, 512)
    variables = NON_LOCAL.init(jax.random.key(0), x, True)
    np.testing.assert_array_equal(non_local(variables, x, train=True)[0], x)
    params = variables["params"]
    np.testing.assert_array_equal(params["bn"]["scale"], 0)
    for name, bound in {"theta": 512**-0.5, "phi": 512**-0.5, "g": 512**-0.5, "w": 1}.items():
        kernel = np.abs(params[name]["kernel"])
        np.testing.assert_allclose([kernel.max(), kernel.mean()], [bound, bound / 2], rtol=0.1, err_msg=name)
        assert 0 < np.abs(params[name]["bias"]).max() <= bound


def original(init, table, draw):
    """The block's system, as far as names go, and its variables by the original's names."""
    system = types.SimpleNamespace(names=Names(table=table))
    shapes = jax.eval_shape(init, jax.random.key(0))
    empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    tensors = {name: draw(name, array.shape) for name, array in to_torch(system, empty).items()}
    return system, from_torch(tensors, system, empty)


def drawn(seed):
    """A map of the originals, as ours."""
    return np.random.RandomState(seed).standard_normal((2, 32, 6, 3)).astype(np.float32).transpose(0, 2, 3, 1)


def assert_like(found, golden, prefix):
    """Each array to 1e-5 of its scale."""
    for name, array in found.items():
        expected = golden[f"{prefix}{name}"]
        bound = (1e-4 if name == "grad/W.0.weight" and "train" in prefix else 1e-5) * np.abs(expected).max()
        np.testing.assert_allclose(array, expected, rtol=0, atol=bound, err_msg=prefix + name)


def test_non_local_is_the_released_one():
    """In evaluation, in training, and in evaluation with the statistics of that step."""

    def draw(name, shape):
        quarter = name.endswith(("theta.weight", "phi.weight", "g.0.weight"))
        return tensor(name, shape).astype(np.float32) * np.float32(0.25 if quarter else 1)

    golden, x, cotangent = load("agw"), drawn(204), drawn(205)
    table = (("(theta|phi)", r"NL.\1"), ("g", "NL.g.0"), ("w", "NL.W.0"), ("bn", "NL.W.1"))
    system, variables = original(lambda key: NON_LOCAL.init(key, x, False), table, draw)
    stats = variables["batch_stats"]
    for phase in ("eval", "train", "eval_after"):
        run = functools.partial(non_local, train=phase == "train")
        y, pull, after = jax.vjp(run, {**variables, "batch_stats": stats}, x, has_aux=True)
        to_variables, to_x = pull(cotangent)
        found = {"out": y.transpose(0, 3, 1, 2), "grad_input": to_x.transpose(0, 3, 1, 2)}
        if phase != "eval_after":
            gradients = to_torch(system, {"params": to_variables["params"]})
            found |= {name.replace("NL.", "grad/"): array for name, array in gradients.items()}
        if phase == "train":
            stats, found = after["batch_stats"], {k: v for k, v in found.items() if k != "grad/W.0.bias"}  # zero
            running = {n.removeprefix("NL."): a for n, a in to_torch(system, {"batch_stats": stats}).items()}
            assert_like(running, golden, "nonlocal/after/")
        assert_like(found, golden, f"nonlocal/{phase}/")


def test_modality_attention_is_the_released_one():
    golden, x, cotangent = load("mpanet"), drawn(220), drawn(221)
    table = (("squeeze", "MAM.channel_attention.0"), ("excite", "MAM.channel_attention.2"))
    block = ModalityAttention(conv)
    system, variables = original(
        lambda key: block.init(key, x), table, lambda *which: tensor(*which).astype(np.float32)
    )
    y, pull = jax.vjp(block.apply, variables, x)
    to_params, to_x = pull(cotangent)
    found = {"out": y.transpose(0, 3, 1, 2), "grad_input": to_x.transpose(0, 3, 1, 2)}
    gradients = to_torch(system, to_params)
    assert_like(found | {n.replace("MAM.", "grad/"): a for n, a in gradients.items()}, golden, "mam/")


def slow_interaction(query, key, value, heads):
    """softmax(q k / sqrt(d / heads)) v of each image and head."""
    found, weights = np.zeros(query.shape), np.zeros((len(query), heads, query.shape[1], key.shape[1]))
    width = query.shape[2] // heads
    for b, h, i in np.ndindex(*weights.shape[:3]):
        part = slice(h * width, (h + 1) * width)
        score = np.array([query[b, i, part] @ k / np.sqrt(width) for k in key[b, :, part]])
        weight = np.exp(score - score.max()) / np.exp(score - score.max()).sum()
        weights[b, h, i], found[b, i, part] = weight, weight @ value[b, :, part]
    return found, weights


@pytest.mark.parametrize("heads", [1, 3])
def test_region_interaction_is_the_loop_and_its_gradient_that_of_the_loop(heads):
    given = [2 * normal(seed, 2, n, 6) for seed, n in enumerate((5, 4, 4))]
    weight, interact = normal(9, 2, 5, 6), jax.jit(region_interaction, static_argnums=3)
    for found, slow in zip(interact(*given, heads), slow_interaction(*map(np.float64, given), heads), strict=True):
        np.testing.assert_allclose(found, slow, rtol=1e-5, atol=1e-6)
    gradients = jax.grad(lambda *a: (weight * region_interaction(*a, heads)[0]).sum(), (0, 1, 2))(*given)
    for which, gradient in enumerate(gradients):
        along = np.random.default_rng(which).standard_normal(gradient.shape)
        ends = []
        for step in (1e-5, -1e-5):
            moved = [np.float64(x) + (step * along if n == which else 0) for n, x in enumerate(given)]
            ends.append((weight * slow_interaction(*moved, heads)[0]).sum())
        np.testing.assert_allclose((gradient * along).sum(), (ends[0] - ends[1]) / 2e-5, rtol=1e-4, atol=1e-5)


def slow_miim(x, params, stats, module, train, rows=slice(None)):
    """Compressed, normalised, attention, restored and fused; how much is looked at; the next mean and variance."""

    def linear(y, name):
        return y @ params[name]["kernel"][0, 0] + params[name].get("bias", 0)

    def batch_norm(y):
        c = y.shape[3]
        normalised, mean, var = slow_batch_norm(y[rows], np.ones(c), np.zeros(c), stats["mean"], stats["var"], train)
        if train:  # the other rows, which nobody reads, by the same statistics
            m, v = y[rows].mean((0, 1, 2)), y[rows].var((0, 1, 2))
            return (y - m) / np.sqrt(v + 1e-5), (mean, var)
        return normalised, (mean, var)

    def layer_norm(y):
        y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
        return y * params["norm"]["scale"] + params["norm"]["bias"]

    moved, k = None, module.kernel
    y, moved = batch_norm(x) if module.norm == "input" else (x, moved)
    y = slow_conv(y, params["compress"]["kernel"], k, 0) + params["compress"]["bias"]
    y, moved = batch_norm(y) if module.norm == "compressed" else (y, moved)
    b, h, w, d = y.shape
    side = module.region if module.keys == "pooled" else 1
    regions = [
        [y[:, i : i + side, j : j + side].mean((1, 2)) for j in range(0, w, side)] for i in range(0, h, side)
    ]  # the last ones may be cut
    pooled = np.stack([region for row in regions for region in row], 1)
    query = linear(layer_norm(y), "query").reshape(b, h * w, d)
    key, value = np.split(linear(layer_norm(pooled), "key_value"), 2, -1)
    found, weight = slow_interaction(query, key, value, module.heads)
    z = linear(linear(found.reshape(y.shape), "project"), "restore")
    z = 1 / (1 + np.exp(-z)) if module.fusion == "multiply-sigmoid" else z
    out, looked = np.zeros(x.shape), np.zeros((b, h, w))
    for i, j in np.ndindex(*x.shape[1:3]):
        here = z[:, i // k, j // k]
        out[:, i, j] = np.maximum(x[:, i, j] + here if module.fusion == "add" else x[:, i, j] * here, 0)
    for i, j in np.ndindex(h, w):
        looked[:, i, j] = weight[..., i // side * -(-w // side) + j // side].mean((1, 2)) * weight.shape[-1]
    return (out, looked), moved


MIIMS = {
    "block 1": Miim(conv, 2, 2, 2),
    "block 3": Miim(conv, 2, 1, 4),
    "self": Miim(conv, 4, 2, 1, keys="self"),
    "multiply, input": Miim(conv, 2, 2, 2, fusion="multiply", norm="input"),
    "add, none": Miim(conv, 2, 1, 2, region=3, fusion="add", norm="none"),
}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", MIIMS)
def test_miim_is_the_loop(name, train):
    """With some rows' statistics, of maps whose windows are cut at the end."""
    module, x = MIIMS[name], np.abs(normal(0, 4, 6, 4, 8))
    rows = np.array([True, False, True, True])
    variables = scattered(jax.eval_shape(lambda: module.init(jax.random.key(0), x, False)), 1)
    params = jax.tree.map(np.float64, variables["params"])
    stats = jax.tree.map(np.float64, variables.get("batch_stats", {"bn": {}}))["bn"]
    assert ("batch_stats" in variables) == (module.norm != "none")
    assert "bn" not in params
    (y, looked), after = module.apply(variables, x, train, rows, mutable="batch_stats")
    expected, moved = slow_miim(np.float64(x), params, stats, module, train, rows if train else slice(None))
    np.testing.assert_allclose(y, expected[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(looked, expected[1], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(looked.mean((1, 2)), 1, rtol=0.5)
    if moved:
        running = after["batch_stats"]["bn"]
        np.testing.assert_allclose([running["mean"], running["var"]], moved, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["block 1", "multiply, input"])
def test_miim_gradients_are_the_numerical_ones(name):
    module, x = MIIMS[name], np.abs(normal(0, 2, 4, 2, 8)) + 0.1
    variables, weight = (
        scattered(jax.eval_shape(lambda: module.init(jax.random.key(0), x, False)), 1),
        normal(2, *x.shape),
    )

    def loss(params, x):
        (y, _), _ = module.apply({**variables, "params": params}, x, True, mutable="batch_stats")
        return (weight * y).sum()

    check_grads(jax.jit(loss), (variables["params"], x), 1, modes=["rev"], atol=3e-2, rtol=3e-2, eps=3e-3)


# Of the third party's listing: channels, map of 384 x 128 pixels, compressed channels, kernel.
LISTED = {
    1: (256, (96, 32), 128, 4),
    2: (512, (48, 16), 256, 2),
    3: (1024, (24, 8), 256, 1),
    4: (2048, (24, 8), 512, 1),
}


@pytest.mark.parametrize("keys", ["pooled", "self"])
@pytest.mark.parametrize("block", LISTED)
def test_miim_has_the_listed_shapes_and_parameters(block, keys):
    """8 heads, 24 x 8 compressed positions: a convolution, LayerNorm, d -> 3d without bias, d -> d, d -> c."""
    c, (h, w), d, k = LISTED[block]
    module = Miim(conv, c // d, k, keys=keys)
    x = jax.ShapeDtypeStruct((2, h, w, c), jnp.float32)
    (y, looked), variables = jax.eval_shape(lambda x: module.init_with_output(jax.random.key(0), x, False), x)
    assert (y.shape, looked.shape) == (x.shape, (2, 24, 8))
    shapes = {name: leaf["kernel"].shape for name, leaf in variables["params"].items() if "kernel" in leaf}
    assert shapes == {
        "compress": (k, k, c, d),
        "query": (1, 1, d, d),
        "key_value": (1, 1, d, 2 * d),
        "project": (1, 1, d, d),
        "restore": (1, 1, d, c),
    }
    assert module.heads == 8
    assert number(variables["params"]) == (k * k * c * d + d) + 2 * d + 3 * d * d + (d * d + d) + (d * c + c)
    assert number(variables["params"]) == {1: 623_360, 2: 919_040, 3: 788_480, 4: 3_149_824}[block]
