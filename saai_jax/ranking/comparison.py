"""Two inferences, models or runs query by query: by how much they differ, and whether that could be luck."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from saai_jax.ranking.results import HEADINGS, PER_QUERY, ResultsError, grouped, labelled
from saai_jax.ranking.statistics import bootstrap_interval, paired_test

SETTING = ("dataset", "protocol", "direction", "shots")
LEVEL = 0.05
Place = tuple[str, int, Mapping[str, Any]]  # file, number of the row in it, the row


def compare(
    first: Mapping[str, Any],
    second: Mapping[str, Any] | None = None,
    *,
    files: tuple[str, str] = ("first", "second"),
    by_identity: bool = True,
) -> list[dict[str, Any]]:
    """Each pair of rows as a dict: the setting's labels, first and second (inference names), first_parameters,
    second_parameters, queries, identities, and for rank1, map, minp {difference, interval, p}.

    first, second: documents of `results.read`; files: what errors call them. Rows of one setting and inference are
    paired, or a setting's only row in each file whatever its inference. Without a second document every row is paired
    with the row "cosine" of its setting. difference: second less first, percent points, the mean over queries of what
    `results.row` keeps of each; interval: its 95 % bootstrap, None for a single query or identity; p: of the sign-flip
    test. Neither is corrected for how many pairs are compared.
    by_identity: identities are drawn and flipped, not single queries, whose scores are not independent; see
    `statistics`. Raises ResultsError, naming file and row, for rows without per_query, and for pairs of other queries,
    galleries or numbers of trials; and if nothing can be paired.
    """
    pairs = _within(first, files[0]) if second is None else _between((first, second), files)
    return [_compared(*pair, by_identity) for pair in pairs]


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """What compare has found as plain text, a line for each metric, and in words which could be chance."""
    lines = []
    for row in rows:
        for key in PER_QUERY:
            found = row[key]
            interval = "-" if found["interval"] is None else "{:+.2f} to {:+.2f}".format(*found["interval"])
            cells = [f"{found['difference']:+.2f}", interval, f"{found['p']:.4f}"]
            verdict = "could be chance" if found["p"] >= LEVEL else "hardly chance"
            title = f"{labelled(row)}, {row['queries']} queries of {row['identities']} identities"
            labels = _called(row, "first"), _called(row, "second"), HEADINGS[key]
            lines.append((title, [*labels, *cells, verdict]))
    return grouped(["first", "second", "metric", "difference", "95 % interval", "p", ""], lines, 3)


def _called(row: Mapping[str, Any], side: str) -> str:
    """The inference, with the parameters in which the two sides differ if only these tell them apart."""
    mine, other = row[f"{side}_parameters"], row["second_parameters" if side == "first" else "first_parameters"]
    if row["first"] != row["second"]:
        return row[side]
    different = ", ".join(f"{k}={v}" for k, v in mine.items() if k not in other or other[k] != v)
    return f"{row[side]} ({different})" if different else row[side]


def _settings(document: Mapping[str, Any], file: str) -> dict[tuple, list[Place]]:
    found: dict[tuple, list[Place]] = {}
    for number, row in enumerate(document["rows"]):
        found.setdefault(tuple(row[label] for label in SETTING), []).append((file, number, row))
    return found


def _named(places: Sequence[Place]) -> dict[str, Place]:
    """The rows of a setting by inference. Raises ResultsError if two have the same."""
    found: dict[str, Place] = {}
    for place in places:
        name = place[2]["inference"]
        if name in found:
            raise ResultsError(f"{_where(place)}: a second row of the setting of row {found[name][1]}, also {name!r}")
        found[name] = place
    return found


def _within(document: Mapping[str, Any], file: str) -> list[tuple[Place, Place]]:
    pairs = []
    for setting, places in _settings(document, file).items():
        base = [place for place in places if place[2]["inference"] == "cosine"]
        if len(base) != 1:
            raise ResultsError(f"{file}: {len(base)} rows 'cosine' of {' '.join(setting)}, expected 1 to compare with")
        pairs += [(base[0], place) for place in places if place is not base[0]]
    if not pairs:
        raise ResultsError(f"{file}: nothing beside cosine to compare with it; name a second file")
    return pairs


def _between(documents: tuple[Mapping, Mapping], files: tuple[str, str]) -> list[tuple[Place, Place]]:
    settings = [_settings(document, file) for document, file in zip(documents, files, strict=True)]
    pairs, alone = [], []
    for setting in dict.fromkeys(itertools.chain(*settings)):
        sides = [side.get(setting, []) for side in settings]
        if len(sides[0]) == len(sides[1]) == 1:
            pairs.append((sides[0][0], sides[1][0]))
            continue
        first, second = (_named(side) for side in sides)
        pairs += [(first[name], second[name]) for name in first if name in second]
        alone += [place for name, place in [*first.items(), *second.items()] if not (name in first and name in second)]
    if not pairs:
        raise ResultsError(
            f"{files[0]}, {files[1]}: no row of the one has the setting and inference of one of the other"
        )
    for place in alone:
        logging.warning("%s is not compared: the other file has no such row", _where(place))
    return pairs


def _where(place: Place) -> str:
    file, number, row = place
    return f"{file}: row {number} ({' '.join(row[label] for label in SETTING)}, {row['inference']})"


def _queries(place: Place) -> dict[str, tuple]:
    """What is kept of each query, by its name: identity, rank1, ap, inp."""
    kept = place[2].get("per_query")
    if not isinstance(kept, dict):
        raise ResultsError(f"{_where(place)}: has no per_query; rank again to write it")
    columns: list[Any] = [kept.get(key) for key in ("query", "identity", *PER_QUERY.values())]
    if not all(isinstance(column, list) and len(column) == len(columns[0]) > 0 for column in columns):
        raise ResultsError(f"{_where(place)}: per_query has not query, identity, rank1, ap, inp of one length")
    found = {}
    for name, *values in zip(*columns, strict=True):
        if not isinstance(name, str) or name in found:
            raise ResultsError(
                f"{_where(place)}: query {name!r} is no name, or stands there twice: it cannot be paired"
            )
        if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
            raise ResultsError(f"{_where(place)}: query {name!r} has {values}, expected finite numbers")
        found[name] = tuple(values)
    return found


def _compared(first: Place, second: Place, by_identity: bool) -> dict[str, Any]:
    for key in ("trials", "gallery"):
        if first[2][key] != second[2][key]:
            raise ResultsError(f"{_where(second)}: {key} {second[2][key]}, {_where(first)}: {first[2][key]}")
    left, right = _queries(first), _queries(second)
    if left.keys() != right.keys():
        missing = [
            (place, len(one.keys() - two.keys())) for one, two, place in ((left, right, second), (right, left, first))
        ]
        said = "; ".join(f"{_where(place)} lacks {number} queries of the other" for place, number in missing if number)
        raise ResultsError(f"{said}: only the same queries can be compared")
    a, b = np.array(list(left.values()), np.float64), np.array([right[name] for name in left], np.float64)
    if (a[:, 0] != b[:, 0]).any():
        name = list(left)[int(np.argmax(a[:, 0] != b[:, 0]))]
        raise ResultsError(f"{_where(second)}: query {name!r} is identity {right[name][0]}, not {left[name][0]}")
    made: dict[str, Any] = {label: first[2][label] for label in SETTING}
    for side, place in (("first", first), ("second", second)):
        made |= {side: place[2]["inference"], f"{side}_parameters": place[2]["parameters"]}
    identity = a[:, 0].astype(np.int64)
    made |= {"queries": len(a), "identities": len(np.unique(identity))}
    groups = identity if by_identity else None
    for column, key in enumerate(PER_QUERY, 1):
        x, y = 100 * a[:, column], 100 * b[:, column]
        interval = None
        if made["identities" if by_identity else "queries"] > 1:
            interval = list(bootstrap_interval(y - x, groups=groups))
        p = paired_test(y, x, groups=groups)
        made[key] = {"difference": float((y - x).mean()), "interval": interval, "p": p}
    return made
