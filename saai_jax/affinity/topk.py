"""Exact selection of the largest entries of long rows, on one device or over a gallery spread on several."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from saai_jax.affinity.mesh import AXIS

BLOCK = 32
LONG = 8192


def top_k(x: Float[Array, "n m"], k: int) -> tuple[Float[Array, "n k"], Int[Array, "n k"]]:
    """The k largest entries of every row, largest first, equal ones by column; as lax.top_k, faster on long rows."""
    n, m = x.shape
    if not isinstance(m, int) or m < LONG or m < 4 * k * BLOCK:  # a symbol, of an exported program, or small
        value, index = lax.top_k(x, k)
        # Without the barriers a slice of the result makes XLA's CPU compiler sort whole rows.
        return lax.optimization_barrier(value), lax.optimization_barrier(index)
    # An entry among the k largest lies in one of the k blocks with the largest maxima, or k entries would precede it.
    blocks = -(-m // BLOCK)
    padded = jnp.pad(x, ((0, 0), (0, blocks * BLOCK - m)), constant_values=-jnp.inf).reshape(n, blocks, BLOCK)
    block = jnp.sort(top_k(padded.max(2), k)[1], axis=1)  # in their order, so that equal entries keep theirs
    value, at = top_k(jnp.take_along_axis(padded, block[:, :, None], 1).reshape(n, k * BLOCK), k)
    return value, jnp.take_along_axis(block, at // BLOCK, 1) * BLOCK + at % BLOCK


def top_k_of_all(x: Float[Array, "n m"], k: int) -> tuple[Float[Array, "n k"], Int[Array, "n k"]]:
    """top_k of rows whose columns lie on the devices of AXIS, m on each: the same on all, columns counted over all.

    For use inside shard_map; k at most m times the devices.
    """
    m, devices = x.shape[1], lax.axis_size(AXIS)
    value, index = top_k(x, min(k, m))
    if devices == 1:
        return value, index
    value = lax.all_gather(value, AXIS, axis=1, tiled=True)
    index = lax.all_gather(index + lax.axis_index(AXIS) * m, AXIS, axis=1, tiled=True)
    value, at = top_k(value, k)
    return value, jnp.take_along_axis(index, at, 1)
