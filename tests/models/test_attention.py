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

from saai_jax.models.attention import ModalityAttention, NonLocal
from saai_jax.models.normalisation import instance_norm
from saai_jax.models.resnet import conv
from saai_jax.weights.names import Names, from_torch, to_torch
from tests.golden_files import load
from tests.models.test_resnet import normal, scattered, slow_batch_norm, slow_instance_norm
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
