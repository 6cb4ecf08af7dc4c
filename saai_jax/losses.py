"""The losses of SAAI (Section 3.2 and supplement C), as released and as printed where the two differ."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Variant = Literal["released", "paper"]


def check_variant(variant: str) -> None:
    """Raises ValueError for anything but "released" and "paper"."""
    if variant not in ("released", "paper"):
        raise ValueError(f"variant is {variant!r}, expected 'released' or 'paper'")


def safe_sqrt(x: Float[Array, ...]) -> Float[Array, ...]:
    """Square root whose gradient is 0, not infinite, where x <= 0; a distance of zero pulls nowhere."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def masked_mean(x: Float[Array, b], mask: Bool[Array, b]) -> Float[Array, ""]:
    """Mean of x where mask is true; 0 where it never is (a modality absent from a batch)."""
    return jnp.where(mask, x, 0.0).sum() / jnp.maximum(mask.sum(), 1)


def cross_entropy(logits: Float[Array, "b k"], identity: Int[Array, b]) -> Float[Array, b]:
    """-log p(identity) of each row; identity in 0 .. k-1."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), identity[:, None], 1)[:, 0]


def shared_identity(logits: Float[Array, "b k"], identity: Int[Array, b]) -> Float[Array, ""]:
    """L_sh: cross entropy of the classifier shared by both modalities, mean over the batch (supplement, Eq. 2)."""
    return cross_entropy(logits, identity).mean()


def specific_identity(own: Float[Array, "b k"], identity: Int[Array, b], modality: Int[Array, b]) -> Float[Array, ""]:
    """L_sp: cross entropy of each row by its own modality's classifier, a mean per modality, summed."""
    loss = cross_entropy(own, identity)
    return masked_mean(loss, modality == 0) + masked_mean(loss, modality == 1)


def mutual_identity(
    own: Float[Array, "b k"],
    other_mean: Float[Array, "b k"],
    modality: Int[Array, b],
    *,
    variant: Variant = "released",
) -> Float[Array, ""]:
    """L_cm: each row's own classifier follows the mean classifier of the other modality, which gets no gradient.

    "released": soft cross entropy, one mean over the batch. "paper" (supplement, Eq. 3): Kullback-Leibler divergence,
    a mean per modality, summed; its gradient is twice the released one when the modalities are balanced.
    """
    check_variant(variant)
    target = jax.lax.stop_gradient(jax.nn.softmax(other_mean))
    soft = -(target * jax.nn.log_softmax(own)).sum(1)
    if variant == "released":
        return soft.mean()
    divergence = soft + jax.scipy.special.xlogy(target, target).sum(1)
    return masked_mean(divergence, modality == 0) + masked_mean(divergence, modality == 1)


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
