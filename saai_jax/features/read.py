"""Features as other programs keep them: .mat, .h5, .npy with a .csv, .npz, under whatever names and in MATLAB's shapes.

What is taken for granted is said in the log; what does not fit is refused, with the file and the row.
"""

from __future__ import annotations

import csv
import difflib
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import Int

from saai_jax import foreign
from saai_jax.features.store import Features, FeaturesError, checked, read_npz, whole_texts
from saai_jax.files import str_array

# What other programs call our fields, without underscores and without the word that tells query and gallery apart.
KNOWN_AS = {
    "embedding": ("embedding", "embeddings", "feature", "features", "feat", "feats", "f"),
    "identity": ("identity", "identities", "pid", "pids", "label", "labels", "id", "ids"),
    "camera": ("camera", "cameras", "cam", "cams", "camid", "camids"),
    "modality": ("modality", "modalities", "modal", "modals"),
    "path": (
        "path",
        "paths",
        "imgpath",
        "imgpaths",
        "imagepath",
        "imagepaths",
        "filename",
        "filenames",
        "file",
        "files",
    ),
}


def columns(text: str, split: str = "") -> dict[str, str]:
    """Their name for each of our fields, from "embedding=feat,identity=label,camera=cam,modality=modal,path=name".

    A field that is not mentioned has our name. "{split}" in a name stands for `split`, query or gallery, where a file
    holds both: "embedding={split}_f". Raises FeaturesError for anything else.
    """
    found = {}
    for part in filter(str.strip, text.split(",")):
        field, equals, name = (piece.strip() for piece in part.partition("="))
        if field not in Features._fields:
            close = difflib.get_close_matches(field, Features._fields, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            if name in Features._fields:
                hint = f"; the other way round: {name}={field}"
            raise FeaturesError(f"columns {text!r}: {field!r} is none of {', '.join(Features._fields)}{hint}")
        if not equals or not name:
            raise FeaturesError(f"columns {text!r}: {part.strip()!r} is not field=name")
        if field in found:
            raise FeaturesError(f"columns {text!r}: {field} is named twice")
        if "{split}" in name and not split:
            raise FeaturesError(f"columns {text!r}: {{split}} is for a file, or two, of query and gallery")
        found[field] = name.replace("{split}", split)
    return found


def read(
    file: str | os.PathLike,
    columns: Mapping[str, str] | None = None,
    *,
    infrared_cameras: Collection[int] = (),
    cameras: Collection[int] | None = None,
) -> Features:
    """The features in a .npz, .mat (to 7.3), .h5, .hdf5, or a .npy with a .csv of the same stem and a header row.

    columns: their names, see `columns`; what it does not mention has our names. Vectors may be [n 1] or [1 n], whole
    numbers may be floats, and an embedding [d n] is turned where only that fits, with a warning. Without a path, rows
    are called row-000123, with a warning; without a modality, images of infrared_cameras are infrared, all others
    visible. cameras: the only ones there may be.
    Raises FeaturesError as `features.load` does; for other cameras; for a modality that is missing with
    infrared_cameras not given, or that contradicts them. Unpickles nothing and follows no link out of the file.
    """
    file, columns = Path(file), dict(columns or {})
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        torch = f"torch.load({file.name!r}, map_location='cpu')"
        way = f"; in Python: d = {torch}; np.savez({file.stem!r}, **{{k: np.asarray(d[k]) for k in d}})"
        way = way if file.suffix.lower() in (".pt", ".pth") else ""
        raise FeaturesError(f"{file}: no known kind of features file; known are {', '.join(READERS)}{way}")
    names = {field: columns.get(field, field) for field in Features._fields}
    if reader is _npy and "embedding" in columns:
        raise FeaturesError(f"{file}: a .npy is one array, the embedding; it has no column {columns['embedding']!r}")
    if not file.exists():
        raise FeaturesError(f"{file}: no such file")
    try:
        found = reader(file, set(names.values()))
    except FeaturesError:
        raise
    except Exception as error:  # readers raise nearly every type on damaged input
        raise FeaturesError(f"{file}: damaged, or not a {file.suffix} of plain arrays: {error}") from error
    arrays = {field: np.asarray(found[name]) for field, name in names.items() if name in found}
    missing = {field: name for field, name in names.items() if field not in arrays}
    needed = {"embedding", "identity", "camera", *columns} | (set() if infrared_cameras else {"modality"})
    if absent := [f"{name!r} (for {field})" for field, name in missing.items() if field in needed]:
        asked = "modality" in missing and "modality" not in columns and not infrared_cameras
        hint = "" if not asked else "; without it, name the infrared cameras, as --infrared_cameras=3,6"
        raise FeaturesError(f"{file}: has no {', '.join(absent)}{hint}{_fitting(file)}")
    return _features(file, arrays, infrared_cameras, cameras)


def _fitting(file: Path) -> str:
    """What the file has, and the --columns that fits it as far as its names are known ones."""
    names = _names(file)
    plain = {re.sub("query|gallery|_", "", name).lower(): re.sub("query|gallery", "{split}", name) for name in names}
    found = {field: plain[word] for field, words in KNOWN_AS.items() for word in words if word in plain}
    line = ",".join(f"{field}={name}" for field, name in found.items())
    return f"\nit has {', '.join(names) or 'nothing'}" + f"; try --columns={line}" * bool(line)


def _names(file: Path) -> list[str]:
    """What the arrays of a file, or the columns of the table beside it, are called."""
    if file.suffix.lower() == ".npz":
        with np.load(file, allow_pickle=False) as archive:
            return archive.files
    if file.suffix.lower() == ".npy":
        with open(file.with_suffix(".csv"), newline="", encoding="utf-8-sig") as stream:
            return [name.strip() for name in next(csv.reader(stream), [])]
    return list(foreign.read_arrays(file, ()))


def _npy(file: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """The array as "embedding", and columns of the table beside it as text."""
    embedding = np.load(file, allow_pickle=False)
    if not isinstance(embedding, np.ndarray):
        raise FeaturesError(f"{file}: an archive, not a .npy of one array")
    table = file.with_suffix(".csv")
    try:
        # utf-8-sig: spreadsheets write a mark before the first name
        with open(table, newline="", encoding="utf-8-sig") as stream:
            lines = list(csv.reader(stream, strict=True))
    except FileNotFoundError as error:
        raise FeaturesError(f"{table}: no such file; a .npy needs a table of its images beside it") from error
    except (ValueError, csv.Error) as error:
        raise FeaturesError(f"{table}: not a table of UTF-8 text: {error}") from error
    head, *rows = lines or [[]]
    head = [name.strip() for name in head]
    if repeated := {name for name in names if head.count(name) > 1}:
        raise FeaturesError(f"{table}: two columns are called {sorted(repeated)[0]!r}")
    for number, row in enumerate(rows):
        if len(row) != len(head):
            raise FeaturesError(f"{table}: row {number} has {len(row)} cells, the header has {len(head)}")
    found = {"embedding": embedding}
    try:
        for name in set(names) & set(head) - {"embedding"}:
            found[name] = str_array(table, [row[head.index(name)] for row in rows])
    except ValueError as error:
        raise FeaturesError(f"{table}: {error}") from error
    return found


def _foreign(file: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    try:
        found = foreign.read_arrays(file, sorted(names))
    except foreign.ForeignError as error:
        raise FeaturesError(f"{file}: {error}") from error
    if cells := [name for name, value in found.items() if isinstance(value, list)]:
        raise FeaturesError(f"{file}: cell 0 of {cells[0]} is not one string")
    return found


# (file, names) -> the arrays that are there
READERS: dict[str, Callable[[Path, Collection[str]], dict[str, np.ndarray]]] = {
    ".npz": read_npz,
    **dict.fromkeys((".mat", ".h5", ".hdf5"), _foreign),
    ".npy": _npy,
}


def join(query: Features, gallery: Features) -> tuple[Features, Int[np.ndarray, q], Int[np.ndarray, g]]:
    """Both in one, the queries first, and the rows of each. Raises FeaturesError for embeddings of other lengths."""
    lengths = query.embedding.shape[1], gallery.embedding.shape[1]
    if lengths[0] != lengths[1]:
        raise FeaturesError(f"query embeddings have length {lengths[0]}, those of the gallery {lengths[1]}")
    both = Features(*(np.concatenate(pair) for pair in zip(query, gallery, strict=True)))
    rows = np.arange(len(both.path), dtype=np.int32)
    return both, rows[: len(query.path)], rows[len(query.path) :]


def _features(file: Path, arrays: dict[str, np.ndarray], infrared: Collection[int], cameras: Collection[int] | None):
    for field, array in arrays.items():
        if field != "embedding":
            vector = array.ravel() if array.ndim == 2 and 1 in array.shape else array
            arrays[field] = vector if field == "path" else _whole(file, field, vector)
    n, embedding = len(arrays["identity"]) if arrays["identity"].ndim else 0, arrays["embedding"]
    if embedding.ndim == 2 and len(embedding) != n == embedding.shape[1]:
        logging.warning("%s: embedding has shape %s for %d images: taken as [d n]", file, embedding.shape, n)
        arrays["embedding"] = embedding.T
    if "path" not in arrays:
        # Such a name is no file number, so that no protocol can take it for one.
        arrays["path"] = np.array([f"row-{i:06d}" for i in range(n)], np.str_)
        logging.warning("%s: no path: protocols that need the names of files cannot be used", file)
    known = "modality" in arrays
    arrays.setdefault("modality", np.zeros(n, np.int32))  # until the cameras are known to be numbers
    features = checked(file, {field: arrays[field] for field in Features._fields})
    derived = np.isin(features.camera, list(infrared)).astype(np.int32)
    features = features if known else features._replace(modality=derived)
    for field, wrong, what in (
        ("camera", ~np.isin(features.camera, list(cameras or features.camera)), f"none of {_listed(cameras or ())}"),
        (
            "modality",
            bool(infrared) & (features.modality != derived),
            f"not as infrared cameras {_listed(infrared)} say",
        ),
    ):
        if wrong.any():
            row = int(np.argmax(wrong))
            value = f"{field} of row {row} ({features.path[row]}) is {getattr(features, field)[row]}"
            raise FeaturesError(f"{file}: {value}, {what}; {wrong.sum()} such rows")
    return features


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(values)))


def _whole(file: Path, field: str, array: np.ndarray) -> np.ndarray:
    """Floats, booleans and texts as the whole numbers they are; the rest as it is, to be judged by `checked`."""
    if array.dtype.kind == "b":
        return array.astype(np.int32)
    if array.dtype.kind == "U":
        texts, array = array.ravel(), np.zeros(array.shape, np.int64)
        if not (whole := whole_texts(texts)).all():
            raise FeaturesError(f"{file}: {field} of row {int(np.argmin(whole))} is no text")
        for row, text in enumerate(texts):
            # at most 15 digits, so that int64 holds it
            if not re.fullmatch(r"\s*[+-]?[0-9]{1,15}(\.0*)?\s*", text):
                raise FeaturesError(f"{file}: {field} of row {row} is {str(text)!r}, not a whole number")
            array.flat[row] = int(text.split(".")[0])
        return array
    if array.dtype.kind != "f":
        return array
    # A float cannot hold every whole number beyond this, and to convert one beyond 64 bits is undefined.
    wrong = ~((array == np.floor(array)) & (np.abs(array) < 2**53)).ravel()
    if wrong.any():
        row = int(np.argmax(wrong))
        raise FeaturesError(f"{file}: {field} of row {row} is {array.ravel()[row]}, not a whole number")
    return array.astype(np.int64)
