"""Exponential means of modality classifiers, which SAAI and MPANet learn from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from saai_jax.systems.system import Tree


def mean_classifiers(params: Tree, means: Tree | None, rate: Array | float) -> Tree:
    """Exponential means of the modality classifiers, moved by the rate in [0, 1]; copies of them without means."""
    kernels = {m: jax.lax.stop_gradient(params[f"{m}_classifier"]["kernel"]) for m in ("visible", "infrared")}
    if means is None:
        return {m: {"kernel": kernel} for m, kernel in kernels.items()}
    return {m: {"kernel": (1 - rate) * means[m]["kernel"] + rate * kernel} for m, kernel in kernels.items()}


def own_and_other(
    visible: Float[Array, "b k"],
    infrared: Float[Array, "b k"],
    embedding: Float[Array, "b d"],
    means: Tree,
    modality: Array,
) -> tuple[Float[Array, "b k"], Float[Array, "b k"]]:
    """Of each row, the logits of its own modality's classifier and of the other's mean. visible, infrared: of all."""
    seen = (modality == 0)[:, None]
    of_means = {m: jnp.matmul(embedding, mean["kernel"]) for m, mean in means.items()}
    return jnp.where(seen, visible, infrared), jnp.where(seen, of_means["infrared"], of_means["visible"])


def mean_rate(epoch: Array, base: float) -> Array:
    """How far the mean classifiers move in a step: min(100 / (e + 2), 1) base, epoch e from 0 (released code)."""
    return base * jnp.minimum(100 / (epoch + 2), 1)
