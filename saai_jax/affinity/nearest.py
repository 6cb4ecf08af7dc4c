"""What a search gives, and how alike two searches are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Nearest(NamedTuple):
    """Results of a search, nearest first: gallery rows i32[q top] and their distances f32[q top]."""

    index: Int[np.ndarray, "q top"]
    distance: Float[np.ndarray, "q top"]


def agreement(a: Nearest, b: Nearest) -> dict[str, float]:
    """How alike two searches with the same queries are, in [0, 1].

    first: queries with the same nearest image; places: places of the lists with the same image; lists: images of a's
    lists that b's have too, at whatever place. Raises ValueError for results of different size.
    """
    if a.index.shape != b.index.shape or not a.index.size:
        raise ValueError(f"results are {a.index.shape} and {b.index.shape}, expected the same and some queries")
    same = a.index == b.index
    shared = [len(np.intersect1d(x, y)) for x, y in zip(a.index, b.index, strict=True)]
    return {
        "first": float(same[:, 0].mean()),
        "places": float(same.mean()),
        "lists": float(np.mean(shared) / a.index.shape[1]),
    }
