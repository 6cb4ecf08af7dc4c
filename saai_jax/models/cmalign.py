"""CMAlign: what two images show in common, found by matching the positions of their feature maps (LbA, ICCV 2021).

It has no parameters and knows no modality. Maps come after a ReLU; positions are row-major, n = h w.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

SHARPNESS = 50.0  # beta of the softmax


def minmax(x: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
    """The values of each image, spread from 0 to 1."""
    x = x - x.min((1, 2), keepdims=True)
    return x / (x.max((1, 2), keepdims=True) + 1e-12)


def mask(x: Float[Array, "b h w c"]) -> Float[Array, "b h w"]:
    """Where an image shows a person: the norm of each position, from 0 to 1. It passes no gradient."""
    return jax.lax.stop_gradient(minmax(jnp.linalg.norm(x.astype(jnp.float32), axis=-1)))


def similarity(x: Float[Array, "b h w c"], target: Float[Array, "b h w c"]) -> Float[Array, "b n n"]:
    """Cosine of every position of x and every one of the target's, in [-1, 1]."""
    b, h, w, c = x.shape

    def unit(y: Float[Array, "b h w c"]) -> Float[Array, "b n c"]:
        y = y.reshape(b, h * w, c).astype(jnp.float32)
        # The maximum is below the root, or a position without values would have no gradient.
        return y / jnp.sqrt(jnp.maximum(jnp.square(y).sum(-1, keepdims=True), 1e-24))

    return jnp.einsum("bpc,bqc->bpq", unit(x), unit(target), precision="highest")


def probability(
    x: Float[Array, "b h w c"], target: Float[Array, "b h w c"], sharpness: float = SHARPNESS
) -> Float[Array, "b n n"]:
    """How probably each position of x corresponds to each of the target's; every row sums to one."""
    return jax.nn.softmax(sharpness * similarity(x, target), axis=-1)


def warp(probability: Float[Array, "b n n"], target: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The target's features, moved to the positions that they correspond to."""
    flat = target.reshape(len(target), -1, target.shape[-1]).astype(jnp.float32)
    return jnp.einsum("bpq,bqc->bpc", probability, flat, precision="highest").reshape(target.shape)


def reconstruct(
    x: Float[Array, "b h w c"], warped: Float[Array, "b h w c"], mask: Float[Array, "b h w"]
) -> Float[Array, "b h w c"]:
    """The person of x made of warped features, and what is around it left as it is."""
    return mask[..., None] * warped + (1 - mask[..., None]) * x


def coattention(
    probability: Float[Array, "b n n"], mask: Float[Array, "b h w"], target_mask: Float[Array, "b h w"]
) -> Float[Array, "b h w"]:
    """Where both images show the person, from 0 to 1. It passes no gradient."""
    moved = jnp.einsum("bpq,bq->bp", probability, target_mask.reshape(len(mask), -1), precision="highest")
    return jax.lax.stop_gradient(minmax(mask * moved.reshape(mask.shape)))
