"""The results file: every line of a results table with its trials, and what made it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from saai_jax.files import atomic_write, load_json
from saai_jax.ranking.statistics import bootstrap_interval

HEADINGS = {
    "rank1": "rank-1",
    "rank5": "rank-5",
    "rank10": "rank-10",
    "rank20": "rank-20",
    "map": "mAP",
    "minp": "mINP",
}
METRICS = tuple(HEADINGS)
COUNTS = ("queries", "gallery")
PER_QUERY = {"rank1": "rank1", "map": "ap", "minp": "inp"}  # the mean over the queries, and what of each query
LABELS = ("dataset", "protocol", "direction", "shots", "inference")


class ResultsError(Exception):
    """A results file is not one; the message names the file and the row."""


def row(
    *,
    dataset: str,
    protocol: str,
    direction: str,
    shots: str,
    inference: str,
    parameters: Mapping[str, Any],
    per_trial: Sequence[Mapping[str, Any]],
    path: Sequence[str] | np.ndarray,
    identity: Sequence[int] | np.ndarray,
) -> dict[str, Any]:
    """One line of a table: means over the trials, percent 0-100, their standard deviation (of all trials, ddof 0).

    per_trial: as `evaluate.score_trials` gives it; the numbers of queries and gallery images are whole in the row too
    where all trials agree. path str[n], identity i[n]: what its query rows are called, so that files can be compared.

    The row's cmc is the mean curve over the trials, as far as the shortest goes. per_query has a list for each of
    query (paths), identity, rank1, ap and inp, these in [0, 1], means over the trials in which the query has a match.
    interval and identity_interval: [low, high] in percent, 95 %, bootstrapped over queries and over identities (which
    are the independent ones, see `statistics`), of rank1, map, minp; None where there are fewer than two.
    Raises ValueError for a missing, NaN or impossible value.
    """
    if not per_trial:
        raise ValueError("a row of results needs at least one trial")
    for number, trial in enumerate(per_trial):
        if missing := [key for key in (*METRICS, *COUNTS, "cmc", "per_query") if key not in trial]:
            raise ValueError(f"trial {number} has no {', '.join(missing)}")
        # a little more than 100 is the mean of float32 fractions, not an error
        if odd := [key for key in METRICS if not 0 <= trial[key] <= 100.001]:
            raise ValueError(f"trial {number}: {', '.join(f'{key} is {trial[key]}' for key in odd)}, not a percentage")
    trials = [
        {key: (int if key in COUNTS else float)(trial[key]) for key in (*COUNTS, *METRICS)} for trial in per_trial
    ]
    mean = {key: float(np.mean([trial[key] for trial in trials])) for key in (*COUNTS, *METRICS)}
    mean |= {key: int(mean[key]) for key in COUNTS if mean[key].is_integer()}
    length = min(len(trial["cmc"]) for trial in per_trial)
    curve = np.mean([trial["cmc"][:length] for trial in per_trial], axis=0)
    queries = _per_query(per_trial, path, identity)
    made: dict[str, Any] = dict(dataset=dataset, protocol=protocol, direction=direction, shots=shots)
    made |= {"inference": inference, "parameters": dict(parameters), "trials": len(trials), **mean}
    made["std"] = {key: float(np.std([trial[key] for trial in trials])) for key in METRICS}
    made["interval"] = _intervals(queries, None)
    made["identity_interval"] = _intervals(queries, np.array(queries["identity"]))
    return made | {"cmc": [round(float(x), 6) for x in curve], "per_trial": trials, "per_query": queries}


def _per_query(per_trial: Sequence[Mapping[str, Any]], path: Any, identity: Any) -> dict[str, list]:
    """Means over the trials in which a picture is a query with a match, in the order of the rows; six digits.

    A path and not a row is a query: the folds of RegDB have pictures in common.
    """
    per_query = [trial["per_query"] for trial in per_trial]
    drawn = np.concatenate([trial["query"] for trial in per_query])
    _, first, place, count = np.unique(
        np.asarray(path)[drawn], return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(drawn[first])
    rows = drawn[first][order]
    means = {
        key: np.bincount(place, np.concatenate([trial[key] for trial in per_query]))[order] / count[order]
        for key in PER_QUERY.values()
    }
    rounded = {key: [round(x, 6) for x in mean.tolist()] for key, mean in means.items()}
    return {"query": [str(path[r]) for r in rows], "identity": [int(identity[r]) for r in rows], **rounded}


def _intervals(queries: Mapping[str, list], groups: np.ndarray | None) -> dict[str, list[float] | None]:
    if len(queries["query"] if groups is None else np.unique(groups)) < 2:
        return dict.fromkeys(PER_QUERY)
    return {
        name: [round(100 * end, 6) for end in bootstrap_interval(np.array(queries[key]), groups=groups)]
        for name, key in PER_QUERY.items()
    }


def write(file: str | os.PathLike, rows: Sequence[Mapping[str, Any]], *, command: str | Sequence[str], config: Any):
    """Writes {rows, command, config, versions, commit} as JSON, whole or not at all.

    config: anything of dicts, lists and plain values, or a ConfigDict. Raises ValueError for NaN and infinity.
    """
    document = {"rows": list(rows), "command": command, "config": config, "versions": _versions(), "commit": _commit()}
    text = _indented(json.loads(json.dumps(document, default=_plain, allow_nan=False)))
    with atomic_write(file) as temporary:
        temporary.write_text(text + "\n")


def read(file: str | os.PathLike) -> dict[str, Any]:
    """The document that write has written. Raises ResultsError, naming the file and the first row at fault."""
    try:
        document = load_json(Path(file).read_bytes())
    except (OSError, ValueError) as error:
        raise ResultsError(f"{file}: not a readable JSON file: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("rows"), list):
        raise ResultsError(f"{file}: not a results file: no list of 'rows'")
    wanted = (*LABELS, "parameters", "trials", *COUNTS, *METRICS, "std", "per_trial")
    for number, line in enumerate(document["rows"]):
        if missing := [key for key in wanted if not isinstance(line, dict) or key not in line]:
            raise ResultsError(f"{file}: row {number} has no {', '.join(missing)}")
        if odd := [key for key, good in _kinds(line).items() if not good]:
            raise ResultsError(f"{file}: row {number}: {odd[0]} is {str(line.get(odd[0]))[:100]}, which no row has")
    return document


def _kinds(line: Mapping[str, Any]) -> dict[str, bool]:
    """Whether each value of a row, and of those that older files do not have, is what `row` writes."""

    def numbers(value: Any) -> bool:
        return isinstance(value, list) and all(type(x) in (int, float) for x in value)

    def interval(value: Any) -> bool:
        of = value.values() if isinstance(value, dict) else [value]
        return all(ends is None or (numbers(ends) and len(ends) == 2) for ends in of)

    good = {key: isinstance(line[key], str) for key in LABELS}
    good |= {key: type(line[key]) in (int, float) for key in (*COUNTS, *METRICS)}
    good |= {"parameters": isinstance(line["parameters"], dict), "trials": type(line["trials"]) is int}
    good["std"] = isinstance(line["std"], dict) and numbers([line["std"].get(key) for key in METRICS])
    good["per_trial"] = isinstance(line["per_trial"], list) and all(isinstance(t, dict) for t in line["per_trial"])
    good["cmc"] = line.get("cmc") is None or (numbers(line["cmc"]) and len(line["cmc"]) > 0)
    good["per_query"] = line.get("per_query") is None or isinstance(line["per_query"], dict)
    return good | {key: interval(line.get(key)) for key in ("interval", "identity_interval")}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as plain text of at most 100 columns, below their settings, percentages with two decimals."""
    metrics = ("rank1", "rank10", "rank20", "map", "minp")
    lines: list[tuple[str, list[str]]] = []
    for line in rows:
        # A step that is taken, as all are by default, is not worth the width; results.json has it.
        parameters = ", ".join(f"{k}={v}" for k, v in line["parameters"].items() if v is not True)
        inference = f"{line['inference']} ({parameters})" if parameters else line["inference"]
        title = f"{labelled(line)}, {counted(line)}"
        first, *more = textwrap.wrap(inference, 44)
        lines.append((title, [first, *(f"{line[key]:.2f}" for key in metrics)]))
        lines += [(title, [f"  {part}", *([""] * len(metrics))]) for part in more]
    return grouped(["inference", *(HEADINGS[key] for key in metrics)], lines, 1)


