"""The ResNet against a naive numpy one with torchvision's padding."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saai_jax.models import backbone
from saai_jax.models.saai import SAAI
from tests.naive import slow_conv, slow_max_pool

EPS = 1e-5


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


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
