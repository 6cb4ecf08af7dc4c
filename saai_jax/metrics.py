"""CMC, average precision and inverse negative penalty of every query at once, on the accelerator."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

ABSENT = -1  # the rank of a query without a true match


class RankMetrics(NamedTuple):
    """Per-query results; entries of a query without a valid true match are ABSENT or 0.

    rank i[q]: place of the first true match, from 0. identity_rank i[q]: the same with every other identity counted
    once (SYSU-MM01's CMC). average_precision, inverse_negative_penalty f[q] in [0, 1]. matched bool[q].
    """

    rank: Int[np.ndarray, q]
    identity_rank: Int[np.ndarray, q]
    average_precision: Float[np.ndarray, q]
    inverse_negative_penalty: Float[np.ndarray, q]
    matched: Bool[np.ndarray, q]


def _slots(identity: Int[np.ndarray, g]) -> tuple[Int[np.ndarray, u], Int[np.ndarray, "u p"]]:
    """The gallery's identities and each one's rows in gallery order, filled up with g."""
    unique, inverse, count = np.unique(identity, return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    column = np.arange(len(identity)) - np.repeat(np.cumsum(count) - count, count)
    slot = np.full((len(unique), count.max()), len(identity), np.int32)
    slot[inverse[order], column] = order
    return unique, slot


@functools.partial(jax.jit, static_argnames="block")
def _rank(distance, own, valid, slot, *, block: int = 64):
    """Counts instead of sorting: a true match's place is the number of valid gallery images before it."""
    g = distance.shape[1]
    index = jnp.arange(g)

    def one(row):
        distance, own, valid = row
        far = jnp.append(jnp.where(valid, distance, jnp.inf), jnp.inf)  # entry g: the filling of slots
        mine = slot[own]  # [p] gallery rows of the query's identity
        mine_distance = far[mine]
        real = jnp.append(valid, False)[mine]
        ahead = (far[:g] < mine_distance[:, None]) | ((far[:g] == mine_distance[:, None]) & (index < mine[:, None]))
        place = jnp.where(real, (ahead & valid).sum(1) + 1, g + 1)
        matches = real.sum()
        hit = (place <= place[:, None]).sum(1, where=real)  # the how-many-th match each match is
        precision = jnp.where(real, hit / place, 0).sum() / jnp.maximum(matches, 1)
        penalty = matches / jnp.maximum(jnp.where(real, place, 0).max(), 1)
        # An identity is met at its nearest image, the lowest gallery row among equals; then identities are counted.
        every = far[slot]
        nearest = every.min(1)
        first = jnp.where(every == nearest[:, None], slot, g).min(1)
        before = (nearest < nearest[own]) | ((nearest == nearest[own]) & (first < first[own]))
        return place.min() - 1, (before & jnp.isfinite(nearest)).sum(), precision, penalty, matches > 0

    return jax.lax.map(one, (distance, own, valid), batch_size=block)


def rank_metrics(
    distance: Float[Array, "q g"],
    query_identity: Int[np.ndarray, q],
    gallery_identity: Int[np.ndarray, g],
    valid: Bool[np.ndarray, "q g"],
) -> RankMetrics:
    """Ranks each query's valid gallery images by distance (ties by gallery order) and scores its true matches.

    valid is false where the protocol skips a gallery image for a query. Average precision is the mean of k / place
    over the k-th true matches; inverse negative penalty is matches / place of the last one.
    Raises ValueError for a distance that is not finite or whose shape is not [q g], and for an empty gallery.
    """
    shape = (len(query_identity), len(gallery_identity))
    if distance.shape != shape or valid.shape != shape:
        raise ValueError(f"distance is {distance.shape} and valid {valid.shape}, expected both {shape}")
    if not len(gallery_identity):
        raise ValueError("the gallery is empty: nothing can be ranked")
    if not bool(jnp.isfinite(distance).all()):
        bad = int(np.argmin(np.isfinite(np.asarray(distance)).all(1)))
        raise ValueError(f"distance row {bad} is not finite; its query cannot be ranked")
    unique, slot = _slots(np.asarray(gallery_identity))
    own = np.minimum(np.searchsorted(unique, query_identity), len(unique) - 1)
    known = unique[own] == query_identity
    rank, identity_rank, precision, penalty, matched = (
        np.asarray(x) for x in _rank(distance, own, jnp.asarray(valid), slot)
    )
    matched = matched & known
    return RankMetrics(
        np.where(matched, rank, ABSENT),
        np.where(matched, identity_rank, ABSENT),
        np.where(matched, precision, 0),
        np.where(matched, penalty, 0),
        matched,
    )


def cmc(rank: Int[np.ndarray, q], length: int) -> Float[np.ndarray, length]:
    """Share of matched queries whose rank is below 1, 2, .. length, in [0, 1].

    Raises ValueError if no query has a match.
    """
    found = rank[rank != ABSENT]
    if not len(found):
        raise ValueError("no query has a true match in the gallery: nothing can be scored")
    return np.cumsum(np.bincount(found, minlength=length)[:length]) / len(found)
