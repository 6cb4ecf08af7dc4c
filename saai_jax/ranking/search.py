"""Ranking one set of embeddings against another, for pictures of one's own: no identities, no protocol."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from saai_jax.affinity.checks import checked, neighbour_counts
from saai_jax.affinity.nearest import Nearest
from saai_jax.files import atomic_write
from saai_jax.ranking.evaluate import Distance

HEADER = ("query", "rank", "gallery", "distance")


def search(query: Float[np.ndarray, "q d"], gallery: Float[np.ndarray, "g d"], distance: Distance, top: int) -> Nearest:
    """The `top` gallery rows nearest to every query by any distance of `saai_jax.affinity`; the earlier one of equals.

    Distances of all pairs are held at once: for galleries beyond that, AIM has `affinity.Gallery.search`, which gives
    the same. Raises ValueError for an empty gallery, features that the distance refuses, top that is not a positive
    integer, and distances that are not finite; warns if top exceeds the gallery.
    """
    top = neighbour_counts(len(gallery), top=top)["top"]
    if not len(query):
        return Nearest(np.zeros((0, top), np.int32), np.zeros((0, top), np.float32))
    matrix = np.asarray(checked(distance(query, gallery), "distance", len(gallery), scaled=False))
    order = np.argsort(matrix, axis=1, kind="stable")[:, :top]
    return Nearest(order.astype(np.int32), np.take_along_axis(matrix, order, 1))


def write_csv(file: str | os.PathLike, nearest: Nearest, query: Sequence[str], gallery: Sequence[str]) -> None:
    """Writes a line for every place of every list: query path, rank from 1, gallery path, distance; smaller is closer.

    A path that a spreadsheet would take for a formula gets ./ in front, and is the same path.
    query, gallery: the paths of the rows that were searched. Whole or not at all. Raises ValueError if they do not
    fit the results.
    """
    index, distance = nearest
    if len(index) != len(query) or index.shape != distance.shape:
        raise ValueError(f"results are of {len(index)} queries, and {len(query)} paths were given")
    if index.size and not 0 <= index.min() <= index.max() < len(gallery):
        raise ValueError(f"results name gallery row {index.max()}, and {len(gallery)} paths were given")
    with atomic_write(file) as temporary, open(temporary, "w", newline="", encoding="utf-8") as stream:
        lines = csv.writer(stream)
        lines.writerow(HEADER)
        for path, rows, values in zip(query, index, distance, strict=True):
            for rank, (row, value) in enumerate(zip(rows, values, strict=True), 1):
                lines.writerow((_cell(path), rank, _cell(str(gallery[row])), f"{value:.6f}"))


def _cell(path: str) -> str:
    return f"./{path}" if path.startswith(("=", "+", "-", "@", "\t", "\r")) else path
