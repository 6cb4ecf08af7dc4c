"""Exponential means of modality classifiers, which SAAI and MPANet learn from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array

from saai_jax.systems.system import Tree


def mean_classifiers(params: Tree, means: Tree | None, rate: Array | float) -> Tree:
    """Exponential means of the modality classifiers, moved by the rate in [0, 1]; copies of them without means."""
    kernels = {m: jax.lax.stop_gradient(params[f"{m}_classifier"]["kernel"]) for m in ("visible", "infrared")}
    if means is None:
        return {m: {"kernel": kernel} for m, kernel in kernels.items()}
    return {m: {"kernel": (1 - rate) * means[m]["kernel"] + rate * kernel} for m, kernel in kernels.items()}


def mean_rate(epoch: Array, base: float) -> Array:
    """How far the mean classifiers move in a step: min(100 / (e + 2), 1) base, epoch e from 0 (released code)."""
    return base * jnp.minimum(100 / (epoch + 2), 1)
