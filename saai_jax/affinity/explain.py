"""Which gallery images moved a result: AIM's revision of one distance, taken apart into its terms."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from saai_jax.affinity.aim import keep_largest
from saai_jax.affinity.checks import Rows, checked_pair, choice, neighbour_counts
from saai_jax.affinity.cosine import similarity, unit
from saai_jax.affinity.topk import top_k


def contributions(
    query: Float[Rows, "q d"],
    gallery: Float[Rows, "g d"],
    result: Int[np.ndarray, "q r"],
    *,
    k1: int,
    k2: int,
    variant: Literal["released", "paper"] = "released",
    remove: bool = True,
    expand: bool = True,
) -> Float[np.ndarray, "q r g"]:
    """How far each gallery image t moves result[q, r] towards query q: the terms kept[q, t] M[t, result[q, r]] of AIM.

    Their sum over t is the plain distance (1 - A_qg for "paper", -A_qg for "released") less that of `aim` with the
    same arguments; a term below 0 moves the result away. result: gallery rows. Only the affinities that these results
    need are computed. Raises ValueError for an unknown variant, wrong k1 or k2, an empty gallery, a result that is no
    gallery row, and features as `checks.checked` does. Eq. 6 to 10, written as a sum (Section 3.3).
    """
    choice("variant", variant, ("released", "paper"))
    query, gallery = checked_pair(query, gallery)
    counts = neighbour_counts(len(gallery), k1=k1, k2=k2)
    result = np.asarray(result)
    if result.ndim != 2 or len(result) != len(query) or not np.issubdtype(result.dtype, np.integer):
        raise ValueError(f"result is {result.dtype}{list(result.shape)}, expected whole numbers [{len(query)}, r]")
    if result.size and not 0 <= result.min() <= result.max() < len(gallery):
        raise ValueError(f"result has rows {result.min()} to {result.max()}, the gallery has {len(gallery)}")

    def kept(affinity):
        return keep_largest(affinity, counts["k1"]) if remove else affinity

    def expanded(rows):
        """Eq. 7 of some gallery images, f[len(rows) g]."""
        affinity = similarity(gallery[rows], gallery)
        if not expand or counts["k2"] == 1:
            return np.asarray(kept(affinity))
        nearest = np.asarray(top_k(affinity, counts["k2"])[1])
        among, place = np.unique(nearest, return_inverse=True)
        return np.asarray(kept(similarity(gallery[among], gallery)))[place.reshape(nearest.shape)].mean(1)

    own = kept(similarity(query, gallery))
    if variant == "released":  # M[t, g] is the expanded row of g at t
        rows, place = np.unique(result, return_inverse=True)
        factor = np.asarray(unit(jnp.asarray(expanded(rows))))[place.reshape(result.shape)]
        return np.asarray(unit(own))[:, None] * factor
    own = np.asarray(own)
    through = np.flatnonzero(own.any(0))  # M[t, g] is the expanded row of t at g; of other t nothing is kept
    terms = np.zeros((*result.shape, len(gallery)), np.float32)
    if len(through):
        terms[..., through] = own[:, None, through] * np.moveaxis(expanded(through)[:, result], 0, -1)
    return terms
