"""Losses that keep the parts of a picture apart."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from saai_jax.losses.common import Variant, check_variant, safe_sqrt


def part_diversity(similarity: Float[Array, "b p n"], *, variant: Variant = "released") -> Float[Array, ""]:
    """L_pd (Eq. 4): minus the mean distance between the maps of two parts; 0 with fewer than two parts.

    "released": root-mean-square distance of the attentions, after the sigmoid. "paper": Euclidean distance of the
    similarities, before it.
    """
    check_variant(variant)
    p, n = similarity.shape[1:]
    if p < 2:
        return jnp.zeros(())
    first, second = np.triu_indices(p, 1)
    maps = jax.nn.sigmoid(similarity) if variant == "released" else similarity
    squared = jnp.square(maps[:, first] - maps[:, second]).sum(2)
    return -safe_sqrt(squared / n if variant == "released" else squared).mean()


def mask_separation(mask: Float[Array, "b p n"]) -> Float[Array, ""]:
    """MPANet's separation: inner product of two patterns' masks, a mean over images and pairs; 0 with one pattern."""
    p = mask.shape[1]
    if p < 2:
        return jnp.zeros(())
    products = jnp.einsum("bin,bjn->bij", mask, mask, precision="highest")
    return products[:, *np.triu_indices(p, 1)].mean()
