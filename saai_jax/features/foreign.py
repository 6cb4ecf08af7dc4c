"""The arrays of files that other programs wrote, by name: .npz, .npy with a .csv, .mat, .h5. Nothing is unpickled.

.mat and .h5 are read by C libraries that crash on some damaged files, and never end on others, so a process of its own
does it: python -m saai_jax.features.foreign FILE OUTPUT NAME ...
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

from saai_jax.features.store import DEFLATE, LONGEST, FeaturesError, read_npz

SECONDS = 60  # that reading takes at most, and one more for every megabyte
REFUSED = 3  # exit status: standard output says why
Read = Callable[[Path, Collection[str]], dict[str, np.ndarray]]  # (file, names) -> the arrays that are there


def npy(file: Path, names: Collection[str]) -> dict[str, np.ndarray]:
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
        if any(len(cell) > LONGEST for cell in row):
            raise FeaturesError(f"{table}: row {number} has a cell of more than {LONGEST} characters")
    found = {"embedding": embedding}
    for name in set(names) & set(head) - {"embedding"}:
        found[name] = np.array([row[head.index(name)] for row in rows], np.str_)
    return found


def mat(file: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    if h5py.is_hdf5(file):  # MATLAB 7.3
        return h5(file, names)
    # mat_dtype: MATLAB stores doubles that are whole as small integers
    found = scipy.io.loadmat(file, variable_names=list(names), mat_dtype=True, appendmat=False)
    return {name: _mat_array(file, name, found[name]) for name in names if name in found}


def _mat_array(file: Path, name: str, array: Any) -> np.ndarray:
    if not isinstance(array, np.ndarray):
        raise FeaturesError(f"{file}: {name} is sparse, not a plain array")
    if array.dtype.kind == "U":  # a matrix of characters, whose lines are filled up with blanks
        return np.strings.rstrip(array, " ")
    if array.dtype.kind != "O":
        return array
    texts = []
    for row, cell in enumerate(array.ravel()):
        if not (isinstance(cell, np.ndarray) and cell.dtype.kind == "U" and cell.size <= 1):
            raise FeaturesError(f"{file}: cell {row} of {name} is not one string")
        texts.append(str(cell.item()) if cell.size else "")
    return np.array(texts, np.str_)


def h5(file: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    with h5py.File(file, "r") as stream:
        return {name: _h5_array(file, name, stream, stream[name]) for name in names if name in stream}


def _h5_array(file: Path, name: str, stream: h5py.File, data: Any) -> np.ndarray:
    """A data set as its writer saw it; MATLAB's are stored with their axes reversed, and say that they are MATLAB's."""
    _refuse_foreign(file, name, stream, data)
    made_by = data.attrs.get("MATLAB_class")
    if made_by is None:
        return np.array(data.asstr()[()], np.str_) if h5py.check_string_dtype(data.dtype) else data[()]
    if "MATLAB_empty" in data.attrs:
        raise FeaturesError(f"{file}: {name} is empty")
    if made_by == b"char":
        return np.strings.rstrip(np.array(_characters(data), np.str_), " ")
    if made_by != b"cell":
        return data[()].T
    texts = []
    for row, reference in enumerate(data[()].T.ravel(order="F")):
        cell = stream[reference] if isinstance(reference, h5py.Reference) else None
        if cell is None or cell.attrs.get("MATLAB_class") != b"char":
            raise FeaturesError(f"{file}: cell {row} of {name} is not one string")
        _refuse_foreign(file, f"cell {row} of {name}", stream, cell)
        texts.append("" if "MATLAB_empty" in cell.attrs else "".join(_characters(cell)))
    return np.array(texts, np.str_)


def _characters(data: Any) -> list[str]:
    return [line.astype("<u2").tobytes().decode("utf-16-le") for line in np.atleast_2d(data[()].T)]


def _refuse_foreign(file: Path, name: str, stream: h5py.File, data: Any) -> None:
    """What is not a plain array, is kept in another file, or claims more than this file can hold."""
    if not isinstance(data, h5py.Dataset) or data.shape is None:
        raise FeaturesError(f"{file}: {name} is not an array")
    if data.file.filename != stream.filename or data.external or data.is_virtual:
        raise FeaturesError(f"{file}: {name} is kept in another file")
    if data.size * data.dtype.itemsize > DEFLATE * file.stat().st_size:
        raise FeaturesError(f"{file}: {name} claims shape {data.shape}, more than the file can hold")


def in_subprocess(file: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """What mat or h5 returns, from another process. Raises FeaturesError for what they refuse, crash on or hang at."""
    names, root = sorted(names), str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}
    seconds = SECONDS + file.stat().st_size / 1e6
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "arrays.npz")
        command = [sys.executable, "-m", __name__, str(file), str(output), *names]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise FeaturesError(f"{file}: damaged: not read after {seconds:.0f} s") from error
        if done.returncode == REFUSED:
            raise FeaturesError(done.stdout)
        if done.returncode:
            raise FeaturesError(f"{file}: damaged: its reader ended with status {done.returncode} {done.stderr[-500:]}")
        with np.load(output, allow_pickle=False) as archive:
            return {names[int(key)]: archive[key] for key in archive}


def main(file: str, output: str, *names: str) -> int:
    """Reads the file and writes the arrays to a .npz by the places of their names."""
    reader = mat if file.lower().endswith(".mat") else h5
    try:
        found = reader(Path(file), names)
        arrays = {str(i): np.asarray(found[name]) for i, name in enumerate(names) if name in found}
        if odd := [names[int(i)] for i, array in arrays.items() if array.dtype.kind not in "fiubU"]:
            raise FeaturesError(f"{file}: {', '.join(odd)}: not a plain array of numbers or strings")
    except FeaturesError as error:
        print(error, end="")
        return REFUSED
    except Exception as error:  # both libraries raise nearly every type on damaged input
        print(f"{file}: damaged, or not a {Path(file).suffix} of plain arrays: {error}", end="")
        return REFUSED
    np.savez(output, **arrays)  # pyright: ignore[reportArgumentType] (names that are numbers are no other parameters)
    return 0


FOREIGN: dict[str, Read] = dict.fromkeys((".mat", ".h5", ".hdf5"), in_subprocess)
READERS: dict[str, Read] = {".npz": read_npz, **FOREIGN, ".npy": npy}

if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
