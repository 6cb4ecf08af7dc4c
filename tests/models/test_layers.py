"""Batch and instance normalisation against float64 loops, and layers that are computed again or in parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from saai_jax.models import backbone, layers, spatial
from tests.models.test_resnet import EPS, normal, slow_instance_norm

SEEDS = st.integers(0, 2**31)
quick = settings(deadline=None, max_examples=20)


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
    """What a layer without its convolution gives, and the next running mean and variance."""
    kept, layer = layers.Moments(mean, var, jnp.zeros(())), layers.Layer(lambda x: x, scale, bias)
    how = {} if train else {"known": [kept]}
    y, (found,) = layers.through(x, [layer], None, lambda x, y, side: y, **how)
    return y, layers.running(kept, found)[:2] if train else (mean, var)


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


def test_a_block_updates_statistics_only_in_training():
    x = 3 + normal(0, 2, 3, 3, 4)
    block = backbone.Basic(4, 1, jnp.float32, 0)
    variables = block.init(jax.random.key(0), x, train=True)
    for name, value in {"scale": 1, "bias": 0, "mean": 0, "var": 1}.items():
        np.testing.assert_array_equal((variables["params"]["bn1"] | variables["batch_stats"]["bn1"])[name], value)
    y = spatial.convolution(x, variables["params"]["conv1"]["kernel"], 1)
    expected = slow_batch_norm(np.asarray(y), np.ones(4), np.zeros(4), np.zeros(4), np.ones(4), True)[1:]
    after = [block.apply(variables, x, train=train, mutable="batch_stats")[1]["batch_stats"] for train in (True, False)]
    for name, slow in zip(("mean", "var"), expected, strict=True):
        np.testing.assert_allclose(after[0]["bn1"][name], slow, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(after[1]["bn1"][name], variables["batch_stats"]["bn1"][name])


NETWORKS = {
    "bottleneck": backbone.ResNet((2, 1), 4, True, (2,)),
    "basic": backbone.ResNet((1, 1), 4, False, (), False),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("recompute", [1, 2, 3])
def test_recomputing_changes_nothing_but_memory(name, recompute):
    """Features, gradients and running statistics: of the whole batch, in however many parts it is worked through."""
    x = normal(0, 6, 16, 8, 3)
    variables = NETWORKS[name].init(jax.random.key(0), x, train=False)
    results = []
    for network in (NETWORKS[name], NETWORKS[name].clone(recompute=recompute)):

        def loss(params, network=network):
            given = {"params": params, "batch_stats": variables["batch_stats"]}
            y, after = network.apply(given, x, train=True, mutable="batch_stats")
            return jnp.square(y - 1).mean(), (y, after)

        results.append(jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"]))
    ours, theirs = (jax.tree.leaves(result) for result in results)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5 * max(np.abs(one).max(), 1))


def test_recomputing_keeps_less():
    """What is handed from the forward to the backward pass."""
    x, network = normal(0, 8, 64, 32, 3), backbone.ResNet((3, 3), 8, True)
    variables = network.init(jax.random.key(0), x, train=False)

    def kept(recompute: int) -> int:
        def loss(params):
            given = {"params": params, "batch_stats": variables["batch_stats"]}
            y, _ = network.clone(recompute=recompute).apply(given, x, train=True, mutable="batch_stats")
            return jnp.square(y).mean()

        backward = jax.eval_shape(lambda params: jax.vjp(loss, params)[1], variables["params"])
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(backward))

    assert kept(0) > 3 * kept(1)
    assert kept(4) < 1.1 * kept(1)


def test_a_batch_that_cannot_be_divided_is_refused():
    network = NETWORKS["basic"].clone(recompute=4)
    with pytest.raises(ValueError, match="a batch of 6 images cannot be divided into 4 equal parts"):
        network.init(jax.random.key(0), normal(0, 6, 16, 8, 3), train=True)


@quick
@given(SEEDS)
def test_instance_norm_is_the_loop_and_forgets_scale_and_offset(seed):
    x = normal(seed, 2, 3, 4, 5)
    np.testing.assert_allclose(layers.instance_norm(x), slow_instance_norm(x), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(layers.instance_norm(50 * x + 7), layers.instance_norm(x), atol=1e-3)


def test_instance_norm_of_a_flat_channel_is_zero_and_pulls_nowhere():
    flat = jnp.full((1, 2, 3, 2), 4.0)
    np.testing.assert_array_equal(layers.instance_norm(flat), 0)
    assert np.isfinite(jax.grad(lambda x: (x * layers.instance_norm(x)).sum())(flat)).all()
