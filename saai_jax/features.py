"""The features file: what --mode=extract writes and --mode=rank, the notebook and other frameworks read."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from saai_jax.log import replacing


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
    with replacing(file) as temporary, open(temporary, "wb") as stream:  # a stream: savez appends .npz to a name
        np.savez(stream, **whole._asdict())  # uncompressed: floats barely shrink, and reading takes ten times longer


def load(file: str | os.PathLike) -> Features:
    """Reads what save, or another program, has written; any width of float and integer is taken.

    Raises FeaturesError for missing keys, wrong shapes, types or lengths, NaN, infinity, rows of zeros (they have no
    direction, so no cosine), modalities other than 0 and 1, damaged files. Unpickles nothing.
    """
    try:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise FeaturesError(f"{file}: one array, not a .npz of {', '.join(Features._fields)}")
        with archive:
            arrays = {key: archive[key] for key in Features._fields if key in archive}
    except FileNotFoundError as error:
        raise FeaturesError(f"{file}: no such file") from error
    except FeaturesError:
        raise
    except Exception as error:  # zipfile, zlib and numpy's header parser raise nearly every type on damaged input
        raise FeaturesError(f"{file}: damaged, or not a .npz of plain arrays: {error}") from error
    return checked(file, arrays)


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
