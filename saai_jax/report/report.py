"""What people look at after a run, from its arrays: ranked lists, attention maps, and the page that has everything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from saai_jax.affinity.cosine import cosine
from saai_jax.affinity.explain import contributions
from saai_jax.features.store import Features
from saai_jax.files import atomic_write
from saai_jax.metrics import cmc, rank_metrics
from saai_jax.ranking import evaluate
from saai_jax.report import page, projection, sections
from saai_jax.report import pictures as plots
from saai_jax.report.sections import Moves, Pictures, Ranked

TOP, LONGEST, MOVERS = 10, 20, 3  # images of a ranked list, ranks of a curve, images said to have moved a result


def examples(
    identity: Int[np.ndarray, n], query: Int[np.ndarray, q], gallery: Int[np.ndarray, g], number: int = 6
) -> Int[np.ndarray, k]:
    """Rows of a few queries, evenly spread over those whose identity is in the gallery."""
    present = query[np.isin(identity[query], identity[gallery])]
    return present[:: max(len(present) // number, 1)][:number]


def ranked_lists(
    file: str,
    pictures: Pictures,
    embedding: Float[np.ndarray, "n d"],
    identity: Int[np.ndarray, n],
    shown: Int[np.ndarray, k],
    trial: tuple[Int[np.ndarray, q], Int[np.ndarray, g]],
    valid: np.ndarray,
    distances: Mapping[str, evaluate.Distance],
) -> None:
    """Draws the first ten gallery images of the trial's queries `shown` under each distance. valid: bool[k g]."""
    query, gallery = trial
    queries, images = jnp.asarray(embedding[query]), jnp.asarray(embedding[gallery])
    # All queries are ranked, as in the results: some distances depend on which come together.
    place = _places(query, shown)
    found = [evaluate.nearest(distance(queries, images)[place], valid, TOP) for distance in distances.values()]
    rows = gallery[np.stack([order for order, _ in found])]
    correct = identity[rows] == identity[shown][:, None]
    skipped = np.stack([skip for _, skip in found])
    plots.ranked_lists(file, pictures(shown), pictures(rows), correct, skipped, list(distances))


def write_page(
    file: str | os.PathLike,
    document: Mapping[str, Any],
    images: Features,
    trial: tuple[Int[np.ndarray, q], Int[np.ndarray, g]],
    valid: Bool[np.ndarray, "q g"],
    methods: Mapping[str, tuple[evaluate.Distance, Mapping[str, Any]]],
    *,
    title: str,
    setting: str,
    unique_identities: bool,
    pictures: Pictures | None = None,
    shown: Int[np.ndarray, k] | None = None,
    attention: Float[np.ndarray, "k p r c"] | None = None,
    mapped: Int[np.ndarray, m] | None = None,
    feature: Float[np.ndarray, "m d"] | None = None,
) -> None:
    """Writes one page that needs no other file, and each of its figures as PNG and SVG into figures/ beside it.

    document: what `results.read` gives. trial, valid, unique_identities: one trial and its rules, said in words by
    `setting`, whose lists are shown; methods: name -> (distance, its parameters), "aim" with those of `affinity.aim`.
    shown: its queries to show, by default a few. pictures: of rows of the features, None if only features are known.
    attention: of the rows `shown`, see `attention`. mapped: images in the t-SNE maps, by default of a few identities;
    feature: their features before the neck, if known. Raises ValueError for shapes that do not match, and as the
    distances and `rank_metrics` do.
    """
    file, (query, gallery) = Path(file), trial
    folder = file.parent / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    shown = examples(images.identity, query, gallery) if shown is None else shown
    mapped = projection.people(images.identity, images.modality) if mapped is None else mapped
    if not methods or not len(shown):
        raise ValueError("a report needs at least one method and one query to show")
    for name, array, rows in (("attention", attention, shown), ("feature", feature, mapped)):
        if array is not None and len(array) != len(rows):
            raise ValueError(f"{name} has {len(array)} rows, expected {len(rows)}")
    place = _places(query, shown)
    ranked = {
        name: _ranked(images, trial, valid, place, distance, parameters, unique_identities)
        for name, (distance, parameters) in methods.items()
    }
    moves = _moves(images, trial, valid, place, ranked["aim"]) if "aim" in ranked else None
    rows = document["rows"]
    parts = [
        page.Section("results", "Results", [page.results_table(rows)]),
        sections.curves(rows, ranked, setting, folder),
        sections.distances(images, np.flatnonzero(np.isin(images.identity, images.identity[query])), folder),
        sections.maps(images, mapped, feature, folder),
        sections.lists(images, shown, place, ranked, moves, pictures, setting, folder),
    ]
    if attention is not None and pictures is not None:
        parts.append(sections.prototypes(images, shown, attention, pictures, folder))
    known = {"command": document.get("command"), "commit": document.get("commit")} | (document.get("versions") or {})
    known = {key: " ".join(value) if isinstance(value, list) else value for key, value in known.items() if value}
    made = [page.tag("dl", *(page.tag(*pair) for k, v in known.items() for pair in (("dt", k), ("dd", str(v)))))]
    parts.append(page.Section("made", "How this was made", made))
    lead = page.tag("p", f"{len(images.path):,} images of {len(np.unique(images.identity)):,} identities.")
    text = page.document(title, [lead], parts)
    # A file name that is no Unicode has no other way into the page.
    with atomic_write(file) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="xmlcharrefreplace", newline="\n")


