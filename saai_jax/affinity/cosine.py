"""Plain distances between query and gallery."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from saai_jax.affinity.checks import Rows, checked_pair, largest_entry, row_scale

Precision = Literal["highest", "fast"]


def unit(x: Float[Rows, "n d"]) -> Float[Rows, "n d"]:
    """Rows scaled to length 1; a row of zeros stays."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def unit_rows(rows: Float[Rows, "n d"]) -> Float[np.ndarray, "n d"]:
    """unit on the host, where a row's result does not depend on how many rows there are."""
    rows = np.asarray(rows)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def dot(a: Float[Rows, "n d"], b: Float[Rows, "m d"], precision: Precision = "highest") -> Float[Array, "n m"]:
    """Inner products of all pairs of rows.

    "highest" is full float32: TF32 or bf16 would change rankings. "fast" rounds the rows to bf16, adds in float32.
    """
    if precision == "highest":
        return jnp.matmul(a, b.T, precision="highest")
    return jnp.matmul(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16).T, preferred_element_type=jnp.float32)


def similarity(a: Float[Rows, "n d"], b: Float[Rows, "m d"]) -> Float[Array, "n m"]:
    """Cosine similarities of all pairs of rows, in float32; of any scale, 0 for a row of zeros."""
    # Lengths of the longer side are divided by afterwards: a scaled copy of it costs half as much as the product.
    return dot(a, unit(b)) / jnp.maximum(jnp.linalg.norm(a, axis=1, keepdims=True), 1e-12)


@jax.jit
def _cosine(query, gallery):
    return 1 - similarity(query, gallery)


def cosine(query: Float[Rows, "q d"], gallery: Float[Rows, "g d"]) -> Float[Array, "q g"]:
    """1 - cosine similarity, in [0, 2]; features of any scale (Eq. 8). Raises ValueError as `checks.checked`."""
    return _cosine(*checked_pair(query, gallery))


@jax.jit
def distance_between(query: Float[Array, "q d"], gallery: Float[Array, "g d"]) -> Float[Array, "q g"]:
    """`euclidean` of rows that are checked."""
    a, b = row_scale(largest_entry(query)), row_scale(largest_entry(gallery))
    # All of it in units of the larger row of a pair; of rows of ordinary size these are 1 and change no bit.
    largest = jnp.maximum(a, b.T)
    query, gallery, a, b = query / a, gallery / b, a / largest, b.T / largest
    squared = jnp.square(query).sum(1)[:, None] * a * a + jnp.square(gallery).sum(1)[None] * b * b
    return largest * jnp.sqrt(jnp.maximum(squared - 2 * dot(query, gallery) * a * b, 0))


def euclidean(query: Float[Rows, "q d"], gallery: Float[Rows, "g d"]) -> Float[Array, "q g"]:
    """Euclidean distance of the rows as they are, of any scale, not normalised; infinite beyond float32's 3e38.

    Raises ValueError as `checks.checked`.
    """
    return distance_between(*checked_pair(query, gallery, scaled=False))