def labelled(line: Mapping[str, Any]) -> str:
    """What a row ranks, in words."""
    shots = "" if line["shots"] in ("", "-") else f"{line['shots']} shot"
    return ", ".join(filter(None, [line["protocol"], line["direction"], shots]))


def counted(line: Mapping[str, Any]) -> str:
    """How much a row ranks, in words; a mean over trials has a decimal."""
    queries, gallery = (f"{line[key]:.1f}" if isinstance(line[key], float) else line[key] for key in COUNTS)
    return f"{line['trials']} trial{'s' * (line['trials'] != 1)} of {queries} queries in {gallery} images"


def grouped(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], texts: int) -> str:
    """The cells of the rows as `aligned` has them, each group of them below its title."""
    top, rule, *body = aligned([head, *(["  " + first, *rest] for _, (first, *rest) in rows)], texts).split("\n")
    lines = [top, rule]
    for number, ((title, _), line) in enumerate(zip(rows, body, strict=True)):
        lines += [title] * (number == 0 or rows[number - 1][0] != title)
        lines.append(line.rstrip())
    return "\n".join(lines)


def aligned(lines: Sequence[Sequence[str]], texts: int, *, markdown: bool = False) -> str:
    """The cells in columns, the first `texts` of them to the left, with a rule below the first line."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    right = ":" if markdown else "-"  # how the rule of a column of numbers ends
    rule = ["-" * w if i < texts else "-" * (w - 1) + right for i, w in enumerate(widths)]
    padded = (
        [text.ljust(w) if i < texts else text.rjust(w) for i, (text, w) in enumerate(zip(line, widths, strict=True))]
        for line in [lines[0], rule, *lines[1:]]
    )
    return "\n".join(f"| {' | '.join(cells)} |" if markdown else "  ".join(cells) for cells in padded)


def _indented(value: Any, margin: str = "\n") -> str:
    """JSON as json.dumps(indent=1), with a list of plain values on one line: thousands of queries stay readable."""
    if isinstance(value, dict) and value:
        parts = [f"{json.dumps(key)}: {_indented(part, margin + ' ')}" for key, part in value.items()]
    elif isinstance(value, list) and any(isinstance(part, (dict, list)) for part in value):
        parts = [_indented(part, margin + " ") for part in value]
    else:
        return json.dumps(value)
    first, last = "{}" if isinstance(value, dict) else "[]"
    return f"{first}{margin} {f',{margin} '.join(parts)}{margin}{last}"


def _plain(value: Any) -> Any:
    for convert in ("to_dict", "tolist"):  # ConfigDict; numpy's and jax's arrays and scalars
        if hasattr(value, convert):
            return getattr(value, convert)()
    return str(value)


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("jax", "flax", "numpy", "saai_jax"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from a checkout that is not installed: the commit says it
            versions[name] = None
    return versions


def _commit() -> str | None:
    """The commit of the checkout this file is in; None outside one, as in site-packages below some other repository."""
    root = Path(__file__).resolve().parents[2]
    try:
        command = ["git", "-C", str(root), "rev-parse", "--show-toplevel", "HEAD"]
        output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        top, commit = output.splitlines()
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return commit if Path(top).resolve() == root else None
