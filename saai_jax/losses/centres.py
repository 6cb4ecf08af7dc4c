"""Losses of identity centres in a batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from saai_jax.losses.common import safe_sqrt


def centre_separation(
    feature: Float[Array, "b d"], identity: Int[Array, b], *, rho1: float = 0.01, rho2: float = 0.7
) -> Float[Array, ""]:
    """L_cs (Eq. 5): samples within rho1 of their identity's centre, centres at least rho2 apart.

    Centres are means over both modalities of the batch, and gradients flow through them. Every identity counts once
    in the second term whatever its number of samples; with one identity in the batch that term is 0.
    """
    same = (identity[:, None] == identity[None]).astype(feature.dtype)
    count = same.sum(1)
    centre = jnp.matmul(same, feature, precision="highest") / count[:, None]  # row i: the centre of i's identity
    spread = safe_sqrt(jnp.square(feature - centre).sum(1))
    gather = jax.nn.relu(spread - rho1).mean()

    # Distances from the Gram matrix; removing the batch mean first keeps float32 exact enough for near centres.
    centred = centre - centre.mean(0)
    gram = jnp.matmul(centred, centred.T, precision="highest")
    norm = jnp.square(centred).sum(1)
    distance = safe_sqrt(norm[:, None] + norm[None] - 2 * gram)
    weight = (1 - same) / (count[:, None] * count[None])  # sums to M(M-1) over the batch, M identities
    separate = (weight * jax.nn.relu(rho2 - distance)).sum() / jnp.maximum(weight.sum(), 1)
    return gather + separate
