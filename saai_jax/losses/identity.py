"""Losses of classifiers: whose picture is it (SAAI, Section 3.2 and supplement C)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy

from saai_jax.losses.common import Variant, check_variant, masked_mean


def shared_identity(logits: Float[Array, "b *p k"], identity: Int[Array, b]) -> Float[Array, ""]:
    """L_sh: cross entropy of the classifier shared by both modalities, mean over the batch (supplement, Eq. 2).

    Of parts with a classifier each, the sum (PCB, Section 3.1).
    """
    person = identity.reshape(-1, *(1,) * (logits.ndim - 2))
    return cross_entropy(logits, jnp.broadcast_to(person, logits.shape[:-1])).mean(0).sum()


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


def mutual_divergence(own: Float[Array, "b k"], other_mean: Float[Array, "b k"]) -> Float[Array, ""]:
    """MPANet's mutual learning: KL(own || the other modality's mean classifier), which gets no gradient; batch mean."""
    log_own, log_other = jax.nn.log_softmax(own), jax.lax.stop_gradient(jax.nn.log_softmax(other_mean))
    return (jnp.exp(log_own) * (log_own - log_other)).sum(1).mean()
