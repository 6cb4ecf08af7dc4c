"""Ranked lists of a trial's queries: whom to show, the first images under each method, and what moved AIM's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure

from saai_jax.affinity.cosine import cosine
from saai_jax.affinity.explain import contributions
from saai_jax.features.store import Features
from saai_jax.metrics import RankMetrics, cmc, rank_metrics
from saai_jax.ranking import evaluate
from saai_jax.report.pictures import Pictures, ranked_lists

TOP, LONGEST, MOVERS = 10, 20, 3  # images of a ranked list, ranks of a curve, images said to have moved a result
NAMES = {"euclidean": "Euclidean", "k_reciprocal": "k-reciprocal"}
NAMES |= {name: name.upper() for name in ("sim", "sgr", "mnnr", "aim")}
Trial = tuple[np.ndarray, np.ndarray]  # query rows i[q] and gallery rows i[g] of the features


class Ranked(NamedTuple):
    """The trial under one method; of the k queries to show the scores and the first images.

    curve: the CMC in percent. row i[k 10]: rows of the features; distance f[k 10]; kind str[k 10]: right, wrong, or
    skipped by the protocol, which keeps its place, so that a reader sees what the rule took away; rank i[k 10]: among
    those that are not skipped, 0 for one that is.
    """

    parameters: Mapping[str, Any]
    metrics: RankMetrics
    curve: Float[np.ndarray, c]
    row: Int[np.ndarray, "k 10"]
    distance: Float[np.ndarray, "k 10"]
    kind: np.ndarray
    rank: Int[np.ndarray, "k 10"]


class Moves(NamedTuple):
    """For AIM's results: place by cosine i[k 10], 0 if skipped; correction f[k 10]; rows i[k 10 t] and their terms.

    right bool[k 10 t]: which of these rows show the queried person.
    """

    place: Int[np.ndarray, "k 10"]
    correction: Float[np.ndarray, "k 10"]
    row: Int[np.ndarray, "k 10 t"]
    term: Float[np.ndarray, "k 10 t"]
    right: Bool[np.ndarray, "k 10 t"]


def examples(
    identity: Int[np.ndarray, n], query: Int[np.ndarray, q], gallery: Int[np.ndarray, g], number: int = 6
) -> Int[np.ndarray, k]:
    """Rows of a few queries, evenly spread over those whose identity is in the gallery."""
    present = query[np.isin(identity[query], identity[gallery])]
    return present[:: max(len(present) // number, 1)][:number]


def matched(
    images: Features, trial: Trial, valid: Bool[np.ndarray, "q g"], shown: Int[np.ndarray, k], number: int = 3
) -> Int[np.ndarray, "m 2"]:
    """Rows of the first of the queries `shown`, each beside the nearest true match by cosine that is not skipped.

    At most `number`; queries without such a match are passed over. Raises ValueError as `ranked`.
    """
    query, gallery = trial
    same = images.identity[gallery] == images.identity[shown][:, None]
    distance = np.asarray(cosine(images.embedding[shown], images.embedding[gallery]))
    distance = np.where(same & valid[_places(query, shown)], distance, np.inf)
    near = gallery[distance.argmin(1)]
    return np.stack([shown, near], 1)[np.isfinite(distance.min(1))][:number]


def ranked(
    images: Features,
    trial: Trial,
    valid: Bool[np.ndarray, "q g"],
    shown: Int[np.ndarray, k],
    distance: evaluate.Distance,
    parameters: Mapping[str, Any],
    *,
    unique_identities: bool,
) -> Ranked:
    """The trial by `distance`, in full, and the lists of its queries `shown`. Raises ValueError for one it has not."""
    query, gallery = trial
    place = _places(query, shown)
    # All queries are ranked, as in the results: some distances depend on which come together.
    matrix = distance(images.embedding[query], images.embedding[gallery])
    found = rank_metrics(matrix, images.identity[query], images.identity[gallery], valid)
    rank = found.identity_rank if unique_identities else found.rank
    places = len(np.unique(images.identity[gallery])) if unique_identities else len(gallery)
    curve = 100 * cmc(rank, min(LONGEST, places))
    matrix = np.asarray(matrix)[place]
    order = np.argsort(matrix, axis=1, kind="stable")[:, :TOP]
    near, skipped = np.take_along_axis(matrix, order, 1), ~np.take_along_axis(valid[place], order, 1)
    right = images.identity[gallery[order]] == images.identity[shown][:, None]
    kind = np.where(skipped, "skipped", np.where(right, "right", "wrong"))
    rank = np.where(skipped, 0, np.cumsum(~skipped, axis=1))
    return Ranked(parameters, RankMetrics(*(of[place] for of in found)), curve, gallery[order], near, kind, rank)


def moves(
    images: Features, trial: Trial, valid: Bool[np.ndarray, "q g"], shown: Int[np.ndarray, k], aim: Ranked
) -> Moves:
    """What moved the results of AIM away from where cosine distance has them."""
    query, gallery = trial
    place = _places(query, shown)
    queries, others = images.embedding[shown], images.embedding[gallery]
    column = _places(gallery, aim.row)
    own = {key: value for key, value in aim.parameters.items() if key in ("k1", "k2", "variant", "remove", "expand")}
    terms = contributions(queries, others, column, **own)
    most = np.argsort(-np.abs(terms), axis=2, kind="stable")[..., :MOVERS]
    # Places by plain cosine, among what the protocol does not skip.
    order = np.argsort(np.asarray(cosine(queries, others)), axis=1, kind="stable")
    counted = np.cumsum(np.take_along_axis(valid[place], order, 1), axis=1)
    plain = np.empty_like(counted)
    np.put_along_axis(plain, order, counted, 1)
    plain = np.where(aim.rank == 0, 0, np.take_along_axis(plain, column, 1))
    right = images.identity[gallery[most]] == images.identity[shown][:, None, None]
    return Moves(plain, terms.sum(2), gallery[most], np.take_along_axis(terms, most, 2), right)


def figure(pictures: Pictures, shown: Int[np.ndarray, k], methods: Mapping[str, Ranked]) -> Figure:
    """The lists of the queries `shown` under every method, as pictures."""
    row, kind = (np.stack([getattr(of, key) for of in methods.values()]) for key in ("row", "kind"))
    names = [NAMES.get(name, name) for name in methods]
    return ranked_lists(pictures(shown), pictures(row), kind == "right", kind == "skipped", names)


def _places(rows: Int[np.ndarray, n], chosen: Int[np.ndarray, "*k"]) -> Int[np.ndarray, "*k"]:
    """Where each of the chosen rows is among `rows`. Raises ValueError for one that is not there."""
    if missing := set(np.ravel(chosen).tolist()) - set(rows.tolist()):
        raise ValueError(f"row {min(missing)} is to be shown and is no query of the trial")
    order = np.argsort(rows)
    return order[np.searchsorted(rows, chosen, sorter=order)]
