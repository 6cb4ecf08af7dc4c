"""SIM: paths through gallery images and neighbours in common (Jia et al., IJCAI 2020, Sections 3.2-3.4)."""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from saai_jax.affinity.checks import Rows, checked_pair, choice, fractions, neighbour_counts
from saai_jax.affinity.cosine import distance_between, unit
from saai_jax.affinity.topk import top_k

QUERIES_AT_ONCE = 32  # of the q x g x k path lengths; all of SYSU's would be 0.4 GB


def nearest(distance: Float[Array, "g g"], k: int, own: bool) -> Int[Array, "g k"]:
    """The k images nearest to each; the image itself comes first, whatever ties with it, or not at all."""
    itself = jnp.eye(len(distance), dtype=bool)
    return top_k(-jnp.where(itself, -1.0 if own else jnp.inf, distance), k)[1]


def members(lists: Int[Array, "n k"], size: int) -> Bool[Array, "n size"]:
    """Lists of indices as rows of a membership matrix."""
    return jnp.zeros((len(lists), size), bool).at[jnp.arange(len(lists))[:, None], lists].set(True)


def count(a: Bool[Array, "n m"], b: Bool[Array, "m p"]) -> Float[Array, "n p"]:
    """Matrix product of 0 and 1: exact below 2**24."""
    return jnp.matmul(a.astype(jnp.float32), b.astype(jnp.float32), precision="highest")


def linked(distance: Float[Array, "g g"], k: int, own: bool) -> Bool[Array, "g g"]:
    """Pairs of which at least one image lists the other among its k nearest."""
    listed = members(nearest(distance, k, own), len(distance))
    return listed | listed.T


@functools.partial(jax.jit, static_argnames="normalise")
def _distances(query, gallery, *, normalise):
    if normalise:
        query, gallery = unit(query), unit(gallery)
    # Rounding leaves an image 1e-3 from itself.
    among = jnp.where(jnp.eye(len(gallery), dtype=bool), 0, distance_between(gallery, gallery))
    return distance_between(query, gallery), among


def _paths(query_gallery, among, *, scale, paths, neighbours, own, width):
    """Eq. 5, Algorithm 1 lines 3-9; `width` places for a list that has more than `neighbours`, 0 where none has."""
    if width:
        edge = linked(among, neighbours, own)
        lists = jax.lax.top_k(jnp.where(edge, -among, -jnp.inf), width)[1]
        edges = jnp.where(jnp.take_along_axis(edge, lists, 1), scale * jnp.take_along_axis(among, lists, 1), jnp.inf)
    else:
        lists = nearest(among, neighbours, own)
        edges = scale * jnp.take_along_axis(among, lists, 1)

    def one(row: Float[Array, " g"]) -> Float[Array, " g"]:
        lengths = row[lists] + edges
        return (lengths if paths == lengths.shape[1] else -jax.lax.top_k(-lengths, paths)[0]).mean(1)

    return jax.lax.map(one, query_gallery, batch_size=QUERIES_AT_ONCE)


def _reciprocal(among, *, kg, own, expand):
    """R*(g): images that have each other among their kg nearest; expand: Zhong et al. 2017, Section 3.2."""
    listed = members(nearest(among, kg, own), len(among))
    mutual = listed & listed.T
    if not expand:
        return mutual
    listed = members(nearest(among, max(1, round(kg / 2)), own), len(among))
    half = listed & listed.T
    admitted = mutual & (3 * count(mutual, half) >= 2 * half.sum(1))
    grown = mutual | (count(admitted, half) > 0)
    return grown if own else grown & ~jnp.eye(len(among), dtype=bool)


@functools.partial(
    jax.jit, static_argnames=("graph", "mutual", "paths", "neighbours", "kq", "kg", "own", "expand", "width")
)
def _sim(query_gallery, among, *, graph, mutual, scale, paths, neighbours, kq, kg, alpha, own, expand, width):
    reached = query_gallery
    if graph:
        reached = _paths(query_gallery, among, scale=scale, paths=paths, neighbours=neighbours, own=own, width=width)
    if not mutual:
        return reached
    near = members(top_k(-reached, kq)[1], len(among))
    reciprocal = _reciprocal(among, kg=kg, own=own, expand=expand)
    shared = count(near, reciprocal.T)
    return alpha * reached + (1 - alpha) * (1 - shared / (kq + reciprocal.sum(1) - shared))


