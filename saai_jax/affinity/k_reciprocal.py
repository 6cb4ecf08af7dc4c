"""k-reciprocal encoding over queries and gallery together (Zhong et al., CVPR 2017)."""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.sparse import csr_array

from saai_jax.affinity.checks import Rows, checked_pair, choice, fractions, neighbour_counts
from saai_jax.affinity.cosine import dot, unit
from saai_jax.affinity.topk import top_k


@functools.partial(jax.jit, static_argnames=("candidates", "k"))
def _nearest(features, *, candidates: int, k: int):
    """Squared distances of all pairs, and the k nearest to each image among the first `candidates`, itself first."""
    features = unit(features)
    length = jnp.square(features).sum(1)
    itself = jnp.eye(len(features), dtype=bool)
    squared = jnp.maximum(length[:, None] + length - 2 * dot(features, features), 0)
    squared = jnp.where(itself, 0, squared)
    # Itself first, whatever equals it: the released sort leaves equal images in any order.
    return squared, top_k(-jnp.where(itself, -1, squared)[:, :candidates], k)[1]


def _rows(lists: Int[np.ndarray, "n k"], value: float) -> csr_array:
    """The value at the indices of each list."""
    n, k = lists.shape
    return csr_array((np.full(n * k, value), lists.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))


def _pairs(x: csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every entry held, in the order of `data`."""
    return np.repeat(np.arange(len(x.indptr) - 1), np.diff(x.indptr)), x.indices


def _reciprocal(lists: Int[np.ndarray, "n k"]) -> csr_array:
    """1 where two images list each other."""
    listed = _rows(lists, 1)
    return csr_array(listed.multiply(listed.T))


def _expanded(nearest: Int[np.ndarray, "n k"], k1: int, inclusive: bool) -> csr_array:
    """R* (Section 3.2): entries at reciprocal images and at the half sets that lie two thirds in theirs."""
    mutual, half = _reciprocal(nearest[:, : k1 + 1]), _reciprocal(nearest[:, : round(k1 / 2) + 1])
    shared = csr_array(csr_array(mutual @ half).multiply(mutual))
    row, column = _pairs(shared)
    size = np.diff(half.indptr)[column]
    # In integers, as 2/3 is no float.
    admitted = 3 * shared.data >= 2 * size if inclusive else 3 * shared.data > 2 * size
    joined = csr_array((np.ones(admitted.sum()), (row[admitted], column[admitted])), shape=mutual.shape)
    return csr_array(mutual + joined @ half)


def _jaccard(queries: csr_array, gallery: csr_array) -> Float[np.ndarray, "q g"]:
    """1 - sum of minima / sum of maxima of all pairs of rows (Section 3.3).

    Rows hold tens of weights of n, so a query is compared at these only, with the images that hold them too.
    """
    holders = csr_array(gallery.T)
    shared = np.zeros((len(queries.indptr) - 1, len(gallery.indptr) - 1))
    for i, row in enumerate(shared):
        own = slice(queries.indptr[i], queries.indptr[i + 1])
        met = holders[queries.indices[own]]
        least = np.minimum(met.data, np.repeat(queries.data[own], np.diff(met.indptr)))
        row[:] = np.bincount(met.indices, least, minlength=len(row))
    union = np.asarray(queries.sum(1))[:, None] + np.asarray(gallery.sum(1)) - shared
    return 1 - shared / np.where(union > 0, union, 1)


def k_reciprocal(
    query: Float[Rows, "q d"],
    gallery: Float[Rows, "g d"],
    *,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
    neighbours: Literal["all", "query"] = "all",
    variant: Literal["released", "paper"] = "released",
) -> Float[Array, "q g"]:
    """(1 - weight) Jaccard distance + weight plain distance (Section 3.5), smaller is closer; features of any scale.

    The Jaccard distance compares, over all n = q + g images, the weights exp(-d) that an image gives to its expanded
    reciprocal neighbours R* (Sections 3.2, 3.3): itself and those of the k1 nearest others that have it among theirs,
    joined by the sets at round(k1 / 2) of those whose own set lies two thirds in it. k2: images, itself first, whose
    weights are averaged (Section 3.4); 1 for none. weight: the paper's lambda. d is the squared Euclidean distance of
    the normalised features.
    variant: "released" divides each image's d by its largest, weights by their sum, and needs more than two thirds;
        "paper" takes d and the weights as they are, and two thirds suffice.
    neighbours: "all" ranks queries and gallery together. "query" ranks for every image only the queries, what code
        after MPANet does by setting gallery columns to the maximum: a gallery image, then no one's neighbour, has no
        weights of its own and takes the mean of its k2 nearest queries'. Its k2=1 leaves the plain distance's order.

    Transductive: a query's distances change with the queries that come along, "query" rests on nothing else. Figures
    are not comparable with those of aim and sim, which see one query and the gallery.

    The distances and the ranking run on the device, the sparse sets on the host: it cannot be traced. Takes n x n
    floats. k1 and k2 above the images ranked are lowered to them, with a warning. Raises ValueError for k1 or k2 that
    is no positive integer, a weight outside [0, 1], unknown neighbours or variant, an empty gallery, and features as
    `checks.checked` does.
    """
    choice("neighbours", neighbours, ("all", "query"))
    choice("variant", variant, ("released", "paper"))
    fractions(weight=weight)
    query, gallery = checked_pair(query, gallery)
    if not len(gallery):
        raise ValueError("the gallery is empty")
    q, n = len(query), len(query) + len(gallery)
    if not q:
        return jnp.zeros((0, n))
    candidates, of = (n, "the {} query and gallery images") if neighbours == "all" else (q, "the {} query images")
    k1, k2 = neighbour_counts(candidates, of=of, k1=k1, k2=k2).values()
    features = jnp.concatenate([query, gallery])
    distance, nearest = map(np.asarray, _nearest(features, candidates=candidates, k=min(max(k1 + 1, k2), candidates)))
    if variant == "released":
        distance = distance / np.maximum(distance.max(1, keepdims=True), 1e-12)
    weights = _expanded(nearest, k1, inclusive=variant == "paper")
    row, column = _pairs(weights)
    weights.data = np.exp(-distance[row, column].astype(np.float64))
    if variant == "released":
        weights.data /= np.asarray(weights.sum(1))[row]
    if k2 > 1:
        weights = csr_array(_rows(nearest[:, :k2], 1 / k2) @ weights)
    jaccard = _jaccard(csr_array(weights[:q]), csr_array(weights[q:]))
    return jnp.asarray((1 - weight) * jaccard + weight * distance[:q, q:], jnp.float32)
