"""AIM: query-gallery distances revised by the affinities among gallery images (Section 3.3)."""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from saai_jax.affinity.checks import Rows, checked_pair, choice, neighbour_counts
from saai_jax.affinity.cosine import dot, similarity, unit
from saai_jax.affinity.gallery import Gallery
from saai_jax.affinity.topk import top_k

LARGE = 1024  # gallery images from which the sparse form is the faster one


def keep_largest(affinity: Float[Array, "n m"], k: int) -> Float[Array, "n m"]:
    """Entries below their row's k-th largest set to 0; all ties with it are kept (Eq. 6)."""
    kth = top_k(affinity, k)[0][:, k - 1 :]
    return jnp.where(affinity >= kth, affinity, 0)


def aim_distance(query_gallery, removed, expanded, variant: str, scale=unit) -> Float[Array, "q g"]:
    """The distance of what the two steps leave (Eq. 8 to 10); scale: rows to length 1, for "released"."""
    if variant == "paper":
        return 1 - query_gallery - jnp.matmul(removed, expanded, precision="highest")
    return -dot(scale(removed), scale(expanded)) - query_gallery


@functools.partial(jax.jit, static_argnames=("k1", "k2", "variant", "remove", "expand"))
def dense(query, gallery, *, k1: int, k2: int, variant: str, remove: bool, expand: bool) -> Float[Array, "q g"]:
    """`aim` by whole matrices of features that are checked; q and g may be symbols, for an exported program."""
    query_gallery, gallery_gallery = similarity(query, gallery), similarity(gallery, gallery)
    kept = keep_largest(gallery_gallery, k1) if remove else gallery_gallery
    removed = keep_largest(query_gallery, k1) if remove else query_gallery
    if expand and k2 > 1:
        nearest = top_k(gallery_gallery, k2)[1]
        # Eq. 7 one neighbour at a time: a gather of all k2 at once would hold k2 copies of the matrix.
        expanded = kept[nearest[:, 0]]
        for i in range(1, k2):
            expanded += kept[nearest[:, i]]
        kept = expanded / k2
    return aim_distance(query_gallery, removed, kept, variant)


def aim(
    query: Float[Rows, "q d"],
    gallery: Float[Rows, "g d"],
    *,
    k1: int,
    k2: int,
    variant: Literal["released", "paper"] = "released",
    remove: bool = True,
    expand: bool = True,
    method: Literal["auto", "dense", "sparse"] = "auto",
) -> Float[Array, "q g"]:
    """Revised distance, smaller is closer; features of any scale.

    k1: affinities kept in a row (Eq. 6); k2: gallery neighbours averaged, the image itself included (Eq. 7).
    "paper" is Eq. 10 as printed, 1 - A_qg - (A_qg removed)(A_gg expanded). "released" normalises the rows of both
    factors and multiplies by the transpose. remove, expand: the steps of Eq. 6 and Eq. 7 (Table 6). k1 and k2 above the
    gallery's size are lowered to it, with a warning.
    method: "dense" multiplies whole matrices, inside jit too; "sparse" multiplies by what Eq. 6 keeps, with the same
    result. "auto" is sparse where that is faster and possible. `Gallery` searches without either matrix.
    Raises ValueError for k1 or k2 that is not a positive integer, an unknown variant or method, sparse without remove,
    an empty gallery, and features as `checks.checked` does.
    """
    choice("variant", variant, ("released", "paper"))
    choice("method", method, ("auto", "dense", "sparse"))
    query, gallery = checked_pair(query, gallery)
    counts = neighbour_counts(len(gallery), k1=k1, k2=k2)
    if method == "sparse" and not remove:
        raise ValueError("method='sparse' needs remove=True: without Eq. 6 nothing is sparse")
    traced = isinstance(query, Tracer) or isinstance(gallery, Tracer)
    small = len(gallery) < max(LARGE, 4 * counts["k1"] * counts["k2"])
    if method == "dense" or (method == "auto" and (traced or small or not remove)):
        return dense(query, gallery, **counts, variant=variant, remove=remove, expand=expand)
    index = Gallery.build(gallery, k1=counts["k1"], k2=counts["k2"] if expand else 1, variant=variant)
    return jnp.asarray(index.distances(query))
