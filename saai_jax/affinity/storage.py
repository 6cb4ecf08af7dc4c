"""A gallery on disk: one folder with gallery.json and the arrays that it names, memory-mapped when read."""

from __future__ import annotations

import json
import os
import re
import uuid
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from saai_jax.files import atomic_write, load_json, locked

FORMAT, VERSION = "saai-jax gallery", 1
MANIFEST = "gallery.json"
# What is stored, and the fields of the manifest beside them, with what they must be.
ARRAYS = {"embedding": "f4", "value": "f4", "index": "i4", "begin": "i4", "column": "i4", "weight": "f4"}
ROWS = 1 << 14  # that are looked at together
OWN_FILE = re.compile(rf"({'|'.join(ARRAYS)})-[0-9a-f]{{32}}\.npy")


class StorageError(ValueError):
    """A folder that is not a whole gallery of this format; the message names the file."""


def save(folder: str | os.PathLike, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Writes the arrays under new names, then the manifest that names them, then drops what nothing names.

    Stopped at any moment it leaves the gallery that was there before, or the new one; of two that write into one
    folder, one waits for the other. Raises StorageError for a folder that holds something else.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"{folder} is a file, expected a folder for the gallery")
    if folder.exists() and not (folder / MANIFEST).exists() and any(not ours(f) for f in folder.iterdir()):
        raise StorageError(f"{folder} holds other files and no {MANIFEST}, expected a gallery or an empty folder")
    if (folder / MANIFEST).exists():
        manifest(folder)  # someone else's gallery.json is not ours to replace
    if len(arrays["column"]) > np.iinfo(np.int32).max:
        raise StorageError(f"{folder}: {len(arrays['column'])} entries, expected at most {np.iinfo(np.int32).max}")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        _replace(folder, about, arrays)


def _replace(folder: Path, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    listed = {}
    for name, dtype in ARRAYS.items():
        array = np.ascontiguousarray(arrays[name], dtype)
        file = folder / f"{name}-{uuid.uuid4().hex}.npy"
        with open(file, "wb") as stream:
            np.save(stream, array, allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())
        listed[name] = {"file": file.name, "shape": list(array.shape), "crc32": checksum(file)}
    with atomic_write(folder / MANIFEST) as temporary:
        entries = {"format": FORMAT, "version": VERSION, "about": about, "arrays": listed}
        temporary.write_text(json.dumps(entries, indent=1))
    kept = {entry["file"] for entry in listed.values()}
    for file in folder.iterdir():
        if ours(file) and file.name not in kept:
            file.unlink(missing_ok=True)


def load(folder: str | os.PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What was saved: the values about the gallery and its arrays, mapped into memory, read only.

    Raises StorageError, naming the file, for a folder without a gallery, one of another version, and a damaged file.
    """
    folder = Path(folder)
    found = manifest(folder)
    try:
        arrays = {name: mapped(folder, name, entry) for name, entry in found["arrays"].items()}
    except FileNotFoundError as error:
        if manifest(folder) != found:  # another process has saved meanwhile and dropped what was read about
            return load(folder)
        raise StorageError(f"{error.filename} is missing, {folder / MANIFEST} names it") from None
    n = len(arrays["embedding"])
    index, begin, column = arrays["index"], arrays["begin"], arrays["column"]
    good = index.shape == arrays["value"].shape and len(index) == n and begin.shape == (n + 1,) and begin[0] == 0
    good = good and (begin[1:] >= begin[:-1]).all() and begin[-1] == len(column) == len(arrays["weight"])
    if not good or any(len(x.ravel()) and not 0 <= x.min() <= x.max() < n for x in (index, column)):
        raise StorageError(f"{folder}: the arrays do not belong together, expected those of one gallery")
    for name in ("embedding", "value", "weight"):
        if not all(np.isfinite(arrays[name][i : i + ROWS]).all() for i in range(0, len(arrays[name]), ROWS)):
            raise StorageError(f"{folder / found['arrays'][name]['file']} holds numbers that are not finite")
    return found["about"], arrays


def manifest(folder: Path) -> dict[str, Any]:
    """The checked content of gallery.json. Raises StorageError."""
    file = folder / MANIFEST
    try:
        found = load_json(file.read_bytes())
        kind, version = found["format"], found["version"]
    except FileNotFoundError:
        raise StorageError(f"{file} is missing, expected a folder that Gallery.save has written") from None
    except (ValueError, KeyError, TypeError, NotADirectoryError):
        raise StorageError(f"{file} is not readable, expected a folder that Gallery.save has written") from None
    if (kind, version) != (FORMAT, VERSION):
        raise StorageError(f"{file} is {kind!r} version {version!r}, expected {FORMAT!r} version {VERSION}")
    about, arrays = found.get("about"), found.get("arrays")
    counts = isinstance(about, dict) and all(type(about.get(k)) is int and about[k] > 0 for k in ("k1", "k2"))
    if not counts or set(about) != {"k1", "k2", "variant", "precision"}:
        raise StorageError(f"{file} says about the gallery {about!r}, expected k1, k2, variant and precision")
    if about["variant"] not in ("released", "paper") or about["precision"] not in ("highest", "fast"):
        raise StorageError(f"{file} has variant {about['variant']!r} and precision {about['precision']!r}")
    if not isinstance(arrays, dict) or set(arrays) != set(ARRAYS):
        raise StorageError(f"{file} does not name exactly the arrays {', '.join(ARRAYS)}")
    for name, entry in arrays.items():
        if not isinstance(entry, dict) or not OWN_FILE.fullmatch(str(entry.get("file"))):
            raise StorageError(f"{file} names no file of its own for {name}")
    return found


def mapped(folder: Path, name: str, entry: dict[str, Any]) -> np.ndarray:
    """One array, checked against its entry in the manifest."""
    file = folder / entry["file"]
    if checksum(file) != entry.get("crc32"):
        raise StorageError(f"{file} is damaged: its checksum is not the one in {MANIFEST}")
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # on a header that was made up numpy raises nearly every type
        raise StorageError(f"{file} is damaged: {error}") from None
    dimensions = 2 if name in ("embedding", "value", "index") else 1
    if array.dtype != ARRAYS[name] or list(array.shape) != entry.get("shape") or array.ndim != dimensions:
        raise StorageError(f"{file} is {array.dtype}{list(array.shape)}, expected {ARRAYS[name]}{entry.get('shape')}")
    return array


def checksum(file: Path) -> int:
    """CRC-32 of a file, read in pieces."""
    crc = 0
    with open(file, "rb") as stream:
        while piece := stream.read(1 << 22):
            crc = zlib.crc32(piece, crc)
    return crc


def ours(file: Path) -> bool:
    return OWN_FILE.fullmatch(file.name) is not None or file.name.startswith(f".{MANIFEST}.")
