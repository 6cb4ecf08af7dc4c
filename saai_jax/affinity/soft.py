"""AIM with soft selections, to train through: the future work that Section 5 of the paper names."""

from __future__ import annotations

import functools
import numbers
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from saai_jax.affinity.aim import aim, aim_distance
from saai_jax.affinity.checks import Rows, checked_pair, choice, neighbour_counts
from saai_jax.affinity.cosine import dot


def unit(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """Rows scaled to length 1; a row of zeros stays, and its gradient is 0 where a norm's would be NaN."""
    square = jnp.square(x).sum(-1, keepdims=True)
    some = square > 1e-24
    return jnp.where(some, x * jax.lax.rsqrt(jnp.where(some, square, 1)), 0)


def selected(affinity: Float[Array, "n m"], k: int, temperature: Float[Array, ""] | float) -> Float[Array, "n m"]:
    """How far each entry is among its row's k largest, in [0, 1]; 1/2 midway between the k-th and the next."""
    if k == affinity.shape[1]:
        return jnp.ones_like(affinity)
    largest = jax.lax.top_k(affinity, k + 1)[0]
    # The two smallest of them by another top_k: slicing the first would make XLA's CPU compiler sort whole rows.
    threshold = -jax.lax.top_k(-largest, 2)[0].mean(1, keepdims=True)
    return jax.nn.sigmoid((affinity - threshold) / temperature)


@functools.partial(jax.jit, static_argnames=("k1", "k2", "variant"))
def _soft(query, gallery, temperature, *, k1: int, k2: int, variant: str):
    query, gallery = unit(query), unit(gallery)
    query_gallery, gallery_gallery = dot(query, gallery), dot(gallery, gallery)
    kept = gallery_gallery * selected(gallery_gallery, k1, temperature)
    neighbours = selected(gallery_gallery, k2, temperature)
    neighbours /= neighbours.sum(1, keepdims=True)
    expanded = jnp.matmul(neighbours, kept, precision="highest")
    removed = query_gallery * selected(query_gallery, k1, temperature)
    return aim_distance(query_gallery, removed, expanded, variant, unit)


def soft_aim(
    query: Float[Rows, "q d"],
    gallery: Float[Rows, "g d"],
    *,
    k1: int,
    k2: int,
    temperature: float = 0.05,
    variant: Literal["released", "paper"] = "released",
    straight_through: bool = False,
) -> Float[Array, "q g"]:
    """aim with gradients through its selections, smaller is closer; features of any scale.

    "Among the k largest of a row" (Eq. 6, 7) becomes sigmoid((affinity - threshold) / temperature), the threshold
    midway between the k-th and the next; all of a row are kept where k is the gallery's size. The k2 neighbours are
    averaged by these numbers, divided by their sum. temperature is in units of cosine similarity; towards 0 the result
    approaches aim's, but for entries equal to the k-th and the next, which then count half.
    straight_through: aim's own value with this function's gradient. The gradient is finite everywhere, 0 for rows of
    zeros. Works under jit and grad; a temperature that is a JAX array, as in a schedule, is not checked.

    k1 and k2 above the gallery's size are lowered to it, with a warning. Raises ValueError for k1 or k2 that is not a
    positive integer, a temperature that is not a positive number, an unknown variant, an empty gallery, and features
    as `checks.checked` does.
    """
    choice("variant", variant, ("released", "paper"))
    query, gallery = checked_pair(query, gallery)
    counts = neighbour_counts(len(gallery), k1=k1, k2=k2)
    if not isinstance(temperature, jax.Array) and not (isinstance(temperature, numbers.Real) and temperature > 0):
        raise ValueError(f"temperature is {temperature!r}, expected a positive number")
    soft = _soft(query, gallery, temperature, k1=counts["k1"], k2=counts["k2"], variant=variant)
    if not straight_through:
        return soft
    stop = jax.lax.stop_gradient
    # soft - stop(soft) is exactly 0, unlike soft + stop(hard - soft), which rounds.
    return stop(aim(stop(query), stop(gallery), k1=counts["k1"], k2=counts["k2"], variant=variant)) + (
        soft - stop(soft)
    )
