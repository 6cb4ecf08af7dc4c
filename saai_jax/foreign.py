"""The arrays of .mat and .h5 files by name, as MATLAB and h5py write them. Nothing is unpickled.

Both are read by C libraries that crash on some damaged files, and never end on others, so a process of its own does
it: python -m saai_jax.foreign FILE OUTPUT NAME ...
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io

from saai_jax.files import refuse_large, room, str_array

SECONDS = 60  # that reading takes at most, and one more for every megabyte
REFUSED = 3  # exit status: standard output says why
OWN = 1 << 28  # bytes that Python and the libraries need for themselves
DEPTH = 8  # cells in cells


class ForeignError(Exception):
    """Why a file, which the message does not name, is not one of plain arrays."""


def read_arrays(file: str | os.PathLike, names: Collection[str]) -> dict[str, Any]:
    """Those of the arrays that the file has: numbers, or str[n] of strings; other cells of MATLAB are nested lists.

    Without names, an empty array by the name of each that there is.

    Raises ForeignError for what is no plain array, for damage, and for files that the libraries crash on or hang at.
    """
    root, seconds = str(Path(__file__).resolve().parents[1]), SECONDS + os.path.getsize(file) / 1e6
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}
    environment["OPENBLAS_NUM_THREADS"] = "1"  # each takes memory
    with tempfile.TemporaryDirectory() as folder:
        output = os.path.join(folder, "arrays.npz")
        command = [sys.executable, "-P", "-m", __name__, os.fspath(file), output, *names]
        try:
            how = {"capture_output": True, "text": True, "errors": "replace", "timeout": seconds}
            done = subprocess.run(command, env=environment, **how)
        except subprocess.TimeoutExpired as error:
            raise ForeignError(f"damaged: not read after {seconds:.0f} s") from error
        if done.returncode not in (0, REFUSED):
            raise ForeignError(f"damaged: its reader ended with status {done.returncode} {done.stderr[-500:]}")
        said = json.loads(done.stdout)
        if done.returncode == REFUSED:
            raise ForeignError(said)
        with np.load(output, allow_pickle=False) as arrays:
            return _filled(said, [arrays[f"arr_{i}"] for i in range(len(arrays.files))])


def _filled(places: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(places, dict):
        return {name: _filled(place, arrays) for name, place in places.items()}
    return [_filled(place, arrays) for place in places] if isinstance(places, list) else arrays[places]


def main(file: str, output: str, *names: str) -> int:
    """Reads the file in this process, writes its arrays to a .npz and says where in it the values have theirs."""
    arrays = []

    def place(value: Any) -> Any:
        if isinstance(value, list):
            return [place(item) for item in value]
        arrays.append(value)
        return len(arrays) - 1

    try:
        places = {name: place(value) for name, value in read_here(file, names).items()}
        refuse_large(file, sum(array.nbytes for array in arrays))
    except (ForeignError, ValueError) as error:
        print(json.dumps(str(error)))
        return REFUSED
    np.savez(output, *arrays)
    print(json.dumps(places))
    return 0


def read_here(file: str | os.PathLike, names: Collection[str]) -> dict[str, Any]:
    """As read_arrays, in this process, which may not survive it."""
    file = Path(file)
    try:
        if file.suffix.lower() == ".mat" and not h5py.is_hdf5(file):
            if not names:
                return {str(name): np.zeros(0) for name, *_ in scipy.io.whosmat(file, appendmat=False)}
            with warnings.catch_warnings():
                warnings.simplefilter("error", np.exceptions.ComplexWarning)  # scipy would drop imaginary parts
                # mat_dtype: MATLAB stores doubles that are whole as small integers
                found = scipy.io.loadmat(file, variable_names=list(names), mat_dtype=True, appendmat=False)
            return {name: _of_matlab(file, name, found[name]) for name in names if name in found}
        with h5py.File(file, "r") as stream:  # MATLAB 7.3 is such a file too
            if not names:
                return {str(name): np.zeros(0) for name in stream}
            return {name: _plain(name, _of_h5(file, name, stream)) for name in names if name in stream}
    except ForeignError:
        raise
    except MemoryError as error:
        raise ForeignError(
            "takes more memory than a file of its size may; SAAI_JAX_ROOM=BYTES lets it be read"
        ) from error
    except Exception as error:  # both libraries raise nearly every type on damaged input
        raise ForeignError(f"damaged, or not a {file.suffix} of plain arrays: {error}") from error


def _plain(name: str, array: Any) -> np.ndarray:
    if not isinstance(array, np.ndarray | np.generic) or array.dtype.kind not in "fiubU":
        raise ForeignError(f"{name}: not a plain array of numbers or strings")
    return np.asarray(array, array.dtype.newbyteorder("="))


def _of_matlab(file: Path, name: str, value: Any, depth: int = 0) -> Any:
    """An array; of cells, str[n] if the first one, and then all, are one string each, or a list of what is in them."""
    if not isinstance(value, np.ndarray):
        raise ForeignError(f"{name} is sparse, not a plain array")
    if value.dtype.kind == "U":  # of a matrix of characters the lines are filled up with blanks
        return value if depth else np.strings.rstrip(value, " ")
    if value.dtype.kind != "O":
        return _plain(name, value)
    if depth > DEPTH:
        raise ForeignError(f"cells in {depth} cells")
    cells = [_of_matlab(file, f"cell {row} of {name}", cell, depth + 1) for row, cell in enumerate(value.ravel())]
    strings = [isinstance(cell, np.ndarray) and cell.dtype.kind == "U" and cell.size < 2 for cell in cells]
    if not all(strings[:1]):
        return cells
    if not all(strings):
        raise ForeignError(f"cell {strings.index(False)} of {name} is not one string")
    return str_array(file, [cell.item() if cell.size else "" for cell in cells])


def _of_h5(file: Path, name: str, stream: h5py.File) -> Any:
    """A data set as its writer saw it; MATLAB's are stored with their axes reversed, and say that they are MATLAB's."""
    data: Any = stream[name]
    _refuse_foreign(file, name, stream, data)
    made_by = data.attrs.get("MATLAB_class")
    if made_by is None:
        return str_array(file, data.asstr()[()]) if h5py.check_string_dtype(data.dtype) else data[()]
    if "MATLAB_empty" in data.attrs:
        raise ForeignError(f"{name} is empty")
    if made_by == b"char":
        return np.strings.rstrip(str_array(file, _characters(data)), " ")
    if made_by != b"cell":
        return data[()].T
    texts = []
    for row, reference in enumerate(data[()].T.ravel(order="F")):
        cell: Any = stream[reference] if isinstance(reference, h5py.Reference) else None
        if cell is None or cell.attrs.get("MATLAB_class") != b"char":
            raise ForeignError(f"cell {row} of {name} is not one string")
        _refuse_foreign(file, f"cell {row} of {name}", stream, cell)
        texts.append("" if "MATLAB_empty" in cell.attrs else "".join(_characters(cell)))
    return str_array(file, texts)


def _characters(data: Any) -> list[str]:
    return [line.astype("<u2").tobytes().decode("utf-16-le") for line in np.atleast_2d(data[()].T)]


def _refuse_foreign(file: Path, name: str, stream: h5py.File, data: Any) -> None:
    """What is not a plain array, is kept in another file, or claims more than this file can hold."""
    if not isinstance(data, h5py.Dataset) or data.shape is None:
        raise ForeignError(f"{name} is not an array")
    if data.file.filename != stream.filename or data.external or data.is_virtual:
        raise ForeignError(f"{name} is kept in another file")
    if data.size * data.dtype.itemsize > room(file):
        raise ForeignError(f"{name} claims shape {data.shape}, more than the file can hold")


if __name__ == "__main__":
    if sys.platform == "linux":  # what is compressed may ask for a thousand times the file
        limit = 2 * room(sys.argv[1]) + OWN
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    sys.exit(main(*sys.argv[1:]))
