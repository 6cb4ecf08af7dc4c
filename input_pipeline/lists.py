"""The text files that list a data set's identities and images."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from input_pipeline.images import gather_errors, raise_all, refuse_outside, shorten
from input_pipeline.index import DataError

NUMBER = re.compile(r"[0-9]{1,9}")  # below 2^31


def read_text(path: str | os.PathLike) -> str:
    """A text file of a data set. DataError: missing, unreadable, not text, empty."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # files saved on Windows begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read, expected a text file: {error}") from error
    if not text.strip():
        raise DataError(f"{path}: empty file, expected identities or image paths")
    return text


def read_ids(path: str | os.PathLike, found: list[str] | None = None) -> list[int]:
    """The identities in a comma-separated line, in file order. DataError: none, not positive integers, repeated.

    found: as in `raise_all`.
    """
    words = [word for word in re.split(r"[,\s]+", read_text(path)) if word]
    ids = [int(word) for word in words if NUMBER.fullmatch(word) and int(word)]
    if len(ids) < len(words) or not words:
        wrong = shorten(word[:20] for word in words if not (NUMBER.fullmatch(word) and int(word))) or "nothing"
        raise_all([f"{path}: {wrong} where positive identity numbers, separated by commas, were expected"], found)
    refuse_repeated(ids, path, found)
    return list(dict.fromkeys(ids))


def refuse_repeated(items: Iterable, source: str | os.PathLike, found: list[str] | None = None) -> None:
    """DataError if an identity or a path occurs twice in source. found: as in `raise_all`."""
    twice = sorted(item for item, count in Counter(items).items() if count > 1)
    raise_all([f"{source}: {shorten(twice)} listed more than once, expected once"] if twice else [], found)


def read_list(
    root: str | os.PathLike, name: str, folder: str, found: list[str] | None = None
) -> list[tuple[str, int, int]]:
    """Path, identity and label of each of the lines '<folder>/<identity>/<file> <label>' of the file root/name.

    The identity is the name of the image's folder. DataError: a line of another form, a path that leaves the
    root or occurs twice, a listed file that is not there. found: as in `raise_all`.
    """
    source = os.path.join(root, name)

    def parse(line: tuple[int, str]) -> tuple[str, int, int]:
        path, _, label = line[1].strip().rpartition(" ")
        refuse_outside(path or line[1], f"{source}:{line[0]}")
        parts = path.split("/")
        if len(parts) != 3 or parts[0] != folder or not all(map(NUMBER.fullmatch, (parts[1], label))):
            raise DataError(f"{source}:{line[0]}: {line[1][:200]!r}, expected '{folder}/<identity>/<file> <label>'")
        return path, int(parts[1]), int(label)

    lines = [(number, line) for number, line in enumerate(read_text(source).splitlines(), 1) if line.strip()]
    rows = gather_errors(parse, lines, found)
    refuse_repeated((path for path, _, _ in rows), source, found)
    missing = [path for path, _, _ in rows if not os.path.isfile(os.path.join(root, path))]
    raise_all([f"{source}: lists files that are not in {root}: {shorten(missing)}"] if missing else [], found)
    absent = set(missing)
    return [row for row in dict.fromkeys(rows) if row[0] not in absent]


def refuse_mixed_labels(
    identities: Iterable[int], labels: Iterable[int], source: str | os.PathLike, found: list[str] | None = None
) -> None:
    """DataError unless the labels of a split's lists run from 0 without a gap, one for each identity folder.

    found: as in `raise_all`.
    """
    identity, label = (np.array(list(column), dtype=np.int64) for column in (identities, labels))
    pairs = np.unique(np.stack([identity, label], 1), axis=0)
    problems = []
    for column, name, other in ((0, "identity folder", "label"), (1, "label", "identity folder")):
        values, counts = np.unique(pairs[:, column], return_counts=True)
        if (counts > 1).any():
            problems.append(f"{source}: {name} {shorten(values[counts > 1])} has more than one {other}, expected one")
    number, last = len(np.unique(label)), int(label.max(initial=-1))
    if number <= last:
        # The first gaps are among the first numbers: a label of 10^9 is not worth as long a list.
        gaps = np.setdiff1d(np.arange(min(last, number + 8)), label)
        problems.append(f"{source}: labels run to {last}, but {shorten(gaps)} is missing")
    raise_all(problems, found)
