"""Losses of distances: images of an identity closer to each other than to those of others (AGW, CAJ, LbA)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from saai_jax.losses.common import Variant, check_variant

EPS = 1e-12  # of squared distances, where the gradient ends


def distances(feature: Float[Array, "b d"]) -> Float[Array, "b b"]:
    """Euclidean distances of all pairs, at least 1e-6; no gradient where they are clamped."""
    # Not from products: those leave some 1e-3 of a row's distance to itself, and digits of nearly parallel rows.
    squared = jnp.square(feature[:, None] - feature[None]).sum(2)
    return jnp.sqrt(jnp.maximum(squared, EPS))


def batch_hard(feature: Float[Array, "b d"], identity: Int[Array, b], *, margin: float = 0.3) -> Float[Array, ""]:
    """mean relu(d+ - d- + margin) of each row's farthest positive, which it may be itself, and nearest negative."""
    distance, same = distances(feature), identity[:, None] == identity[None]
    positive = jnp.where(same, distance, -jnp.inf).max(1)
    negative = jnp.where(same, jnp.inf, distance).min(1)
    return jax.nn.relu(positive - negative + margin).mean()


def weighted_distances(
    feature: Float[Array, "b d"], identity: Int[Array, b], *, variant: Variant = "released"
) -> tuple[Float[Array, b], Float[Array, b]]:
    """Each row's mean distance to its positives, weighted by softmax(d), and to its negatives, by softmax(-d).

    The row is one of its positives. "released": the weights of the negatives are exp(-d) / (sum exp(-d) + 1e-6), no
    softmax: beyond distances of about 17 their sum falls towards 0 and nothing pushes any more. "paper": the softmax.
    Gradients flow through the weights.
    """
    check_variant(variant)
    distance, same = distances(feature), identity[:, None] == identity[None]

    def mean(score: Float[Array, "b b"], member: Bool[Array, "b b"], shift: Float[Array, "b 1"]) -> Float[Array, b]:
        weight = jnp.exp(jnp.where(member, score - shift, -jnp.inf))
        return (weight * distance).sum(1) / (weight.sum(1) + 1e-6)

    def largest(score: Float[Array, "b b"], member: Bool[Array, "b b"]) -> Float[Array, "b 1"]:
        return jax.lax.stop_gradient(jnp.where(member, score, -jnp.inf).max(1, keepdims=True))

    nearest = jnp.zeros((len(distance), 1)) if variant == "released" else largest(-distance, ~same)
    return mean(distance, same, largest(distance, same)), mean(-distance, ~same, nearest)


def weighted_regularised(
    feature: Float[Array, "b d"], identity: Int[Array, b], *, variant: Variant = "released", finite: bool = True
) -> Float[Array, ""]:
    """AGW's triplet loss without a margin: mean log(1 + exp(d+ - d-)) of `weighted_distances`.

    finite: the same, but finite with its gradient where the released code (False) overflows, for d+ - d- above 88.
    """
    positive, negative = weighted_distances(feature, identity, variant=variant)
    difference = positive - negative
    return (jax.nn.softplus(difference) if finite else jnp.log(1 + jnp.exp(difference))).mean()


def squared_difference(
    feature: Float[Array, "b d"], identity: Int[Array, b], *, variant: Variant = "released", most: float = 88.0
) -> Float[Array, ""]:
    """CAJ's form: mean log(1 + exp(s (d+ - d-)^2)) of `weighted_distances`, s the sign of d+ - d-; the square <= most.

    Read in the released code, whose bound is 88; no figures of a run of it are at hand.
    """
    positive, negative = weighted_distances(feature, identity, variant=variant)
    square = jnp.minimum(jnp.square(positive - negative), most)
    return jax.nn.softplus(jnp.where(positive > negative, square, -square)).mean()


def dense(
    x: Float[Array, "b h w c"],
    positive: Float[Array, "b h w c"],
    negative: Float[Array, "b h w c"],
    *,
    margin: float = 0.3,
) -> Float[Array, "b h w"]:
    """LbA's relu(d+ - d- + margin) of each position's distances to two reconstructions, before any weight.

    As PyTorch's triplet loss it adds 1e-6 to every component of a difference.
    """
    far, near = (jnp.linalg.norm(x - other + 1e-6, axis=-1) for other in (positive, negative))
    return jax.nn.relu(far - near + margin)


def attended(
    loss: Float[Array, "b h w"], coattention: Float[Array, "b h w"], *, cross_batch: bool = False
) -> Float[Array, ""]:
    """Mean of `dense`, each position weighted by its co-attention (LbA).

    cross_batch: each image's loss is weighted by the co-attention of every image, as PyTorch 1.7 computed the release.
    """
    if cross_batch:  # of all pairs of images, without an array of them
        return (coattention.mean(0) * loss.mean(0)).mean()
    return (coattention * loss).mean()
