"""The ResNet, its BatchNorm and its pooling against naive NumPy ones with torch's numerics."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from saai_jax import parallel
from saai_jax.models import resnet
from saai_jax.models.normalisation import BatchNorm
from saai_jax.models.resnet import ResNet
from tests.naive import slow_conv, slow_max_pool

EPS = 1e-5
SEEDS = st.integers(0, 2**31)
quick = settings(deadline=None, max_examples=20)


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

    stem, of_stem = params["stem"], stats["stem"]
    x = np.maximum(norm(slow_conv(x, stem["conv1"]["kernel"], 2, 3), stem["bn1"], of_stem["bn1"]), 0)
    x = slow_max_pool(x, 3, 2, 1) if stem_pool else x
    for i, depth in enumerate(stages, 1):
        for j in range(depth):
            stage, name = f"layer{i}", f"block{j}"
            x = block(x, params[stage][name], stats[stage][name], 2 if j == 0 and i in (2, 3) else 1)
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
    model = ResNet(stages, 4, bottleneck, mam, stem_pool)
    x = normal(0, 2, *size, 3)
    variables = scattered(jax.eval_shape(lambda: model.init(jax.random.key(0), x, False)), 1)
    found = jax.jit(lambda v, x: model.apply(v, x, False))(variables, x)
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
        model = ResNet(mam=mam)
        variables = jax.eval_shape(lambda x, m=model: m.init(jax.random.key(0), x, False), image)
        assert number(variables["params"]) == parameters
        feature = jax.eval_shape(lambda v, x, m=model: m.apply(v, x, False), variables, image)
        assert feature.shape == (2, 18, 9, 2048)


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


@functools.partial(jax.jit, static_argnames="train")
def batch_norm(x, scale, bias, mean, var, *, train):
    """The result, and the next running mean and variance."""
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": var}}
    y, after = BatchNorm().apply(variables, x, train, mutable=["batch_stats"])
    return y, (after["batch_stats"]["mean"], after["batch_stats"]["var"])


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


def formula(x, scale, bias, weight):
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (weight * ((x - mean) / jnp.sqrt(var + EPS) * scale + bias)).sum()


def normalised(x, scale, bias, weight):
    return (weight * batch_norm(x, scale, bias, np.zeros(4), np.ones(4), train=True)[0]).sum()


gradients_of = [jax.jit(jax.grad(f, (0, 1, 2))) for f in (normalised, formula)]


@quick
@given(SEEDS, st.floats(0, 20))
def test_the_gradient_of_batch_norm_is_that_of_its_formula(seed, offset):
    x, weight = np.float32(offset + 3 * normal(seed, 3, 2, 3, 4)), normal(seed + 1, 3, 2, 3, 4)
    scale, bias = normal(seed + 2, 4), normal(seed + 3, 4)
    for found, expected in zip(*(f(x, scale, bias, weight) for f in gradients_of), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_batch_norm_of_half_precision_keeps_full_statistics():
    x = jnp.asarray(3 + normal(0, 4, 8, 8, 2), jnp.bfloat16)
    scale, bias, mean, var = np.float32([[1, 2], [0, 1], [0, 0], [1, 1]])
    y, running = batch_norm(x, scale, bias, mean, var, train=True)
    assert y.dtype == jnp.bfloat16
    expected = slow_batch_norm(np.asarray(x, np.float32), scale, bias, mean, var, True)
    for found, slow in zip(running, expected[1:], strict=True):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, slow, rtol=1e-5)


@functools.partial(jax.jit, static_argnames="train")
def batch_norm_of(rows, x, scale, bias, mean, var, *, train=True):
    """As batch_norm, by the statistics of some rows."""
    variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": {"mean": mean, "var": var}}
    y, after = BatchNorm().apply(variables, x, train, rows, mutable=["batch_stats"])
    return y, (after["batch_stats"]["mean"], after["batch_stats"]["var"])


@quick
@given(SEEDS, st.lists(st.booleans(), min_size=6, max_size=6).filter(any))
def test_batch_norm_of_rows_is_that_of_those_rows_alone(seed, rows):
    rows, x = np.array(rows), np.float32(2 + 3 * normal(seed, 6, 2, 3, 4))
    given = [normal(seed + 1, 4), normal(seed + 2, 4), normal(seed + 3, 4), normal(seed + 4, 4) ** 2]
    y, running = batch_norm_of(rows, x, *given)
    expected = slow_batch_norm(x[rows], *given, True)
    for found, slow in zip((y[rows], *running), expected, strict=True):
        np.testing.assert_allclose(found, slow, rtol=1e-3, atol=1e-4)
    others, _ = batch_norm_of(rows, np.where(rows[:, None, None, None], x, 1e4), *given)
    np.testing.assert_array_equal(others[rows], y[rows])
    order = np.random.default_rng(seed).permutation(6)
    mixed, again = batch_norm_of(rows[order], x[order], *given)
    for found, slow in zip((mixed[np.argsort(order)], *again), (y, *running), strict=True):
        np.testing.assert_allclose(found, slow, rtol=1e-4, atol=1e-5)


def test_batch_norm_of_no_rows_keeps_its_statistics_and_is_finite():
    x, given, nobody = (
        normal(0, 4, 2, 2, 3),
        (np.ones(3), np.zeros(3), normal(1, 3), normal(2, 3) ** 2),
        np.zeros(4, bool),
    )
    _, running = batch_norm_of(nobody, x, *given)
    for found, before in zip(running, given[2:], strict=True):
        np.testing.assert_array_equal(found, before)
    to_x, to_scale = jax.grad(lambda x, scale: batch_norm_of(nobody, x, scale, *given[1:])[0].sum(), (0, 1))(
        x, given[0]
    )
    assert np.isfinite(to_x).all()
    assert np.isfinite(to_scale).all()


def test_batch_norm_of_rows_gradients():
    x, weight, rows = normal(0, 4, 2, 2, 3), normal(1, 4, 2, 2, 3), np.array([1, 0, 1, 1], bool)

    def loss(x, scale, bias):
        y, _ = batch_norm_of(rows, x, scale, bias, np.zeros(3), np.ones(3))
        return (rows[:, None, None, None] * weight * y).sum()

    check_grads(loss, (x, normal(2, 3), normal(3, 3)), 1, modes=["rev"], atol=2e-2, rtol=2e-2, eps=1e-2)
    np.testing.assert_array_equal(jax.grad(loss)(x, normal(2, 3), normal(3, 3))[1], 0)


def test_devices_agree_on_the_statistics_of_rows():
    x, rows, given = normal(0, 8, 2, 3, 4), np.arange(8) % 3 == 0, (np.ones(4), np.zeros(4), np.zeros(4), np.ones(4))
    spread = parallel.split({"x": x, "rows": rows}, parallel.batch_mesh(jax.devices()[:4]))
    assert len(spread["x"].sharding.device_set) == 4
    found = batch_norm_of(spread["rows"], spread["x"], *given)
    for one, four in zip(jax.tree.leaves(batch_norm_of(rows, x, *given)), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(four, one, rtol=1e-5, atol=1e-6)


def test_each_modality_has_a_stem_that_sees_its_rows_alone():
    """In training too: features, statistics and gradients of the visible rows are those of a batch without others."""
    x, modality = normal(0, 6, 16, 8, 3), np.array([0, 1, 1, 0, 0, 1])
    visible = modality == 0
    network, stem = ResNet((1,), 4, stem_of_modality=True), resnet.Stem(4)
    lower = {"method": "lower"}  # what is before the only stage
    variables = scattered(jax.eval_shape(lambda: network.init(jax.random.key(0), x, False, modality, **lower)), 1)
    assert variables["params"].keys() == {"visible_stem", "infrared_stem"}

    def features(variables, x):
        return network.apply(variables, x, True, modality, mutable="batch_stats", **lower)

    (y, after), own = features(variables, x), {name: tree["visible_stem"] for name, tree in variables.items()}
    alone, stats = stem.apply(own, x[visible], True, mutable="batch_stats")
    np.testing.assert_allclose(y[visible], alone, rtol=1e-4, atol=1e-5)
    moved = after["batch_stats"]["visible_stem"], stats["batch_stats"]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), *moved)
    weight = normal(2, *y.shape) * visible[:, None, None, None]
    to_variables, to_x = jax.grad(lambda *a: (weight * features(*a)[0]).sum(), (0, 1))(variables, x)
    np.testing.assert_array_equal(to_x[~visible], 0)
    assert np.abs(to_x[visible]).max() > 1e-3
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(to_variables["params"]["infrared_stem"]))
    tested = network.apply(variables, x, False, modality, **lower)
    for m, name in enumerate(("visible_stem", "infrared_stem")):
        own = {kind: tree[name] for kind, tree in variables.items()}
        np.testing.assert_allclose(
            tested[modality == m], stem.apply(own, x[modality == m], False), rtol=1e-4, atol=1e-5
        )


def test_a_block_updates_statistics_only_in_training():
    x = 3 + normal(0, 2, 3, 3, 4)
    block = resnet.Block(4, bottleneck=False)
    variables = block.init(jax.random.key(0), x, True)
    for name, value in {"scale": 1, "bias": 0, "mean": 0, "var": 1}.items():
        np.testing.assert_array_equal((variables["params"]["bn1"] | variables["batch_stats"]["bn1"])[name], value)
    y = slow_conv(np.float64(x), np.float64(variables["params"]["conv1"]["kernel"]), 1, 1)
    expected = slow_batch_norm(y, np.ones(4), np.zeros(4), np.zeros(4), np.ones(4), True)[1:]
    after = [block.apply(variables, x, train, mutable="batch_stats")[1]["batch_stats"] for train in (True, False)]
    for name, slow in zip(("mean", "var"), expected, strict=True):
        np.testing.assert_allclose(after[0]["bn1"][name], slow, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(after[1]["bn1"][name], variables["batch_stats"]["bn1"][name])


NETWORKS = {"bottleneck": ResNet((2, 1), 4, True, (2,)), "basic": ResNet((1, 1), 4, False, (), False)}


@pytest.mark.parametrize("name", NETWORKS)
def test_remat_changes_nothing_but_memory(name):
    """Features, gradients and running statistics."""
    x = normal(0, 6, 16, 8, 3)
    variables = NETWORKS[name].init(jax.random.key(0), x, False)
    results = []
    for network in (NETWORKS[name], NETWORKS[name].clone(remat=True)):

        def loss(params, network=network):
            given = {"params": params, "batch_stats": variables["batch_stats"]}
            y, after = network.apply(given, x, True, mutable="batch_stats")
            return jnp.square(y - 1).mean(), (y, after)

        results.append(jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"]))
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5 * max(np.abs(one).max(), 1))


def test_remat_keeps_less():
    """What is handed from the forward to the backward pass."""
    x, network = normal(0, 8, 64, 32, 3), ResNet((3, 3), 8, True)
    variables = network.init(jax.random.key(0), x, False)

    def kept(remat: bool) -> int:
        def loss(params):
            given = {"params": params, "batch_stats": variables["batch_stats"]}
            y, _ = network.clone(remat=remat).apply(given, x, True, mutable="batch_stats")
            return jnp.square(y).mean()

        backward = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], variables["params"])
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(backward))

    assert kept(False) > 3 * kept(True)


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("shape", [(6, 4), (7, 5), (1, 2)])
def test_max_pool_is_the_loop_and_the_maximum_has_the_gradient(shape, ceil):
    """ceil: MaxPool2d(3, 2, ceil_mode=True), whose windows begin at the edge and may end beyond the other one."""
    shape = (2, 2) if ceil and shape == (1, 2) else shape  # torch refuses the former
    x = np.maximum(normal(0, 2, *shape, 3), 0)  # behind a ReLU: zeros, often several in a window
    before = 0 if ceil else 1
    beyond = np.pad(np.float64(x), ((0, 0), *((0, (n + 1) % 2) for n in shape), (0, 0)), constant_values=-np.inf)
    expected = slow_max_pool(beyond, 3, 2, 0) if ceil else slow_max_pool(np.float64(x), 3, 2, 1)
    np.testing.assert_array_equal(resnet.max_pool(x, ceil), expected)
    weight, gradient = normal(1, *expected.shape), np.zeros(x.shape)
    for b, i, j, c in np.ndindex(*expected.shape):
        rows, columns = (
            range(max(2 * k - before, 0), min(2 * k - before + 3, n)) for k, n in zip((i, j), shape, strict=True)
        )
        r, q = next((r, q) for r in rows for q in columns if x[b, r, q, c] == expected[b, i, j, c])
        gradient[b, r, q, c] += weight[b, i, j, c]
    found = jax.vjp(lambda x: resnet.max_pool(jax.nn.relu(x), ceil), x)[1](weight)[0]
    np.testing.assert_allclose(found, gradient * (x > 0), rtol=1e-6, atol=1e-6)  # what is 0 has no gradient


def test_max_pool_hides_nothing_that_is_not_a_number():
    x = np.abs(normal(0, 1, 5, 4, 1))
    for i, j in np.ndindex(5, 4):
        spoilt = x.copy()
        spoilt[0, i, j] = np.nan
        assert np.isnan(resnet.max_pool(spoilt)).any(), (i, j)


def test_max_pool_of_half_precision_keeps_it():
    x = jnp.asarray(np.abs(normal(0, 2, 5, 4, 3)), jnp.bfloat16)
    assert resnet.max_pool(x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(resnet.max_pool(x), slow_max_pool(np.float32(x), 3, 2, 1))


@pytest.mark.parametrize("stem_pool", [True, False])
@pytest.mark.parametrize("stages", [(1,), (1, 1), (1, 1, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("size", [(48, 24), (50, 33)])
def test_the_size_of_the_map_is_the_networks(size, stages, stem_pool):
    network = ResNet(stages, 4, False, (), stem_pool)
    x = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    y, _ = jax.eval_shape(lambda x: network.init_with_output(jax.random.key(0), x, False), x)
    assert resnet.map_size(*size, len(stages), stem_pool) == y.shape[1:3]


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("size", [(384, 144), (48, 24), (50, 33), (53, 35)])
def test_the_size_of_the_map_behind_the_other_pooling(size, stages):
    """Equal for the published sizes, whose halves are even; smaller where they are odd."""
    layers = [resnet.Stem(4, ceil=True), *(resnet.Stage(1, 4, 2 if i else 1, False) for i in range(stages))]
    y = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    for layer in layers:
        y, _ = jax.eval_shape(lambda y, layer=layer: layer.init_with_output(jax.random.key(0), y, False), y)
    assert resnet.map_size(*size, stages, True, True) == y.shape[1:3]
    assert size[0] % 4 or resnet.map_size(*size, stages) == y.shape[1:3]
