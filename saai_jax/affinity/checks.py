"""Arguments the distances share, checked before anything is compiled."""

from __future__ import annotations

import numbers
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

Rows = Array | np.ndarray  # features as a caller has them


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


@jax.jit
def largest_entry(rows: Float[Array, "n d"]) -> Float[Array, " n"]:
    """The size of each row's largest entry."""
    return jnp.abs(rows).max(1, initial=0)


def row_scale(largest):
    """What rows are divided by before their entries are squared: 1, but for those whose squares could leave float32."""
    xp = np if isinstance(largest, np.ndarray) else jnp
    # XLA divides by the inverse, which beyond 1e37 is too small for it.
    return xp.where((largest > 0) & ((largest < 1e-9) | (largest > 1e9)), xp.minimum(largest, 1e37), 1)[:, None]


def checked(embedding, name: str, length: int | None = None, *, scaled: bool = True) -> Any:
    """f32[n d] of lists or arrays of real numbers of any type and byte order: every distance begins here.

    scaled: rows of extreme size are brought to a largest entry of 1, for distances that normalise; all others keep
    their bits. Raises ValueError for what is no numbers, another shape (length: of the rows), and the first row that is
    not finite in float32. Of arrays traced by jit or grad it can check type and shape alone; a traced f64 stays f64.
    """
    on_device = isinstance(embedding, jax.Array)
    try:
        rows = embedding if on_device else np.asarray(embedding)
    except ValueError:
        raise ValueError(f"{name} has rows of several lengths, expected [n, d]") from None
    number = jnp.issubdtype(rows.dtype, jnp.number) and not jnp.issubdtype(rows.dtype, jnp.complexfloating)
    if not number and rows.dtype != bool:
        raise ValueError(f"{name} is {rows.dtype}{list(rows.shape)}, expected real numbers")
    if rows.ndim != 2 or (length is not None and rows.shape[1] != length):
        raise ValueError(f"{name} is f32{list(rows.shape)}, expected [n, {'d' if length is None else length}]")
    rows = rows.astype(np.float64 if rows.dtype.itemsize > 4 else np.float32, copy=False)
    if isinstance(rows, Tracer):
        return rows / row_scale(jax.lax.stop_gradient(largest_entry(rows))) if scaled else rows
    # Two passes without a copy of the array; NaN and infinity come through.
    largest = largest_entry(rows) if on_device else np.maximum(rows.max(1, initial=0), -rows.min(1, initial=0))
    largest = np.asarray(largest)
    if not (fine := largest <= np.finfo(np.float32).max).all():
        raise ValueError(f"{name} row {int(fine.argmin())} is not finite in float32")
    scale = row_scale(largest)
    if scaled and (scale != 1).any():
        rows = rows / scale
    return rows.astype(np.float32, copy=False)


def checked_pair(query, gallery, *, scaled: bool = True) -> tuple[Any, Any]:
    """Query f32[q d] and gallery f32[g d], `checked`, of one length."""
    query = checked(query, "query", scaled=scaled)
    return query, checked(gallery, "gallery", query.shape[1], scaled=scaled)
