"""The ResNet against a naive numpy one with torchvision's padding; its convolutions and pooling by themselves."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st

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


@pytest.fixture(params=["cpu", "native"])
def written_for(request, monkeypatch):
    """Both ways in which the backbone writes what it computes: a CPU's, and the others'."""
    monkeypatch.setattr(backbone, "on_cpu", lambda: request.param == "cpu")


@pytest.mark.usefixtures("written_for")
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize("shape", [(6, 4), (7, 5)])
def test_convolution_is_the_loop_with_its_gradients(size, stride, shape):
    x, kernel = normal(0, 2, *shape, 3), normal(1, size, size, 3, 4)
    expected = slow_conv(np.float64(x), np.float64(kernel), stride, size // 2)
    found = backbone.convolution(x, kernel, stride)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    # It is linear in both: what goes in and what comes out meet in the same sum.
    weight = normal(2, *expected.shape)
    gradients = jax.vjp(lambda x, k: backbone.convolution(x, k, stride), x, kernel)[1](weight)
    for side, gradient in zip((x, kernel), gradients, strict=True):
        np.testing.assert_allclose((side * gradient).sum(), (weight * expected).sum(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("channels", [(3, 4), (5, 2)])
def test_convolutions_for_a_cpu_have_the_gradients_of_the_others(monkeypatch, channels):
    x, kernel, weight = normal(0, 2, 5, 4, channels[0]), normal(1, 1, 1, *channels), normal(2, 2, 3, 2, channels[1])
    results = []
    for cpu in (True, False):
        monkeypatch.setattr(backbone, "on_cpu", lambda cpu=cpu: cpu)
        results.append(jax.vjp(lambda x, k: backbone.convolution(x, k, 2), x, kernel)[1](weight))
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("written_for")
@pytest.mark.parametrize("shape", [(6, 4), (7, 5), (1, 2)])
@pytest.mark.parametrize("levels", [None, 2])  # few levels: nearly every window has equal maxima
def test_max_pool_is_the_loop_and_the_first_maximum_has_the_gradient(shape, levels):
    x = normal(0, 2, *shape, 3)
    x = x if levels is None else np.float32(np.clip(np.round(x), 0, levels - 1))
    expected = slow_max_pool(np.float64(x), 3, 2, 1)
    np.testing.assert_array_equal(backbone.max_pool(x), expected)
    weight, gradient = normal(1, *expected.shape), np.zeros(x.shape)
    for b, i, j, c in np.ndindex(*expected.shape):
        rows, columns = (range(max(2 * k - 1, 0), min(2 * k + 2, n)) for k, n in zip((i, j), shape, strict=True))
        r, q = next((r, q) for r in rows for q in columns if x[b, r, q, c] == expected[b, i, j, c])
        gradient[b, r, q, c] += weight[b, i, j, c]
    np.testing.assert_allclose(jax.vjp(backbone.max_pool, x)[1](weight)[0], gradient, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("written_for")
def test_max_pool_hides_nothing_that_is_not_a_number():
    x = normal(0, 1, 5, 4, 1)
    for i, j in np.ndindex(5, 4):
        spoilt = x.copy()
        spoilt[0, i, j] = np.nan
        assert np.isnan(backbone.max_pool(spoilt)).any(), (i, j)


def test_max_pool_of_half_precision_keeps_it():
    x = jnp.asarray(normal(0, 2, 5, 4, 3), jnp.bfloat16)
    assert backbone.max_pool(x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(backbone.max_pool(x), slow_max_pool(np.float32(x), 3, 2, 1))
