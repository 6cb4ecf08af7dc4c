"""MATLAB's files as far as data sets use them: numbers, and cells of cells of them."""

from __future__ import annotations

import os
from typing import Any

from input_pipeline.index import DataError
from saai_jax import foreign


def read_mat(path: str | os.PathLike, name: str) -> Any:
    """The variable of that name: an array of numbers, or a list of what is in its cells.

    DataError: missing, damaged, of version 7.3 and no numbers, without such a variable, or with one of another kind.
    """
    expected = f"{path}: cannot be read, expected a MATLAB file with {name!r}"
    try:
        with open(path, "rb"):
            found = foreign.read_arrays(path, [name])
    except OSError as error:
        raise DataError(f"{expected}: {error.strerror}") from error
    except foreign.ForeignError as error:
        raise DataError(f"{expected}: {error}") from error
    if name not in found:
        raise DataError(f"{path}: holds no variable {name!r}")
    if _has_text(found[name]):
        raise DataError(f"{path}: cannot be read, {name!r} is neither real numbers nor cells of them")
    return found[name]


def _has_text(value: Any) -> bool:
    return any(map(_has_text, value)) if isinstance(value, list) else value.dtype.kind == "U" and value.size > 0
