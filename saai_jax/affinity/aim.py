"""AIM: query-gallery distances revised by the affinities among gallery images (Section 3.3)."""

from __future__ import annotations

import functools
import numbers
import warnings
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from saai_jax.affinity.cosine import dot, unit


def keep_largest(affinity: Float[Array, "n m"], k: int) -> Float[Array, "n m"]:
    """Entries below their row's k-th largest set to 0; all ties with it are kept (Eq. 6)."""
    # The minimum of top_k, not its last column: slicing top_k makes XLA's CPU compiler sort whole rows.
    kth = jax.lax.top_k(affinity, k)[0].min(1, keepdims=True)
    return jnp.where(affinity >= kth, affinity, 0)


@functools.partial(jax.jit, static_argnames=("k1", "k2", "variant"))
def _aim(query, gallery, *, k1: int, k2: int, variant: str):
    query, gallery = unit(query), unit(gallery)
    query_gallery, gallery_gallery = dot(query, gallery), dot(gallery, gallery)
    nearest = jax.lax.top_k(gallery_gallery, k2)[1]
    kept = keep_largest(gallery_gallery, k1)
    # Eq. 7 one neighbour at a time: a gather of all k2 at once would hold k2 copies of the matrix.
    expanded = kept[nearest[:, 0]]
    for i in range(1, k2):
        expanded += kept[nearest[:, i]]
    expanded /= k2
    removed = keep_largest(query_gallery, k1)
    if variant == "paper":
        return 1 - query_gallery - jnp.matmul(removed, expanded, precision="highest")
    return -dot(unit(removed), unit(expanded)) - query_gallery


def aim(
    query: Float[Array, "q d"],
    gallery: Float[Array, "g d"],
    *,
    k1: int,
    k2: int,
    variant: Literal["released", "paper"] = "released",
) -> Float[Array, "q g"]:
    """Revised distance, smaller is closer; features of any scale.

    k1: affinities kept in a row (Eq. 6); k2: gallery neighbours averaged, the image itself included (Eq. 7).
    "paper" is Eq. 10 as printed, 1 - A_qg - (A_qg removed)(A_gg expanded). "released" normalises the rows of both
    factors and multiplies by the transpose. k1 and k2 above the gallery's size are lowered to it, with a warning.
    Raises ValueError for k1 or k2 that is not a positive integer, an unknown variant and an empty gallery.
    """
    if variant not in ("released", "paper"):
        raise ValueError(f"variant is {variant!r}, expected 'released' or 'paper'")
    if not len(gallery):
        raise ValueError("the gallery is empty")
    for name, k in (("k1", k1), ("k2", k2)):
        if not isinstance(k, numbers.Integral) or isinstance(k, bool) or k < 1:
            raise ValueError(f"{name} is {k!r}, expected a positive integer")
        if k > len(gallery):
            warnings.warn(f"{name}={k} is lowered to the gallery's {len(gallery)} images", stacklevel=2)
    return _aim(query, gallery, k1=min(int(k1), len(gallery)), k2=min(int(k2), len(gallery)), variant=variant)
