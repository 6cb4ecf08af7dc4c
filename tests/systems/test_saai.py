"""The whole ResNet-50 SAAI against figures of the original, run in PyTorch on deterministic weights and images."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saai_jax import train
from saai_jax.models.saai import SAAI
from saai_jax.state import adam_l2, new_state
from saai_jax.weights.names import from_torch, to_torch_names
from tests.golden_files import load

IDENTITY = jnp.repeat(jnp.arange(4), 4)
MODALITY = jnp.tile(jnp.array([1, 0]), 8)


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weight that the original was given under this name: NumPy's frozen stream, seeded by the name."""
    x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_var":
        return 1 + 0.1 * np.abs(x)
    if leaf in ("running_mean", "bias"):
        return 0.1 * x
    if len(shape) == 1:
        return 1 + 0.1 * x
    if len(shape) == 4:
        return x * np.sqrt(2 / (shape[0] * shape[2] * shape[3]))
    if leaf in ("part_tokens", "pos_embeding"):
        return x * np.sqrt(2 / shape[0])
    return 0.001 * x  # classifiers


def images(seed: int) -> jax.Array:
    nchw = np.random.RandomState(seed).standard_normal((16, 3, 288, 144)).astype(np.float32)
    return jnp.asarray(nchw.transpose(0, 2, 3, 1))


def variables_of(model: SAAI) -> dict:
    """The deterministic weights as our variables, by way of their PyTorch names."""
    shapes = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, 288, 144, 3)), jnp.zeros(1, jnp.int32)), jax.random.key(0)
    )
    empty = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), shapes)
    state_dict = {n: tensor(n, a.shape).astype(np.float32) for n, a in to_torch_names(empty).items()}
    return jax.tree.map(jnp.asarray, from_torch(state_dict, empty).variables)


@pytest.fixture(scope="module", params=[(), (3, 4)], ids=["mam0", "mam2"])
def case(request):
    """The model, its variables, and the original's figures."""
    model = SAAI(12, mam=request.param)
    prefix = "mam2/" if request.param else "mam0/"
    golden = {k.removeprefix(prefix): v for k, v in load("saai_model").items() if k.startswith(prefix)}
    return model, variables_of(model), golden


def test_evaluation_features(case):
    model, variables, golden = case
    embed = jax.jit(lambda v, x: model.apply(v, x, MODALITY, train=False).embedding)
    ours = np.asarray(embed(variables, images(5)))[:, ::16]
    np.testing.assert_allclose(ours, golden["eval_features"], atol=1e-3 * np.abs(golden["eval_features"]).max())


def logged(metrics) -> dict[str, float]:
    """Our terms as the original logs them: `dp` carries one of its two factors of one half."""
    m = {k: float(v) for k, v in metrics.items()}
    identity = m["shared"] + m["specific"] + m["mutual"]
    return {"loss": m["loss"], "ce": m["shared"], "id": identity, "cs": m["separation"], "dp": 0.5 * m["diversity"]}


def test_gradients_of_the_first_step(case):
    model, variables, golden = case
    state = new_state(variables, adam_l2(5e-4))
    gradient = jax.jit(jax.grad(train.loss_terms, has_aux=True), static_argnames=("model", "recipe"))(
        state.params,
        state.batch_stats,
        state.teacher,
        images(100),
        IDENTITY,
        MODALITY,
        model=model,
        recipe=train.Recipe(),
    )[0]
    expected = dict(zip(golden["grad_norm/names"].tolist(), golden["grad_norm/values"], strict=True))
    ours = {n: np.linalg.norm(g.astype(np.float64)) for n, g in to_torch_names({"params": gradient}).items()}
    assert ours.keys() == expected.keys()
    largest = max(expected.values())
    off = {n: ours[n] / e - 1 for n, e in expected.items() if e > 1e-3 * largest and abs(ours[n] / e - 1) > 1e-2}
    assert not off


def test_three_steps(case):
    """Step 0 is met to 1e-4. What follows is chaotic, so it can only be met to the spread of float32 runs.

    Adam's first step has the sign of each gradient, whose smallest entries are rounding noise: disturbing the images
    by one part in a million moves the losses of steps 1 and 2 by several per cent (docs/parity.md).
    """
    model, variables, golden = case
    state = new_state(variables, adam_l2(5e-4))
    step = jax.jit(train.update, static_argnames=("model", "recipe"))
    for s, tolerance in enumerate((1e-4, 0.06, 0.15)):
        state, metrics = step(
            state,
            images(100 + s),
            IDENTITY,
            MODALITY,
            jnp.float32(3.5e-4),
            jnp.float32(0.2),
            model=model,
            recipe=train.Recipe(),
        )
        for name, value in logged(metrics).items():
            # The shared classifier's loss is the most sensitive of all, and part of id.
            bound = 2 * tolerance if s and name in ("ce", "id") else tolerance
            np.testing.assert_allclose(value, golden[f"step{s}/{name}"], rtol=bound, err_msg=f"{name}, step {s}")
    expected = dict(zip(golden["norm_after/names"].tolist(), golden["norm_after/values"], strict=True))
    tensors = to_torch_names({"params": state.params, "batch_stats": state.batch_stats}, state.teacher)
    ratio = np.array([np.linalg.norm(t.astype(np.float64)) / expected[n] for n, t in tensors.items()])
    assert expected.keys() - tensors.keys() == {"bn_neck.bn_neck_v.bias", "bn_neck.bn_neck_i.bias"}  # frozen at 0
    assert (np.abs(ratio - 1) < 1e-3).mean() > 0.95
    assert (np.abs(ratio - 1) < 1e-2).all()
