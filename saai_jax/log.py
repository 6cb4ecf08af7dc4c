"""What a run leaves behind as it goes: metrics.jsonl, lines of progress, and files that are whole or absent."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from absl import logging
from tqdm import tqdm

T = TypeVar("T")


@contextlib.contextmanager
def replacing(file: str | os.PathLike) -> Iterator[Path]:
    """The path of a temporary file beside `file`, which takes its place when the block ends without an error.

    Creates the folder. Whoever reads `file` sees the old content or the new, never a part.
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    os.close(handle)
    try:
        with naming(file):
            yield Path(name)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp's files are for their owner alone
        os.replace(name, file)
    finally:
        Path(name).unlink(missing_ok=True)


@contextlib.contextmanager
def naming(file: str | os.PathLike) -> Iterator[None]:
    """Gives an OSError that says only what happened (a full disk, say) the file's name."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, os.fspath(file)) from error
        raise


class MetricsLog:
    """metrics.jsonl, open for appending after `step`: {"step": ..., "kind": ..., values} in every line.

    Lines of later steps and a torn last line are dropped, so that a run resumed at the checkpoint of `step`
    continues without a gap or a duplicate. Raises ValueError for a file that is no metrics file.
    """

    def __init__(self, file: str | os.PathLike, step: int):
        file = Path(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            kept = "".join(f"{json.dumps(entry)}\n" for entry in read_metrics(file) if entry["step"] <= step)
            if kept.encode() != file.read_bytes():
                with replacing(file) as temporary:
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

    def close(self):
        self._file.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_):
        self.close()


def parsed(text: str | bytes) -> Any:
    """JSON as the standard has it: numbers that a float can hold, texts that UTF-8 can. Raises ValueError for else."""

    def refuse(word: str) -> Any:
        raise ValueError(f"{word[:40]} is no number that is kept here")

    def number(word: str) -> float:
        return value if abs(value := float(word)) < float("inf") else refuse(word)

    def whole(word: str) -> int:
        return int(word) if len(word) < 20 else refuse(word)  # what 64 bits hold

    try:
        value = json.loads(text, parse_constant=refuse, parse_float=number, parse_int=whole)
        json.dumps(value, ensure_ascii=False).encode()  # half a character, \ud800, can be read but never written
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


def read_metrics(file: str | os.PathLike) -> list[dict[str, Any]]:
    """The entries of a metrics.jsonl in order, without a torn last line (a run may be writing it).

    Raises ValueError naming the first line that is no entry.
    """
    entries: list[dict[str, Any]] = []
    lines = Path(file).read_bytes().split(b"\n")
    # whatever follows the last newline was cut off, even if what is left of it parses
    for number, line in enumerate(lines[:-1], 1):
        try:
            entry = parsed(line)
            if not isinstance(entry, dict) or type(entry.get("step")) is not int or type(entry.get("kind")) is not str:
                raise ValueError("no object with a whole 'step' and a 'kind'")
            if odd := [name for name, value in entry.items() if isinstance(value, dict | list)]:
                raise ValueError(f"{odd[0][:100]!r} is no single value")
            entries.append(entry)
        except ValueError as error:
            if number == len(lines) - 1:  # a machine that lost power may leave zeros, with a newline by chance
                break
            raise ValueError(f"{file}:{number}: not a line of metrics: {error}") from error
    return entries


def say(message: str, *values: Any):
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
