"""Ranked lists of a trial's queries: whom to show, the first images under each method, and what moved AIM's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
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
NAMES = {"euclidean": "Euclidean", "sim": "SIM", "k_reciprocal": "k-reciprocal", "aim": "AIM"}
Trial = tuple[np.ndarray, np.ndarray]  # query rows i[q] and gallery rows i[g] of the features


class Ranked(NamedTuple):
    """The trial under one method; of the k queries to show the scores and the first images.

    curve: the CMC in percent. row i[k 10]: rows of the features; distance f[k 10]; skipped bool[k 10]: by the protocol,
    they keep their place, so that a reader sees what the rule took away.
    """

    parameters: Mapping[str, Any]
    metrics: RankMetrics
    curve: Float[np.ndarray, c]
    row: Int[np.ndarray, "k 10"]
    distance: Float[np.ndarray, "k 10"]
    skipped: Bool[np.ndarray, "k 10"]


class Moves(NamedTuple):
    """For AIM's results: place by cosine i[k 10], 0 if skipped; correction f[k 10]; rows i[k 10 t] and their terms."""

    place: Int[np.ndarray, "k 10"]
    correction: Float[np.ndarray, "k 10"]
    row: Int[np.ndarray, "k 10 t"]
    term: Float[np.ndarray, "k 10 t"]


def examples(
    identity: Int[np.ndarray, n], query: Int[np.ndarray, q], gallery: Int[np.ndarray, g], number: int = 6
) -> Int[np.ndarray, k]:
    """Rows of a few queries, evenly spread over those whose identity is in the gallery."""
    present = query[np.isin(identity[query], identity[gallery])]
    return present[:: max(len(present) // number, 1)][:number]


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
    matrix = distance(jnp.asarray(images.embedding[query]), jnp.asarray(images.embedding[gallery]))
    found = rank_metrics(matrix, images.identity[query], images.identity[gallery], valid)
    rank = found.identity_rank if unique_identities else found.rank
    places = len(np.unique(images.identity[gallery])) if unique_identities else len(gallery)
    curve = 100 * cmc(rank, min(LONGEST, places))
    order, skipped = evaluate.nearest(matrix[place], valid[place], TOP)
    near = np.take_along_axis(np.asarray(matrix[place]), order, 1)
    return Ranked(parameters, RankMetrics(*(of[place] for of in found)), curve, gallery[order], near, skipped)


def moves(
    images: Features, trial: Trial, valid: Bool[np.ndarray, "q g"], shown: Int[np.ndarray, k], aim: Ranked
) -> Moves:
    """What moved the results of AIM away from where cosine distance has them."""
    query, gallery = trial
    place = _places(query, shown)
    queries, others = jnp.asarray(images.embedding[shown]), jnp.asarray(images.embedding[gallery])
    column = _places(gallery, aim.row)
    own = {key: value for key, value in aim.parameters.items() if key in ("k1", "k2", "variant", "remove", "expand")}
    terms = contributions(queries, others, column, **own)
    most = np.argsort(-np.abs(terms), axis=2, kind="stable")[..., :MOVERS]
    # Places by plain cosine, among what the protocol does not skip.
    order = np.argsort(np.asarray(cosine(queries, others)), axis=1, kind="stable")
    counted = np.cumsum(np.take_along_axis(valid[place], order, 1), axis=1)
    plain = np.empty_like(counted)
    np.put_along_axis(plain, order, counted, 1)
    plain = np.where(aim.skipped, 0, np.take_along_axis(plain, column, 1))
    return Moves(plain, terms.sum(2), gallery[most], np.take_along_axis(terms, most, 2))


def figure(
    pictures: Pictures, identity: Int[np.ndarray, n], shown: Int[np.ndarray, k], methods: Mapping[str, Ranked]
) -> Figure:
    """The lists of the queries `shown` under every method, as pictures."""
    row, skipped = (np.stack([getattr(r, key) for r in methods.values()]) for key in ("row", "skipped"))
    correct = identity[row] == identity[shown][:, None]
    return ranked_lists(pictures(shown), pictures(row), correct, skipped, [NAMES.get(name, name) for name in methods])


def _places(rows: Int[np.ndarray, n], chosen: Int[np.ndarray, "*k"]) -> Int[np.ndarray, "*k"]:
    """Where each of the chosen rows is among `rows`. Raises ValueError for one that is not there."""
    if missing := set(np.ravel(chosen).tolist()) - set(rows.tolist()):
        raise ValueError(f"row {min(missing)} is to be shown and is no query of the trial")
    order = np.argsort(rows)
    return order[np.searchsorted(rows, chosen, sorter=order)]
