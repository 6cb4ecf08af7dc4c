"""What a run says as it goes: metrics.jsonl, lines of log, bars of progress."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from absl import logging
from tqdm import tqdm

from saai_jax.files import atomic_write, load_json, naming

T = TypeVar("T")


class MetricsLog:
    """metrics.jsonl, open for appending after `step`: {"step": ..., "kind": ..., values} in every line.

    Steps and epochs count from 1, as in the log.

    Lines of later steps and a torn last line are dropped, so that a run resumed at the checkpoint of `step`
    continues without a gap or a duplicate. Damaged lines are moved to metrics.jsonl-damaged. For each of them, and for
    what was lost where `step` has to have a line and has none, stands one of kind "gap". Raises ValueError for a file
    that is no metrics file.
    """

    def __init__(self, file: str | os.PathLike, step: int, *, has_line: bool = False):
        file, damaged = Path(file), []
        file.parent.mkdir(parents=True, exist_ok=True)
        before = file.read_bytes() if file.is_file() else b""
        entries = [entry for entry in read_metrics(file, damaged) if entry["step"] <= step] if before else []
        if damaged:
            aside = Path(f"{file}-damaged")
            with open(aside, "ab") as stream:
                stream.writelines(line + b"\n" for line in damaged)
            logging.warning("%s: moved %d damaged lines to %s", file, len(damaged), aside)
        if has_line and all(entry["step"] != step for entry in entries) and str(file) != os.devnull:
            logging.warning("%s: the last lines before step %d are lost", file, step)
            entries.append({"step": step, "kind": "gap"})
        kept = "".join(f"{json.dumps(entry)}\n" for entry in entries)
        if kept.encode() != before:
            with atomic_write(file) as temporary:
                temporary.write_text(kept)
        # Without a buffer: what a full disk refuses must not be tried again when the file is closed.
        self._file = open(file, "ab", buffering=0)  # noqa: SIM115 (open as long as the run)

    def write(self, step: int, kind: str, **values: Any):
        """Appends one line at once. Values: numbers, 0-d arrays, strings. Raises ValueError for NaN and infinity."""
        entry = {"step": int(step), "kind": kind}
        entry |= {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
        for name, value in entry.items():
            if isinstance(value, float) and value - value != 0:
                raise ValueError(f"{self._file.name}: {name} is {value} in the {kind} entry of step {step}")
        line = json.dumps(entry, allow_nan=False).encode() + b"\n"
        with naming(self._file.name):
            if self._file.write(line) < len(line):  # the disk took a part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self):
        """Returns when all lines are on the disk, where a checkpoint of their steps may follow."""
        if self._file.name != os.devnull:
            with naming(self._file.name):
                os.fsync(self._file.fileno())

    def close(self):
        self._file.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_):
        self.close()


def read_metrics(file: str | os.PathLike, damaged: list[bytes] | None = None) -> list[dict[str, Any]]:
    """The entries of a metrics.jsonl in order, without a torn last line (a run may be writing it).

    Raises ValueError naming the first line that is no entry. damaged: takes such lines instead, in whose places stand
    entries of kind "gap", unless there are no others.
    """
    entries: list[dict[str, Any]] = []
    lines = Path(file).read_bytes().split(b"\n")
    # whatever follows the last newline was cut off, even if what is left of it parses
    for number, line in enumerate(lines[:-1], 1):
        try:
            entry = load_json(line)
            if not isinstance(entry, dict) or type(entry.get("step")) is not int or type(entry.get("kind")) is not str:
                raise ValueError("no object with a whole 'step' and a 'kind'")
            if odd := [name for name, value in entry.items() if isinstance(value, dict | list)]:
                raise ValueError(f"{odd[0][:100]!r} is no single value")
            entries.append(entry)
        except ValueError as error:
            if number == len(lines) - 1:  # a machine that lost power may leave zeros, with a newline by chance
                break
            if damaged is None:
                raise ValueError(f"{file}:{number}: not a line of metrics: {error}; training sets it aside") from error
            damaged.append(line)
            entries.append({"step": entries[-1]["step"] if entries else 0, "kind": "gap"})
    if damaged and all(entry["kind"] == "gap" for entry in entries):
        raise ValueError(f"{file}: not a file of metrics, none of its lines is one")
    return entries


def log_line(message: str, *values: Any):
    """A line of log that does not tear the bars on the screen."""
    with tqdm.external_write_mode():
        logging.info(message, *values)


def progress(iterable: Iterable[T], *, total: int, description: str, initial: int = 0) -> Iterator[T]:
    """The items, while a bar shows how far they are: `initial` + those consumed, of `total`; rate and time left.

    Where standard error is no terminal (a batch job's file), a line at every tenth of `total` and every 30 s instead.
    """
    if sys.stderr.isatty():
        # leave=None: a bar within another one goes when it is done
        yield from tqdm(iterable, total=total, initial=initial, desc=description, dynamic_ncols=True, leave=None)
        return
    start = said = time.monotonic()
    tenth = initial * 10 // max(total, 1)
    for done, item in enumerate(iterable, initial + 1):
        yield item
        now = time.monotonic()
        if now - said >= 30 or done * 10 // max(total, 1) > tenth:
            said, tenth = now, done * 10 // max(total, 1)
            rate = (done - initial) / max(now - start, 1e-9)
            left = tqdm.format_interval(max(total - done, 0) / rate)
            speed = f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
            logging.info("%s: %d/%d (%d %%), %s, %s left", description, done, total, 100 * done / total, speed, left)
