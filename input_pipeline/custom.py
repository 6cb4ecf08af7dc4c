"""A protocol of one's own: a list of queries, a list of gallery images, and the rule for what is skipped."""

from __future__ import annotations

import os

import numpy as np

from input_pipeline.images import gather_errors, raise_all, refuse_outside, shorten
from input_pipeline.index import INFRARED, VISIBLE, DataError, Index, Setting, Trial
from input_pipeline.lists import read_text, refuse_repeated
from input_pipeline.protocols import counts, nothing_skipped, same_camera_skipped
from input_pipeline.sysu import valid as same_place_skipped

# Each rule with whether its CMC counts every identity once, as it does in the data sets the rule comes from.
RULES = {
    "none": (nothing_skipped, False),
    "same-camera": (same_camera_skipped, False),
    "sysu": (same_place_skipped, True),
}
MODALITIES = {VISIBLE: "visible", INFRARED: "infrared"}


def settings(
    index: Index, query_list: str | os.PathLike, gallery_list: str | os.PathLike, rule: str, *, dataset: str = "custom"
) -> list[Setting]:
    """The one setting: the images of one list against those of the other, one trial, both in the order of the lists.

    query_list, gallery_list: text files with a path of the index on each line; empty lines and lines that begin
    with # are passed over. rule: none; same-camera, the same person under the same camera is skipped, as in
    Market-1501; sysu, cameras 2 and 3 are one place whose images are skipped, and the CMC counts identities.
    The protocol is named custom- and the rule, the direction by the modalities of the lists. dataset: what the
    results are said to be of. Raises DataError for a list that is missing or empty, a path that is not in the index,
    stands twice in it or in a list or, without a rule, in both lists, and if no query has a match. ValueError: an
    unknown rule, an unnamed list.
    """
    known(rule)
    if unnamed := [name for name, file in (("query", query_list), ("gallery", gallery_list)) if not file]:
        raise ValueError(f"the protocol 'custom' needs a {' and a '.join(unnamed)} list: a text file of image paths")
    refuse_repeated(index.path, "index")
    row_of = {path: row for row, path in enumerate(index.path.tolist())}
    query, gallery = (_rows(file, row_of) for file in (query_list, gallery_list))
    return of_rows(index, query, gallery, rule, dataset=dataset, names=(f"{query_list}", f"{gallery_list}"))


def of_rows(
    index: Index,
    query: np.ndarray,
    gallery: np.ndarray,
    rule: str,
    *,
    dataset: str = "custom",
    names: tuple[str, str] = ("the queries", "the gallery"),
) -> list[Setting]:
    """The one setting of rows i32[q] and i32[g] of the index; rule and errors as in `settings`, which calls it."""
    known(rule)
    both = sorted(set(query.tolist()) & set(gallery.tolist()))
    if both and rule == "none":  # the other rules skip an image for itself
        raise DataError(f"{names[1]}: {shorten(index.path[both], 3)} also in {names[0]}: an image would find itself")
    valid, unique = RULES[rule]
    trial = Trial(query, gallery)
    if not counts(index, trial, valid)["queries with a match"]:
        raise DataError(f"{names[0]}: no query has a match in {names[1]} that the rule {rule!r} leaves")
    direction = f"{_modality(index, query)}-to-{_modality(index, gallery)}"
    return [Setting(dataset, f"custom-{rule}", direction, "-", [trial], valid, unique_identities=unique)]


def known(rule: str) -> None:
    if rule not in RULES:
        raise ValueError(f"rule={rule!r}, expected one of {', '.join(RULES)}")


def _rows(file: str | os.PathLike, row_of: dict[str, int]) -> np.ndarray:
    lines: dict[str, int] = {}
    problems = []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        path = line.strip()
        if not path or path.startswith("#"):
            continue
        if path in lines:
            problems.append(f"{file}:{number}: {path!r} stands in line {lines[path]} already, expected once")
        elif path not in row_of:
            problems.append(f"{file}:{number}: {path!r} is none of the {len(row_of):,} paths, such as {min(row_of)!r}")
        else:
            gather_errors(lambda path, source=f"{file}:{number}": refuse_outside(path, source), [path], problems)
        lines.setdefault(path, number)
    raise_all(problems[:8] + [f"{file}: {len(problems):,} such lines in all"] * (len(problems) > 8))
    if not lines:
        raise DataError(f"{file}: only comments, expected image paths")
    return np.array([row_of[path] for path in lines], np.int32)


def _modality(index: Index, rows: np.ndarray) -> str:
    found = set(index.modality[rows].tolist())
    return MODALITIES[found.pop()] if len(found) == 1 else "mixed"
