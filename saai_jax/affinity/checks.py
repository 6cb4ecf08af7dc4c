"""Arguments the distances share, checked before anything is compiled."""

from __future__ import annotations

import numbers
import warnings

import numpy as np
from jaxtyping import Float


def neighbour_counts(size: int, *, of: str = "the gallery's {} images", **counts: int) -> dict[str, int]:
    """Numbers of neighbours, those above `size` lowered to it with a warning that calls them `of`.

    Raises ValueError for a count that is not a positive integer, by its keyword, and where there are no images.
    """
    if not size:
        raise ValueError("the gallery is empty")
    for name, k in counts.items():
        if not isinstance(k, numbers.Integral) or isinstance(k, bool) or k < 1:
            raise ValueError(f"{name} is {k!r}, expected a positive integer")
        if k > size:
            # Two levels up is the caller of the distance, whose numbers these are.
            warnings.warn(f"{name}={k} is lowered to {of.format(size)}", stacklevel=3)
    return {name: min(int(k), size) for name, k in counts.items()}


def fractions(**values: float) -> None:
    """Raises ValueError for a value that is not a number from 0 to 1, by its keyword."""
    for name, value in values.items():
        if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0 <= value <= 1:
            raise ValueError(f"{name} is {value!r}, expected a number from 0 to 1")


def choice(name: str, value: str, options: tuple[str, ...]) -> None:
    """Raises ValueError for a value that is none of the options."""
    if value not in options:
        raise ValueError(f"{name} is {value!r}, expected {' or '.join(map(repr, options))}")


def finite(embedding, name: str, length: int | None = None) -> Float[np.ndarray, "n d"]:
    """Checked f32[n d]. Raises ValueError that names the row."""
    rows = np.asarray(embedding, np.float32)
    if rows.ndim != 2 or (length is not None and rows.shape[1] != length):
        raise ValueError(f"{name} is f32{list(rows.shape)}, expected [n, {'d' if length is None else length}]")
    if not np.isfinite(rows).all():
        raise ValueError(f"{name} row {int(np.isfinite(rows).all(1).argmin())} is not finite")
    return rows
