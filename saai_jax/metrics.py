"""CMC, average precision and inverse negative penalty of every query at once, on the accelerator."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

ABSENT = -1  # the rank of a query without a true match
BLOCK, UNROLL = 128, 16  # queries at a time, and gallery images in a step of the count


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


@functools.partial(jax.jit, static_argnames="most")
def _rank(distance, own, valid, slot, *, most: int):
    """Counts instead of sorting: a true match's place is the number of valid gallery images before it.

    most: images of an identity that is asked for; distractors may have thousands under one number.
    """
    q, g = distance.shape
    blocks = -(-q // BLOCK)
    rows = -(-(g + 1) // UNROLL) * UNROLL  # at least one row of filling: entry g, what slots are filled up with

    def one(block):
        distance, own, valid = block
        # The queries are the fast axis, [g b]: every step below then works on whole vectors of them.
        far = jnp.pad(jnp.where(valid, distance, jnp.inf).T, ((0, rows - g), (0, 0)), constant_values=jnp.inf)
        mine = slot[:, :most][own].T  # [p b] gallery rows of the query's identity
        mine_distance = jnp.take_along_axis(far, mine, 0)
        real = jnp.isfinite(mine_distance)

        def count(step, ahead):
            for i in range(UNROLL):
                j = step * UNROLL + i
                row = jax.lax.dynamic_slice_in_dim(far, j, 1, 0)
                ahead += (row < mine_distance) | ((row == mine_distance) & (j < mine))
            return ahead

        ahead = jax.lax.fori_loop(0, rows // UNROLL, count, jnp.zeros(mine.shape, jnp.int32))
        place = jnp.where(real, ahead + 1, g + 1)
        matches = real.sum(0)
        hit = ((place[None] <= place[:, None]) & real[None]).sum(1)  # the how-many-th match each match is
        precision = jnp.where(real, hit / place, 0).sum(0) / jnp.maximum(matches, 1)
        penalty = matches / jnp.maximum(jnp.where(real, place, 0).max(0), 1)

        # An identity is met at its nearest image, the lowest gallery row among equals; then identities are counted.
        def meet(i, met):
            nearest, first = met
            image = slot[:, i]  # [u] in gallery order
            nearer = far[image] < nearest
            return jnp.where(nearer, far[image], nearest), jnp.where(nearer, image[:, None], first)

        unmet = jnp.full((len(slot), BLOCK), jnp.inf), jnp.full((len(slot), BLOCK), g, jnp.int32)
        nearest, first = jax.lax.fori_loop(0, slot.shape[1], meet, unmet)
        own_nearest, own_first = (jnp.take_along_axis(x, own[None], 0) for x in (nearest, first))
        before = (nearest < own_nearest) | ((nearest == own_nearest) & (first < own_first))
        return place.min(0) - 1, (before & jnp.isfinite(nearest)).sum(0), precision, penalty, matches > 0

    fill = ((0, blocks * BLOCK - q), (0, 0))
    blocked = (
        jnp.pad(distance, fill).reshape(blocks, BLOCK, g),
        jnp.pad(own, fill[0]).reshape(blocks, BLOCK),
        jnp.pad(valid, fill).reshape(blocks, BLOCK, g),
    )
    return [x.ravel()[:q] for x in jax.lax.map(one, blocked)]


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
    most = max(1, int((slot[own[known]] < shape[1]).sum(1).max(initial=1)))
    rank, identity_rank, precision, penalty, matched = (
        np.asarray(x) for x in _rank(distance, own, jnp.asarray(valid), slot, most=most)
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
