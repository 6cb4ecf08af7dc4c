"""The gallery's own affinities, sparse on the host: neighbour lists, and the matrix that AIM multiplies by."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

BLOCK = 8  # entries of the matrix that are looked up together


class Lists(NamedTuple):
    """Every image's `w` most alike images, itself among them, most alike first, equal ones by row."""

    value: Float[np.ndarray, "n w"]
    index: Int[np.ndarray, "n w"]


def merged(old: Lists, new: Lists, width: int) -> Lists:
    """The `width` largest entries of both; rows of `new` lie after those of `old`, which win ties."""
    value = np.concatenate([old.value, new.value], 1)
    index = np.concatenate([old.index, new.index], 1)
    at = np.argsort(-value, axis=1, kind="stable")[:, :width]
    return Lists(np.take_along_axis(value, at, 1), np.take_along_axis(index, at, 1))


def narrowed(lists: Lists, rows: Int[np.ndarray, m], need: int) -> tuple[Lists, Int[np.ndarray, u]]:
    """The lists of the gallery that consists of `rows`, `need` long, and which of its images have to be listed anew.

    An image whose list has lost so many entries that others may take their places is one of the latter.
    """
    n, width = lists.value.shape
    new = np.full(n, -1, np.int32)
    new[rows] = np.arange(len(rows), dtype=np.int32)
    value, index = lists.value[rows], new[lists.index[rows]]
    value = np.where(index >= 0, value, -np.inf)
    # Equal affinities go by the new order.
    at = np.lexsort((index, -value), axis=1)
    value, index = np.take_along_axis(value, at, 1), np.take_along_axis(index, at, 1)
    # Beyond a list lie affinities up to its last one; they may tie with what is left.
    short = value[:, need - 1] <= (lists.value[rows, -1] if width < n else -np.inf)
    return Lists(value[:, :need], index[:, :need]), np.flatnonzero(short)


def tied(lists: Lists, k1: int) -> Int[np.ndarray, u]:
    """Rows in which affinities beyond the list may tie with the k1-th, which Eq. 6 keeps."""
    n, width = lists.value.shape
    if width == n:
        return np.zeros(0, np.int64)
    kth = lists.value[:, k1 - 1]
    return np.flatnonzero((lists.value[:, -1] >= kth) & (kth != 0))


def removed(lists: Lists, k1: int, tied: Int[np.ndarray, u], affinity: Float[np.ndarray, "u n"]):
    """Eq. 6 of the gallery as a sparse matrix [n n]; `affinity` are the whole rows of the images in `tied`."""
    n, width = lists.value.shape
    keep = lists.value >= lists.value[:, k1 - 1 : k1]
    keep[tied] = False
    row = np.repeat(np.arange(n, dtype=np.int32), width).reshape(n, width)[keep]
    column, value = lists.index[keep], lists.value[keep]
    if len(tied):
        kth = np.partition(affinity, n - k1, axis=1)[:, n - k1]
        extra, where = np.nonzero(affinity >= kth[:, None])
        row, column = np.concatenate([row, tied[extra]]), np.concatenate([column, where])
        value = np.concatenate([value, affinity[extra, where]])
    return csr_array((value, (row, column)), shape=(n, n))


def factor(kept: Any, nearest: Int[np.ndarray, "n k2"], variant: str) -> Any:
    """M of d* = (removed query-gallery affinities) M: Eq. 7, and what the variant makes of it before Eq. 9.

    "paper": the expanded matrix. "released": its rows scaled to length 1, transposed.
    """
    n, k2 = nearest.shape
    begin = np.arange(0, n * k2 + 1, k2)
    mean = csr_array((np.full(n * k2, 1 / k2, np.float32), nearest.ravel(), begin), shape=(n, n))
    expanded: Any = csr_array(mean @ kept)
    if variant == "paper":
        return expanded
    norm = np.sqrt(expanded.power(2).sum(1))
    expanded.data /= np.repeat(np.maximum(norm, 1e-12), np.diff(expanded.indptr)).astype(np.float32)
    return csr_array(expanded.T)


def parts(matrix: Any, devices: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each device's `columns` columns, every row in blocks: as `tiles.Spread`, the device in front."""
    own = [matrix[:, i * columns : (i + 1) * columns] for i in range(devices)] if devices > 1 else [matrix]
    lengths = [np.diff(part.indptr) for part in own]
    begin = np.stack([np.append(0, np.cumsum(-(-length // BLOCK))) for length in lengths])
    # Few sizes, so that galleries of about one size share what is compiled.
    shape = devices, rounded(max(1, int(begin[:, -1].max()))) * BLOCK
    column, weight = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    for i, part in enumerate(own):
        at = np.arange(part.nnz) + np.repeat(begin[i, :-1] * BLOCK - part.indptr[:-1], lengths[i])
        column[i, at], weight[i, at] = part.indices, part.data
    return begin.astype(np.int32), column.reshape(devices, -1, BLOCK), weight.reshape(devices, -1, BLOCK)


def rounded(n: int) -> int:
    """n or up to 3 % more: a number with five significant bits."""
    step = max(1, 1 << max(n.bit_length() - 6, 0))
    return -(-n // step) * step
