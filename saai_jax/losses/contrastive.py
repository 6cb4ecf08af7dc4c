"""Losses of similarities: what belongs together against all the rest."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from saai_jax.losses.common import masked_mean

Against = Literal["both", "other"]
Reduction = Literal["sum", "mean"]


def hardest_positives(
    z: Float[Array, "b d"],
    identity: Int[Array, b],
    modality: Int[Array, b],
    *,
    hardest: int,
    temperature: float = 0.07,
    against: Against = "both",
    reduction: Reduction = "sum",
) -> Float[Array, ""]:
    """L_CMKIC of WRIM-Net in both directions (supplement, Eq. 1), in float32; 0 where a modality is missing.

    z: of unit length. A row's positives are the `hardest` least similar ones of its identity in the other modality, or
    all if there are fewer, and count by their mean; a row without one adds nothing. against: A(i), what they are
    compared with, every other row ("both", the supervised contrastive loss's) or those of the other modality.
    reduction: "sum" over the rows, as printed, or "mean" over those of a modality, summed.
    """
    z, others = z.astype(jnp.float32), ~jnp.eye(len(z), dtype=bool)
    crossing = modality[:, None] != modality[None]
    positive = crossing & (identity[:, None] == identity[None])
    similarity = jnp.matmul(z, z.T, precision="highest") / temperature
    lowest = jnp.finfo(jnp.float32).min  # finite: a row without rows to compare with has a gradient too, which is 0
    compared = others if against == "both" else crossing
    everything = jax.nn.logsumexp(jnp.where(compared, similarity, lowest), 1)
    found, _ = jax.lax.top_k(jnp.where(positive, -similarity, -jnp.inf), min(hardest, len(z)))
    count = jnp.minimum(positive.sum(1), hardest)
    chosen = -jnp.where(jnp.isfinite(found), found, 0.0).sum(1) / jnp.maximum(count, 1)
    loss = jnp.where(count > 0, everything - chosen, 0.0)
    if reduction == "sum":
        return loss.sum()
    return sum((masked_mean(loss, (modality == m) & (count > 0)) for m in (0, 1)), jnp.zeros(()))
