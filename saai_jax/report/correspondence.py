"""Which positions of two images correspond (LbA, ICCV 2021, supplement, Section S5)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Aligned(NamedTuple):
    """Two images matched position by position, as `models.cmalign` does; of all, the first image's come first.

    probability f32[2 n n]: of each position of an image to correspond to each of the other's. mask, coattention
    f32[2 h w]: where an image shows a person, and where both do, from 0 to 1. Positions are row-major, n = h w.
    """

    probability: Float[np.ndarray, "2 n n"]
    mask: Float[np.ndarray, "2 h w"]
    coattention: Float[np.ndarray, "2 h w"]


class Matches(NamedTuple):
    """position, target i[k]: of the first and of the second image. probability f[k]: the highest one first."""

    position: Int[np.ndarray, k]
    target: Int[np.ndarray, k]
    probability: Float[np.ndarray, k]


def strongest(
    probability: Float[np.ndarray, "n m"],
    back: Float[np.ndarray, "m n"] | None = None,
    *,
    count: int = 20,
    mask: Float[np.ndarray, n] | None = None,
    target_mask: Float[np.ndarray, m] | None = None,
    threshold: float = 0.5,
) -> Matches:
    """Of every position the most probable target, and of these pairs the `count` most probable; ties by position.

    back: the probability in the other direction, which leaves pairs that are each other's most probable. The columns of
    `probability` do not tell: each of its rows has a scale of its own. mask, target_mask: leave pairs whose masks are
    `threshold` or more at both ends. The paper takes 20 and names neither filter; the threshold is our choice.
    Raises ValueError for values that are not finite, shapes that do not match and a count below 1.
    """
    if probability.ndim != 2 or not probability.size or not np.isfinite(probability).all():
        raise ValueError(f"probability has shape {probability.shape}, expected finite numbers f[n m]")
    n, m = probability.shape
    for name, array, shape in (("back", back, (m, n)), ("mask", mask, (n,)), ("target_mask", target_mask, (m,))):
        if array is not None and array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
    if count < 1:
        raise ValueError(f"count is {count}, expected at least 1")
    position, target = np.arange(n), probability.argmax(1)
    kept = np.full(n, True)
    if back is not None:
        kept &= back.argmax(1)[target] == position
    if mask is not None:
        kept &= mask >= threshold
    if target_mask is not None:
        kept &= target_mask[target] >= threshold
    order = np.argsort(-probability[position, target], kind="stable")
    order = order[kept[order]][:count]
    return Matches(order, target[order], probability[order, target[order]])


def centres(position: Int[np.ndarray, k], shape: tuple[int, int], size: tuple[int, int]) -> Float[np.ndarray, "k 2"]:
    """x and y of cells' centres in pixels. shape: rows and columns of the map. size: height and width in pixels."""
    row, column = np.unravel_index(position, shape)
    return np.stack([(column + 0.5) * size[1] / shape[1], (row + 0.5) * size[0] / shape[0]], axis=1)


def described(matches: Matches) -> str:
    """How many correspondences there are and the range of their probability, in words."""
    if not len(matches.position):
        return "no correspondence is left"
    low, high = matches.probability[-1], matches.probability[0]
    return f"{len(matches.position)} correspondences, probability {low:.3f} – {high:.3f}"
