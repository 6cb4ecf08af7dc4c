"""The features file: what --mode=extract writes and --mode=rank, the notebook and other frameworks read."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from saai_jax.files import atomic_write, refuse_large


class FeaturesError(Exception):
    """A features file is not one; the message names the file, the key and the first row at fault."""


class Features(NamedTuple):
    """Row i describes image i. embedding: f32[n d], of any scale; identity, camera: i32[n], the data set's own
    numbers; modality: i32[n], 0 visible, 1 infrared; path: str[n], relative to the data root.
    """

    embedding: np.ndarray
    identity: np.ndarray
    camera: np.ndarray
    modality: np.ndarray
    path: np.ndarray


KINDS = {"embedding": ("f", "floats"), "path": ("U", "strings")}  # the others: whole numbers


def save(file: str | os.PathLike, features: Features):
    """Writes a .npz with one array a field, whole or not at all. Raises FeaturesError as load does."""
    whole = checked(file, {key: np.asarray(value) for key, value in features._asdict().items()})
    with atomic_write(file) as temporary, open(temporary, "wb") as stream:  # a stream: savez appends .npz to a name
        np.savez(stream, **whole._asdict())  # uncompressed: floats barely shrink, and reading takes ten times longer


def load(file: str | os.PathLike) -> Features:
    """Reads what save, or another program, has written; any width of float and integer is taken.

    Raises FeaturesError for missing keys, wrong shapes, types or lengths, NaN, infinity, rows of zeros (they have no
    direction, so no cosine), modalities other than 0 and 1, damaged files. Unpickles nothing.
    """
    try:
        arrays = read_npz(file, Features._fields)
    except FileNotFoundError as error:
        raise FeaturesError(f"{file}: no such file") from error
    except FeaturesError:
        raise
    except Exception as error:  # zipfile, zlib and numpy's header parser raise nearly every type on damaged input
        raise FeaturesError(f"{file}: damaged, or not a .npz of plain arrays: {error}") from error
    return checked(file, arrays)


def read_npz(file: str | os.PathLike, names: Collection[str]) -> dict[str, np.ndarray]:
    """Those of the arrays that a .npz has.

    Raises FeaturesError for another file, ValueError for more bytes than `files.room`, and as numpy does for damage.
    """
    archive = np.load(file, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise FeaturesError(f"{file}: one array, not a .npz of {', '.join(names)}")
    with archive:
        members = archive.zip.infolist() if archive.zip else []
        if other := [m.filename for m in members if m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]:
            raise FeaturesError(f"{file}: {other[0]} is packed as numpy packs no array")
        refuse_large(file, sum(member.file_size for member in members))
        arrays = {}
        for name in filter(archive.__contains__, names):
            try:
                arrays[name] = archive[name]
            except ValueError as error:
                if "Object arrays" not in str(error):
                    raise
                how = f"save np.array({name}, str), or of numbers np.array({name}.tolist())"
                raise ValueError(f"{name} is an array of Python objects; {how}") from error
    if odd := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:  # bytes of something else
        raise FeaturesError(f"{file}: {odd[0]} is damaged, or no array")
    return arrays


def whole_texts(texts: np.ndarray) -> np.ndarray:
    """bool[n], whether each of str[n] is text that can be written: no half characters, none that Unicode lacks."""
    if not texts.size or not texts.dtype.itemsize:
        return np.ones(len(texts), bool)
    codes = np.ascontiguousarray(texts.astype(texts.dtype.newbyteorder("="))).view(np.uint32).reshape(len(texts), -1)
    return np.logical_and.reduce((codes <= 0x10FFFF) & ((codes < 0xD800) | (codes > 0xDFFF)), axis=1)


def checked(file: str | os.PathLike, arrays: dict[str, np.ndarray]) -> Features:
    """The arrays as Features, in 32 bits. Raises FeaturesError as load does, naming the file, the key and the row."""
    if missing := [key for key in Features._fields if key not in arrays]:
        raise FeaturesError(f"{file}: has no {', '.join(missing)}")
    rows = arrays["embedding"].shape[0] if arrays["embedding"].ndim else 0
    for key, array in arrays.items():
        kind, words = KINDS.get(key, ("iu", "whole numbers"))
        if array.dtype.kind not in kind:
            raise FeaturesError(f"{file}: {key} is {array.dtype}, not {words}")
        if array.ndim != (2 if key == "embedding" else 1):
            raise FeaturesError(
                f"{file}: {key} has shape {array.shape}, not {'[n d]' if key == 'embedding' else '[n]'}"
            )
        if len(array) != rows:
            raise FeaturesError(f"{file}: {key} has {len(array)} rows, embedding has {rows}")
    if not rows:
        raise FeaturesError(f"{file}: embedding has no rows")
    if not (whole := whole_texts(arrays["path"])).all():
        raise FeaturesError(f"{file}: path of row {int(np.argmin(whole))} is no text")

    def refuse(bad, key: str, what: str):
        if np.any(bad):
            row = int(np.argmax(bad))
            raise FeaturesError(f"{file}: {key} of row {row} ({arrays['path'][row]}) {what}; {np.sum(bad)} such rows")

    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused as such
        embedding = arrays["embedding"].astype(np.float32, copy=False)
    refuse(~np.isfinite(embedding).all(axis=1), "embedding", "is not finite")
    refuse(~embedding.any(axis=1), "embedding", "is zero everywhere")
    for key in ("identity", "camera"):
        refuse(np.not_equal(arrays[key].astype(np.int32), arrays[key]), key, "does not fit 32 bits")
    refuse(np.isin(arrays["modality"], (0, 1), invert=True), "modality", "is neither 0 (visible) nor 1 (infrared)")
    identity, camera, modality = (arrays[key].astype(np.int32) for key in ("identity", "camera", "modality"))
    return Features(embedding, identity, camera, modality, arrays["path"])
