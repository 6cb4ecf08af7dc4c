"""Convolutions in the forms that a CPU runs well; `convolution` stands in for jax.lax.conv_general_dilated in nn.Conv.

`modes.building.system_of` chooses them for a system that runs on a CPU. docs/performance.md has their times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

WINOGRAD = 64  # channels, in and out, from which Winograd's products save more than the sums around them cost
WINOGRAD_KERNEL = 128  # the same for the gradient of the kernel, which takes one more transform
Grid = Sequence[Sequence[Array]]  # [row][column]


def convolution(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k k c d"],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **how: Any,
) -> Float[Array, "b h2 w2 d"]:
    """jax.lax.conv_general_dilated, whose arguments these are; 1x1 kernels as products, wide 3x3 ones by Winograd."""
    size, stride = kernel.shape[0], strides[0]
    square = kernel.shape[1] == size and strides[1] == stride
    plain = not any(value not in (None, 1, (1, 1)) for name, value in how.items() if name != "dimension_numbers")
    same = plain and square and list(padding) == [(size // 2, size // 2)] * 2
    if same and size == 1:
        # XLA takes the gradient of such a kernel for a convolution with a kernel of the picture's size.
        return product(x[:, ::stride, ::stride], kernel[0, 0])
    # In bfloat16 the sums around the products would lose digits.
    if same and size == 3 and stride == 1 and min(kernel.shape[2:]) >= WINOGRAD and x.dtype == jnp.float32:
        return winograd(x, kernel)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **how)


def narrow_convolution(x: Array, kernel: Array, strides: Sequence[int], padding: Any, **how: Any) -> Array:
    """`convolution` without Winograd's form, which takes long to compile and gains nothing in a narrow network."""
    if kernel.shape[:2] == (1, 1):
        return convolution(x, kernel, strides, padding, **how)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **how)


@jax.custom_vjp
def product(x: Float[Array, "b h w c"], kernel: Float[Array, "c d"]) -> Float[Array, "b h w d"]:
    """x @ kernel; its gradient transposes the narrower of x and the result's gradient.

    XLA transposes the latter by itself. Where it is wide, that takes longer than the product.
    """
    return x @ kernel


def _product(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return product(x, kernel), (x, kernel)


def _product_gradient(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = kept
    c, d = kernel.shape
    rows, of_rows = x.reshape(-1, c), g.reshape(-1, d)
    # The barrier: else the compiler moves the small transposition to what is multiplied.
    of_kernel = _over_rows(rows, of_rows) if c <= d else jax.lax.optimization_barrier(_over_rows(of_rows, rows)).T
    return g @ kernel.T, of_kernel


product.defvjp(_product, _product_gradient)


def _over_rows(x: Float[Array, "n c"], y: Float[Array, "n d"]) -> Float[Array, "c d"]:
    return jax.lax.dot_general(x, y, (((0,), (0,)), ((), ())))


@jax.custom_vjp
def winograd(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]) -> Float[Array, "b h w d"]:
    """A 3x3 convolution in steps of 1, its 2x2 results from 4x4 pixels by 16 products of pixels and weights, not 36.

    Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016, F(2x2, 3x3). The transforms around the
    products only add and halve, so that float32 is about as exact as in a sum of 9 c products.
    """
    return _tiled(x, _of_kernel(kernel))


def _winograd(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return winograd(x, kernel), (x, kernel)


def _winograd_gradient(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = kept
    weights = _of_kernel(kernel)
    # A kernel that is turned by half a turn has the same transformed weights in another order.
    of_x = _tiled(g, [weights[4 * i + j].T for i in (3, 1, 2, 0) for j in (3, 1, 2, 0)])
    if min(kernel.shape[2:]) < WINOGRAD_KERNEL:
        axes: Any = ("NHWC", "HWIO", "NHWC")
        plain = lambda k: jax.lax.conv_general_dilated(x, k, (1, 1), [(1, 1)] * 2, dimension_numbers=axes)  # noqa: E731
        return of_x, jax.linear_transpose(plain, kernel)(g)[0]
    pixels = _of_pixels(x)
    products = [jax.ShapeDtypeStruct((len(p), kernel.shape[3]), x.dtype) for p in pixels]
    of_products = jax.linear_transpose(lambda p: _results(p, x.shape[:3]), products)(g)[0]
    of_weights = [p.T @ of for p, of in zip(pixels, of_products, strict=True)]
    return of_x, jax.linear_transpose(_of_kernel, kernel)(of_weights)[0]


winograd.defvjp(_winograd, _winograd_gradient)


def _tiled(x: Float[Array, "b h w c"], weights: Sequence[Float[Array, "c d"]]) -> Float[Array, "b h w d"]:
    # Barriers: else the compiler computes what comes before and after anew in each of the 16 places that use it.
    pixels = _of_pixels(jax.lax.optimization_barrier(x))
    return jax.lax.optimization_barrier(_results([p @ w for p, w in zip(pixels, weights, strict=True)], x.shape[:3]))


def _twice(transform: Callable[..., tuple[Array, ...]], grid: Grid) -> list[Array]:
    """The transform of a grid's rows and then of its columns, row after row."""
    for _ in range(2):
        grid = list(zip(*(transform(*line) for line in grid), strict=True))
    return [value for line in grid for value in line]


def _of_pixels(x: Float[Array, "b h w c"]) -> list[Float[Array, "n c"]]:
    """The 16 transformed pixels of each tile, in rows of all b h/2 w/2 tiles, which overlap by half."""
    b, h, w, c = x.shape
    p, q = -(-h // 2), -(-w // 2)
    pairs = jnp.pad(x, ((0, 0), (1, 2 * p + 1 - h), (1, 2 * q + 1 - w), (0, 0))).reshape(b, p + 1, 2, q + 1, 2, c)
    place = [(i // 2, i % 2) for i in range(4)]
    grid = [[pairs[:, i : p + i, k, j : q + j, m] for j, m in place] for i, k in place]
    found = _twice(lambda d0, d1, d2, d3: (d0 - d2, d1 + d2, d2 - d1, d1 - d3), grid)
    return [value.reshape(-1, c) for value in found]


def _of_kernel(kernel: Float[Array, "3 3 c d"]) -> list[Float[Array, "c d"]]:
    """The 16 transformed weights."""
    return _twice(lambda g0, g1, g2: (g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2), list(map(list, kernel)))


def _results(products: Sequence[Float[Array, "n d"]], shape: tuple[int, ...]) -> Float[Array, "b h w d"]:
    """What the products of all tiles are together: a picture of shape (b, h, w)."""
    b, h, w = shape
    p, q = -(-h // 2), -(-w // 2)
    found = _twice(lambda m0, m1, m2, m3: (m0 + m1 + m2, m1 - m2 - m3), [products[i : i + 4] for i in range(0, 16, 4)])
    tiles = jnp.stack([value.reshape(b, p, q, -1) for value in found], 3).reshape(b, p, q, 2, 2, -1)
    return tiles.swapaxes(2, 3).reshape(b, 2 * p, 2 * q, -1)[:, :h, :w]
