"""The ResNet against a naive numpy one with torchvision's padding, and the normalisations it is made of."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from saai_jax.models import backbone
from saai_jax.models.saai import SAAI

SEEDS = st.integers(0, 2**31)
quick = settings(deadline=None, max_examples=20)
EPS = 1e-5


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def windows(x, size, stride, pad, fill):
    """Every output place and the patch of the padded picture that it sees."""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=fill)
    rows, columns = ((n - size) // stride + 1 for n in x.shape[1:3])
    for i, j in itertools.product(range(rows), range(columns)):
        yield (i, j), (rows, columns), x[:, i * stride : i * stride + size, j * stride : j * stride + size]


def slow_conv(x, kernel, stride, pad):
    """Cross-correlation with the same zeros on all four sides, as torch.nn.Conv2d(..., padding=pad)."""
    out = None
    for (i, j), shape, patch in windows(x, len(kernel), stride, pad, 0.0):
        out = np.zeros((len(x), *shape, kernel.shape[3])) if out is None else out
        for image in range(len(x)):
            for channel in range(kernel.shape[3]):
                out[image, i, j, channel] = (patch[image] * kernel[..., channel]).sum()
    return out


def slow_max_pool(x, size, stride, pad):
    out = None
    for (i, j), shape, patch in windows(x, size, stride, pad, -np.inf):
        out = np.zeros((len(x), *shape, x.shape[3])) if out is None else out
        out[:, i, j] = patch.max((1, 2))
    return out


def slow_instance_norm(x):
    out = np.zeros(x.shape)
    for image, channel in itertools.product(range(x.shape[0]), range(x.shape[3])):
        one = np.float64(x[image, :, :, channel])
        out[image, :, :, channel] = (one - one.mean()) / np.sqrt(one.var() + EPS)
    return out


def slow_mam(x, p):
    """m = sigmoid(W2 relu(W1 GAP(x))), y = m x + (1 - m) IN(x)."""
    m = np.maximum(x.mean((1, 2)) @ p["squeeze"]["kernel"][0, 0], 0) @ p["excite"]["kernel"][0, 0]
    m = (1 / (1 + np.exp(-m)))[:, None, None]
    return m * x + (1 - m) * slow_instance_norm(x)


def slow_resnet(x, params, stats, stages, bottleneck, mam, stem_pool):
    """Evaluation mode, from the description of ResNet (v1 with the stride in the 3x3), last stride 1."""

    def norm(x, p, s):
        return (x - s["mean"]) / np.sqrt(s["var"] + EPS) * p["scale"] + p["bias"]

    def block(x, p, s, stride):
        sizes = (1, 3, 1) if bottleneck else (3, 3)
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        y = x
        for n, (size, step) in enumerate(zip(sizes, strides, strict=True), 1):
            y = norm(slow_conv(y, p[f"conv{n}"]["kernel"], step, size // 2), p[f"bn{n}"], s[f"bn{n}"])
            y = np.maximum(y, 0) if n < len(sizes) else y
        if "downsample_conv" in p:
            x = slow_conv(x, p["downsample_conv"]["kernel"], stride, 0)
            x = norm(x, p["downsample_bn"], s["downsample_bn"])
        return np.maximum(x + y, 0)

    x = np.maximum(norm(slow_conv(x, params["conv1"]["kernel"], 2, 3), params["bn1"], stats["bn1"]), 0)
    x = slow_max_pool(x, 3, 2, 1) if stem_pool else x
    for i, depth in enumerate(stages, 1):
        for j in range(depth):
            name = f"layer{i}_{j}"
            x = block(x, params[name], stats[name], 2 if j == 0 and i in (2, 3) else 1)
        x = slow_mam(x, params[f"mam{i}"]) if i in mam else x
    return x


def scattered(variables, seed):
    """Variables of the same shapes: kernels and scales of some size, running statistics that are not 0 and 1."""
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        x, name = random.standard_normal(leaf.shape), path[-1].key
        if name == "kernel":
            return np.float32(x / math.sqrt(math.prod(leaf.shape[:3])))
        return np.float32({"scale": 1 + 0.2 * x, "bias": 0.2 * x, "mean": 0.2 * x, "var": 0.5 + x**2}[name])

    return jax.tree_util.tree_map_with_path(draw, variables)


@pytest.mark.parametrize("size", [(24, 16), (21, 13)])  # odd sizes pad a strided convolution otherwise than even ones
@pytest.mark.parametrize(
    ("stages", "bottleneck", "mam", "stem_pool"), [((1, 2), True, (2,), True), ((1, 1, 1, 1), False, (), False)]
)
def test_resnet_is_the_naive_one(size, stages, bottleneck, mam, stem_pool):
    model = backbone.ResNet(stages, 4, bottleneck, mam, stem_pool)
    x = normal(0, 2, *size, 3)
    variables = scattered(jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False)), 1)
    found = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, x)
    params, stats = jax.tree.map(np.float64, (variables["params"], variables["batch_stats"]))
    expected = slow_resnet(np.float64(x), params, stats, stages, bottleneck, mam, stem_pool)
    assert found.shape == expected.shape
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def number(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_resnet_50_has_the_released_map_and_parameters():
    image = jax.ShapeDtypeStruct((2, 288, 144, 3), jnp.float32)
    for mam, parameters in (((), 23_508_032), ((3, 4), 24_163_392)):
        model = backbone.ResNet(mam=mam)
        variables = jax.eval_shape(lambda x, m=model: m.init(jax.random.key(0), x, train=False), image)
        assert number(variables["params"]) == parameters
        feature = jax.eval_shape(lambda v, x, m=model: m.apply(v, x, train=False), variables, image)
        assert feature.shape == (2, 18, 9, 2048)


def test_saai_has_the_released_parameters():
    model, modality = SAAI(395, mam=(3, 4)), np.arange(2)
    image = jax.ShapeDtypeStruct((2, 288, 144, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, modality), image)
    count = {name: number(tree) for name, tree in variables["params"].items()}
    assert count["backbone"] == 24_163_392
    assert count["safl"] == 346_112
    assert count["neck"] == 2 * 16_384  # scales; the released biases are frozen at 0
    assert [n for name, n in count.items() if name.endswith("classifier")] == [6_471_680] * 3
    assert sum(count.values()) == 43_957_312


def slow_batch_norm(x, scale, bias, mean, var, train):
    """torch.nn.BatchNorm2d, momentum 0.1: a biased variance divides, an unbiased one is remembered."""
    y, mean, var = np.zeros(x.shape), np.float64(mean), np.float64(var)
    for c in range(x.shape[3]):
        one = np.float64(x[..., c])
        m, v = (one.mean(), one.var()) if train else (mean[c], var[c])
        y[..., c] = (one - m) / np.sqrt(v + EPS) * scale[c] + bias[c]
        if train:
            mean[c] = 0.9 * mean[c] + 0.1 * one.mean()
            var[c] = 0.9 * var[c] + 0.1 * ((one - one.mean()) ** 2).sum() / (one.size - 1)
    return y, mean, var


batch_norm = jax.jit(backbone.batch_norm, static_argnames="train")


@pytest.mark.parametrize("train", [True, False])
@quick
@given(SEEDS, st.floats(0, 20))
def test_batch_norm_is_torchs(train, seed, offset):
    x = np.float32(offset + 3 * normal(seed, 2, 2, 3, 4))
    scale, bias, mean, var = (normal(seed + i, 4) for i in range(1, 5))
    y, running = batch_norm(x, scale, bias, mean, var**2, train=train)
    expected = slow_batch_norm(x, scale, bias, mean, var**2, train)
    for found, slow in zip((y, *running), expected, strict=True):
        np.testing.assert_allclose(found, slow, rtol=1e-3, atol=1e-4)


def test_batch_norm_gradients():
    x, scale, bias, weight = normal(0, 2, 2, 2, 3), normal(1, 3), normal(2, 3), normal(3, 2, 2, 2, 3)

    def loss(x, scale, bias):
        return (weight * batch_norm(x, scale, bias, np.zeros(3), np.ones(3), train=True)[0]).sum()

    check_grads(loss, (x, scale, bias), 1, modes=["rev"], atol=2e-2, rtol=2e-2, eps=1e-2)
    for gradient in jax.grad(loss, (0, 1))(jnp.ones_like(x), scale, bias):  # no variance
        assert np.isfinite(gradient).all()


def test_batch_norm_of_half_precision_keeps_full_statistics():
    x = jnp.asarray(3 + normal(0, 4, 8, 8, 2), jnp.bfloat16)
    scale, bias, mean, var = np.float32([[1, 2], [0, 1], [0, 0], [1, 1]])
    y, running = batch_norm(x, scale, bias, mean, var, train=True)
    assert y.dtype == jnp.bfloat16
    expected = slow_batch_norm(np.asarray(x, np.float32), scale, bias, mean, var, True)
    for found, slow in zip(running, expected[1:], strict=True):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, slow, rtol=1e-5)


def test_batch_norm_module_updates_statistics_only_in_training():
    x, module = 3 + normal(0, 2, 3, 3, 4), backbone.BatchNorm()
    variables = module.init(jax.random.key(0), x, train=True)
    for name, value in {"scale": 1, "bias": 0, "mean": 0, "var": 1}.items():
        np.testing.assert_array_equal((variables["params"] | variables["batch_stats"])[name], value)
    for train in (True, False):
        y, after = module.apply(variables, x, train=train, mutable="batch_stats")
        expected = slow_batch_norm(x, np.ones(4), *np.zeros((2, 4)), np.ones(4), train)
        found = y, after["batch_stats"]["mean"], after["batch_stats"]["var"]
        for one, slow in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, slow, rtol=1e-4, atol=1e-5)


@quick
@given(SEEDS)
def test_instance_norm_is_the_loop_and_forgets_scale_and_offset(seed):
    x = normal(seed, 2, 3, 4, 5)
    np.testing.assert_allclose(backbone.instance_norm(x), slow_instance_norm(x), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(backbone.instance_norm(50 * x + 7), backbone.instance_norm(x), atol=1e-3)


def test_instance_norm_of_a_flat_channel_is_zero_and_pulls_nowhere():
    flat = jnp.full((1, 2, 3, 2), 4.0)
    np.testing.assert_array_equal(backbone.instance_norm(flat), 0)
    assert np.isfinite(jax.grad(lambda x: (x * backbone.instance_norm(x)).sum())(flat)).all()
