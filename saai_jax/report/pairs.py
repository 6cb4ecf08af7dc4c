"""Pairs of images of the same person and of different ones, counted out without a matrix of all of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from saai_jax.affinity.checks import checked
from saai_jax.affinity.cosine import unit_rows

BLOCK = 1 << 14  # pairs whose distances are computed together


class Distances(NamedTuple):
    """Cosine distances of the drawn pairs, and how many pairs there are. genuine: of one identity; impostor: of two."""

    genuine: Float[np.ndarray, a]
    impostor: Float[np.ndarray, b]
    genuine_pairs: int
    impostor_pairs: int


def cosine_distances(
    embedding: Float[np.ndarray, "n d"],
    identity: Int[np.ndarray, n],
    left: Int[np.ndarray, a],
    right: Int[np.ndarray, b] | None = None,
    *,
    limit: int = 100_000,
) -> Distances:
    """1 - cosine similarity, in [0, 2], of pairs of the rows `left`, or of a row of `left` and one of `right`.

    Of more than `limit` genuine or impostor pairs so many are drawn, always the same ones.
    """
    unit = unit_rows(checked(embedding, "embedding"))
    found = [pairs(identity, left, right, same=same, limit=limit) for same in (True, False)]
    values = [_distances(unit, rows) for rows, _ in found]
    return Distances(values[0], values[1], found[0][1], found[1][1])


def pairs(
    identity: Int[np.ndarray, n],
    left: Int[np.ndarray, a],
    right: Int[np.ndarray, b] | None = None,
    *,
    same: bool,
    limit: int,
    seed: int = 0,
) -> tuple[Int[np.ndarray, "p 2"], int]:
    """Up to `limit` different pairs of rows of the same identity, or of two, and how many such pairs there are.

    Without `right` both rows are of `left` and a pair counts once. The same arguments give the same pairs.
    """
    within = right is None
    other = np.asarray(left if right is None else right)
    other = other[np.argsort(identity[other], kind="stable")]
    left = other if within else np.asarray(left)
    # A row's mates lie from low to high of `other`, sorted by identity; within, only what comes after it counts.
    low, high = (np.searchsorted(identity[other], identity[left], side) for side in ("left", "right"))
    if within:
        low = np.arange(len(other)) + 1
    count = high - low if same else len(other) - high + (0 if within else low)
    end = np.cumsum(count)
    total = int(end[-1]) if len(end) else 0
    chosen = np.arange(total)
    if total > limit:
        chosen = np.sort(np.random.default_rng(seed).choice(total, limit, replace=False))
    row = np.searchsorted(end, chosen, side="right")
    place = chosen - (end - count)[row]
    if same:
        place = place + low[row]
    elif within:
        place = place + high[row]
    else:
        place = np.where(place < low[row], place, place + high[row] - low[row])
    return np.stack([left[row], other[place]], axis=1), total


def _distances(unit: Float[np.ndarray, "n d"], rows: Int[np.ndarray, "p 2"]) -> Float[np.ndarray, p]:
    blocks = (rows[i : i + BLOCK] for i in range(0, len(rows), BLOCK))
    return np.concatenate(
        [np.zeros(0), *(1 - (unit[b[:, 0]] * unit[b[:, 1]]).sum(1, dtype=np.float64) for b in blocks)]
    )
