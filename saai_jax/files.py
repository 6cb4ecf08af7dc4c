"""Files that are whole or absent, and JSON that can be trusted."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

LONGEST = 4096  # characters of a text; numpy stores all of an array as wide as the longest


@contextlib.contextmanager
def atomic_write(file: str | os.PathLike) -> Iterator[Path]:
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
        with open(name, "rb") as whole:
            os.fsync(whole.fileno())  # or a machine that loses power may keep the name and lose the content
        os.replace(name, file)
    finally:
        Path(name).unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: str | os.PathLike, *, wait: bool = True) -> Iterator[bool]:
    """Holds a folder for this block, true, or not: another holds it and wait is false, or NFS, which has no such locks.

    Who ends, however that comes about, holds nothing.
    """
    handle, held = os.open(folder, os.O_RDONLY), True
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            held = False
        yield held
    finally:
        os.close(handle)


@contextlib.contextmanager
def naming(file: str | os.PathLike) -> Iterator[None]:
    """Gives an OSError that says only what happened (a full disk, say) the file's name."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, os.fspath(file)) from error
        raise


def load_json(text: str | bytes) -> Any:
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


def limit(variable: str, default: int) -> int:
    """A limit that an environment variable can set. Raises ValueError naming one that is no number."""
    value = os.environ.get(variable, str(default))
    if not value.isdecimal():
        raise ValueError(f"{variable}={value!r} in the environment, expected a number")
    return int(value)


def room(file: str | os.PathLike) -> int:
    """Bytes that what is read from a file may take: SAAI_JAX_ROOM, 64 MiB by default, and twenty for each of its own.

    Zeros can be packed a thousand times smaller, and fill the memory.
    """
    return limit("SAAI_JAX_ROOM", 1 << 26) + 20 * os.path.getsize(file)


def refuse_large(file: str | os.PathLike, size: int) -> None:
    """Raises ValueError for so many bytes from a file that has no `room` for them."""
    if size > (most := room(file)):
        raise ValueError(f"holds {size} bytes, expected at most {most}; SAAI_JAX_ROOM={size} lets it be read")


def str_array(file: str | os.PathLike, texts: Any) -> np.ndarray:
    """str[*] of an array or a list of texts from a file. Raises ValueError for a long one, or as `refuse_large`."""
    texts = np.asarray(texts, object)
    lengths = np.array([len(text) for text in texts.flat], np.int64)
    if (lengths > LONGEST).any():
        row = int(np.argmax(lengths))
        raise ValueError(f"row {row} has a cell of more than {LONGEST} characters ({lengths[row]})")
    refuse_large(file, 4 * int(lengths.max(initial=0)) * len(lengths))
    return texts.astype(np.str_)