def _places(query: Int[np.ndarray, q], shown: Int[np.ndarray, k]) -> Int[np.ndarray, k]:
    if missing := set(map(int, shown)) - set(map(int, query)):
        raise ValueError(f"row {min(missing)} is to be shown and is no query of the trial")
    order = np.argsort(query)
    return order[np.searchsorted(query, shown, sorter=order)]


def _ranked(images, trial, valid, place, distance, parameters, unique_identities) -> Ranked:
    query, gallery = trial
    # All queries are ranked, as in the results: some distances depend on which come together.
    matrix = distance(jnp.asarray(images.embedding[query]), jnp.asarray(images.embedding[gallery]))
    found = rank_metrics(matrix, images.identity[query], images.identity[gallery], valid)
    rank = found.identity_rank if unique_identities else found.rank
    places = len(np.unique(images.identity[gallery])) if unique_identities else len(gallery)
    curve = 100 * cmc(rank, min(LONGEST, places))
    order, skipped = evaluate.nearest(matrix[place], valid[place], TOP)
    near = np.take_along_axis(np.asarray(matrix[place]), order, 1)
    return Ranked(parameters, found, curve, gallery[order], near, skipped)


def _moves(images, trial, valid, place, ranked: Ranked) -> Moves:
    query, gallery = trial
    queries, others = jnp.asarray(images.embedding[query[place]]), jnp.asarray(images.embedding[gallery])
    at = np.argsort(gallery)
    column = at[np.searchsorted(gallery, ranked.row, sorter=at)]
    own = {key: value for key, value in ranked.parameters.items() if key in ("k1", "k2", "variant", "remove", "expand")}
    terms = contributions(queries, others, column, **own)
    most = np.argsort(-np.abs(terms), axis=2, kind="stable")[..., :MOVERS]
    # Places by plain cosine, among what the protocol does not skip.
    order = np.argsort(np.asarray(cosine(queries, others)), axis=1, kind="stable")
    counted = np.cumsum(np.take_along_axis(valid[place], order, 1), axis=1)
    plain = np.empty_like(counted)
    np.put_along_axis(plain, order, counted, 1)
    plain = np.where(ranked.skipped, 0, np.take_along_axis(plain, column, 1))
    return Moves(plain, terms.sum(2), gallery[most], np.take_along_axis(terms, most, 2))
