"""The inputs that the originals were given, and what ours makes of them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from saai_jax.models import cpu
from saai_jax.systems.system import System
from saai_jax.weights.names import from_torch, to_torch
from tests.tensors import tensor

KEY, EPOCH = jax.random.key(0), jnp.int32(0)
# Features are asked of XLA's convolutions, steps of a CPU's forms of them, which take two thirds of the time.
FORMS = {}, {"convolution": cpu.convolution}


def images(seed: int, height: int = 288, width: int = 144) -> jax.Array:
    nchw = np.random.RandomState(seed).standard_normal((16, 3, height, width)).astype(np.float32)
    return jnp.asarray(nchw.transpose(0, 2, 3, 1))


def variables_of(system: System, tensor: Callable[[str, tuple], np.ndarray] = tensor) -> dict:
    """The original's weights as ours, by way of their PyTorch names; mean classifiers start as the classifiers."""
    params, collections = jax.eval_shape(system.init, jax.random.key(0))
    empty = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), {"params": params, **collections})
    shapes = {name: a.shape for name, a in to_torch(system, empty).items() if not name.endswith("classifier_.weight")}
    tensors = {name: tensor(name, shape).astype(np.float32) for name, shape in shapes.items()}
    return jax.tree.map(jnp.asarray, from_torch(tensors, system, empty))


def first_step(system: System, variables: dict, batch: dict) -> tuple[dict, dict, dict]:
    """The loss and its terms; the norm of every gradient, and that of every running statistic, by torch name."""
    params = variables["params"]
    collections = {name: tree for name, tree in variables.items() if name != "params"}
    step = jax.jit(jax.value_and_grad(system.loss, has_aux=True))
    (loss, (terms, after)), gradient = step(params, collections, batch, KEY, EPOCH)
    norms = [
        {name: np.linalg.norm(array.astype(np.float64)) for name, array in to_torch(system, tree).items()}
        for tree in ({"params": gradient}, {"batch_stats": after["batch_stats"]})
    ]
    return {"loss": float(loss), **{name: float(term) for name, term in terms.items()}}, *norms


def differences(found: dict, golden: dict, figures: str) -> dict[str, tuple[float, float]]:
    """Relative to the original in float64, by name: how far ours is, and how far the original in float32 is."""
    names = golden[f"float64/{figures}/names"].tolist()
    assert found.keys() == set(names)
    exact, single = (golden[f"{prefix}{figures}/values"] for prefix in ("float64/", ""))
    return {name: (abs(found[name] / e - 1), abs(s / e - 1)) for name, e, s in zip(names, exact, single, strict=True)}


def of(golden: dict, prefix: str) -> dict:
    """The figures below a prefix."""
    return {name.removeprefix(prefix): value for name, value in golden.items() if name.startswith(prefix)}
