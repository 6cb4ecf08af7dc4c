"""What AIM computes on the accelerator for a tile of images against the whole gallery, spread over a mesh.

Everything here runs inside shard_map: a tile of unit rows [t d] is the same on all devices, the gallery's unit rows
[m d] are each device's own (`count` of them real over all devices, the rest filling), and so are the columns of what
is computed.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from saai_jax.affinity.cosine import Precision, dot
from saai_jax.affinity.mesh import AXIS
from saai_jax.affinity.topk import top_k, top_k_of_all

CHUNK = 1 << 11  # blocks of entries spread at a time
SPARE = 4  # under "fast", how many times as many candidates are scored again in float32


class Spread(NamedTuple):
    """The sparse matrix M of d* = kept M, each device's columns of it: blocks begin[r] .. begin[r+1] are row r's.

    The last block of a row is filled up with weights of 0.
    """

    begin: Int[Array, " n+1"]
    column: Int[Array, "e b"]
    weight: Float[Array, "e b"]


def affinities(tile: Float[Array, "t d"], gallery: Float[Array, "m d"], count: Int[Array, ""], precision: Precision):
    """Cosine similarities f[t m] of unit rows; -inf at the filling."""
    m = gallery.shape[0]
    real = lax.axis_index(AXIS) * m + jnp.arange(m) < count
    return jnp.where(real, dot(tile, gallery, precision), -jnp.inf)


def rescored(tile, gallery, affinity, k: int):
    """affinity with the k largest of each row computed anew in float32, and everything below them left out (-inf)."""
    index = top_k(affinity, min(k, affinity.shape[1]))[1]
    exact = jnp.einsum("td,tkd->tk", tile, gallery[index], precision="highest")
    row = jnp.arange(len(tile))[:, None]
    exact = jnp.where(jnp.isneginf(affinity[row, index]), -jnp.inf, exact)
    return jnp.full_like(affinity, -jnp.inf).at[row, index].set(exact)


def neighbours(tile, gallery, count, *, k: int, precision: Precision):
    """The k images most like each of the tile's, over the whole gallery: affinities f[t k], rows i[t k]."""
    affinity = affinities(tile, gallery, count, precision)
    if precision == "fast":
        affinity = rescored(tile, gallery, affinity, SPARE * k)
    return top_k_of_all(affinity, k)


def rows(tile, gallery, count, *, precision: Precision):
    """Whole rows of affinities f[t n], the same on all devices."""
    return lax.all_gather(affinities(tile, gallery, count, precision), AXIS, axis=1, tiled=True)


def subtract_spread(distance, kept: Float[Array, "t k"], index: Int[Array, "t k"], spread: Spread):
    """distance f[t m] minus kept M, where kept holds the non-zeros of a row of Eq. 6 and index their columns."""
    t, k = kept.shape
    begin = spread.begin[index].ravel()
    length = jnp.where(kept.ravel() != 0, spread.begin[index + 1].ravel() - begin, 0)
    end = jnp.cumsum(length)

    def add(step, distance):
        # Block e of the tile's is the (e - start)-th of the list it falls into.
        e = step * CHUNK + jnp.arange(CHUNK)
        which = jnp.minimum(jnp.searchsorted(end, e, side="right"), t * k - 1)
        at = begin[which] + e - (end[which] - length[which])
        row = jnp.where(e < end[-1], which // k, t)[:, None]
        # No fused multiply-add, as in `revised`.
        part = lax.optimization_barrier(-kept.ravel()[which][:, None] * spread.weight[at])
        return distance.at[row, spread.column[at]].add(part, mode="drop")

    return lax.fori_loop(0, -(-end[-1] // CHUNK), add, distance)


def revised(
    affinity: Float[Array, "t m"],
    candidates: Float[Array, "t m"],
    count: Int[Array, ""],
    spread: Spread,
    *,
    k1: int,
    width: int,
    variant: str,
) -> tuple[Float[Array, "t m"], Bool[Array, ""]]:
    """AIM distances to each device's own gallery rows, and whether ties did not fit.

    candidates: the affinities that are exact, -inf elsewhere; width: how many of a row's largest are looked at. The
    result is exact if none beyond them ties with the k1-th (Eq. 6), else the flag is true: more have to be looked at.
    """
    value, index = top_k_of_all(candidates, width)
    kth = value[:, k1 - 1 : k1]
    kept = jnp.where(value >= kth, value, 0)
    # Ties at 0 beyond the list change nothing: what is kept of them is 0.
    cut = ((value[:, -1:] >= kth) & (kth != 0)).any() & (width < count)
    base = -affinity if variant == "released" else 1 - affinity
    if variant == "released":
        # Column after column, and not fused with the squares: how XLA adds up rows depends on how many there are, and
        # a query's distances would on the other queries.
        square = lax.optimization_barrier(jnp.square(kept))
        total = lax.fori_loop(0, width, lambda i, total: total + square[:, i], jnp.zeros(len(kept)))
        kept /= jnp.maximum(jnp.sqrt(total), 1e-12)[:, None]
    return subtract_spread(base, kept, index, spread), cut


def from_features(tile, gallery, count, spread, *, width: int, precision: Precision, **how):
    """Affinities f[t m] of a tile's images with each device's own gallery rows, `revised`, and the flag."""
    affinity = affinities(tile, gallery, count, precision)
    candidates = rescored(tile, gallery, affinity, SPARE * width) if precision == "fast" else affinity
    return affinity, *revised(affinity, candidates, count, spread, width=width, **how)


def nearest(tile, gallery, count, spread, *, top: int, precision: Precision, **how):
    """The `top` gallery rows i[t top] nearest to each of the tile's images by AIM, their distances, and the flag."""
    affinity, distance, cut = from_features(tile, gallery, count, spread, precision=precision, **how)
    if precision == "fast":
        # Only the affinity was rounded: what was spread is from float32 lists.
        at = top_k(-distance, min(SPARE * top, distance.shape[1]))[1]
        row = jnp.arange(len(tile))[:, None]
        exact = jnp.einsum("td,tkd->tk", tile, gallery[at], precision="highest")
        scored = distance[row, at] + jnp.where(jnp.isneginf(affinity[row, at]), 0, affinity[row, at] - exact)
        distance = jnp.full_like(distance, jnp.inf).at[row, at].set(scored)
    value, index = top_k_of_all(-distance, top)
    return index, -value, cut


def whole(tile, gallery, count, spread, **how):
    """AIM distances f[t n] to all gallery images, the same on all devices, and the flag."""
    _, distance, cut = from_features(tile, gallery, count, spread, **how)
    return lax.all_gather(distance, AXIS, axis=1, tiled=True), cut


def given(affinity, count, spread, **how):
    """`whole` where the affinities f[t n] are known and the gallery lies on one device."""
    return revised(affinity, affinity, count, spread, **how)


@functools.lru_cache(maxsize=128)
def over(mesh: jax.sharding.Mesh, kernel, **how):
    """A kernel of this module over the mesh, its options fixed, jitted once."""
    own, all_ = jax.P(AXIS), jax.P()
    inputs = (all_, all_) if kernel is given else (all_, own, all_)
    inputs += () if kernel in (neighbours, rows) else (own,)  # for every array of Spread

    def run(*arrays):
        # A device's part of M comes with a leading axis of 1.
        return kernel(*(Spread(*(x[0] for x in a)) if isinstance(a, Spread) else a for a in arrays), **how)

    return jax.jit(jax.shard_map(run, mesh=mesh, in_specs=inputs, out_specs=all_, check_vma=False))
