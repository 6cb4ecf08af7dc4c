"""What several losses need."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Variant = Literal["released", "paper"]


def check_variant(variant: str, name: str = "variant") -> None:
    """Raises ValueError for anything but "released" and "paper"."""
    if variant not in ("released", "paper"):
        raise ValueError(f"{name} is {variant!r}, expected 'released' or 'paper'")


def safe_sqrt(x: Float[Array, ...]) -> Float[Array, ...]:
    """Square root whose gradient is 0, not infinite, where x <= 0; a distance of zero pulls nowhere."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def masked_mean(x: Float[Array, b], mask: Bool[Array, b]) -> Float[Array, ""]:
    """Mean of x where mask is true; 0 where it never is (a modality absent from a batch)."""
    return jnp.where(mask, x, 0.0).sum() / jnp.maximum(mask.sum(), 1)