def sim(
    query: Float[Rows, "q d"],
    gallery: Float[Rows, "g d"],
    *,
    graph: bool = True,
    mutual: bool = True,
    scale: float = 0.01,
    paths: int = 9,
    neighbours: int = 9,
    kq: int = 20,
    kg: int = 20,
    alpha: float = 0.3,
    own: bool = True,
    edges: Literal["nearest", "either"] = "nearest",
    expand: bool = False,
    normalise: bool = True,
) -> Float[Array, "q g"]:
    """alpha d_S + (1 - alpha) d_M, smaller is closer (Eq. 8).

    graph: d_S, the mean of the `paths` (K) shortest ways from the query over one of the `neighbours` (k) gallery images
    nearest to g_j, on to g_j at `scale` (lambda) times their distance (Eq. 5). Without it the L2 distance stands for
    d_S. mutual: d_M, 1 - intersection over union of the query's `kq` nearest gallery images by d_S and the images that
    g_j is reciprocal with among `kg` (Eq. 7). Without it the result is d_S. alpha=0 without graph is d_M alone.

    The paper states scale 0.01, K 9 and alpha 0.3 (its text once swaps the symbols) and leaves open, with our defaults:
    neighbours: k of the lists, at least K. kq, kg: never given.
    own: g_j belongs to its own list and reciprocal set, and counts in `neighbours` and `kg`. The way of one edge is a
        way over g_j itself, so False drops the plain distance from d_S.
    edges: "nearest" goes over g_j's own list (Algorithm 1), "either" also over images that list g_j (the text, where
        the edges are undirected); the latter cannot be traced, as its lists are as long as the data make them.
    expand: the star of R*: joined by the reciprocal sets at round(kg / 2) of its members that lie two thirds in it.
    normalise: features to length 1, which puts d_S in [0, 2 + 2 scale] beside d_M in [0, 1].
    Of equal distances the earlier gallery image is the nearer. All gallery images take part: a protocol's filter, such
    as the same-camera rule, is applied to the ranking. Other queries change a query's distances by rounding alone.

    Numbers above the gallery's size (less one without own) are lowered to it, with a warning. Raises ValueError for
    those in use that are no positive integers, paths above neighbours, scale or alpha outside [0, 1], unknown edges,
    neither graph nor mutual, an empty gallery, a single image without own, and features as `checks.checked` does.
    """
    choice("edges", edges, ("nearest", "either"))
    fractions(scale=scale, alpha=alpha)
    query, gallery = checked_pair(query, gallery, scaled=normalise)
    if not graph and not mutual:
        raise ValueError("graph and mutual are both False, expected at least one of them")
    if len(gallery) == 1 and not own:
        raise ValueError("own is False, expected True for a gallery of one image, which has no other neighbour")
    others = len(gallery) - (len(gallery) > 0 and not own)
    of = "the gallery's {} images" if own else "the {} other images of the gallery"
    counts = dict.fromkeys(("paths", "neighbours", "kq", "kg"), 1)
    if graph:
        counts |= neighbour_counts(others, of=of, paths=paths, neighbours=neighbours)
        if paths > neighbours:
            raise ValueError(f"paths is {paths}, expected at most neighbours={neighbours}")
    if mutual:
        counts |= neighbour_counts(len(gallery), kq=kq) | neighbour_counts(others, of=of, kg=kg)
    query_gallery, among = _distances(query, gallery, normalise=normalise)
    width = 0
    if graph and edges == "either":
        width = int(linked(among, counts["neighbours"], own).sum(1).max())
    return _sim(
        query_gallery, among, graph=graph, mutual=mutual, scale=scale, alpha=alpha, own=own, expand=expand,
        width=width, **counts,
    )  # fmt: skip
