"""Convolution and pooling with torch's numerics; on a CPU in the words that XLA runs well there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

Grid = Sequence[Sequence[Array]]  # [row][column]
Transform = Callable[..., tuple[Array, ...]]


def on_cpu() -> bool:
    """Whether JAX computes on a CPU where nothing else is said.

    What XLA does badly there is written in other words below; for a GPU or TPU its own convolutions and poolings stay,
    which their libraries and compilers know best.
    """
    return jax.default_backend() == "cpu"


def convolution(x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"], stride: int) -> Float[Array, "b h2 w2 d"]:
    """Cross-correlation with (k - 1) / 2 zeros on all sides, as torch.nn.Conv2d(..., padding=k // 2) of an odd k."""
    if on_cpu() and len(kernel) == 1:
        # A product, as which XLA does not write it by itself: the gradient of such a kernel is to it a convolution
        # with a kernel of the picture's size.
        return product(x[:, ::stride, ::stride] if stride > 1 else x, kernel[0, 0])
    # With fewer channels what the products save goes into the sums around them; bfloat16 would lose digits in these.
    if on_cpu() and len(kernel) == 3 and stride == 1 and min(kernel.shape[2:]) >= 64 and x.dtype == jnp.float32:
        return winograd(x, kernel)
    return _convolution(x, kernel, stride)


def _convolution(x: Array, kernel: Array, stride: int) -> Array:
    pad, axes = len(kernel) // 2, ("NHWC", "HWIO", "NHWC")
    # Padding is explicit: "SAME" pads strided convolutions differently from torchvision.
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=axes)


@jax.custom_vjp
def product(x: Float[Array, "b h w c"], kernel: Float[Array, "c d"]) -> Float[Array, "b h w d"]:
    """x @ kernel, whose gradient transposes the narrower of x and the result's gradient.

    A CPU's compiler by itself always transposes the latter; that takes longer than the product where it is wide.
    """
    return jnp.matmul(x, kernel)


def _product(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return product(x, kernel), (x, kernel)


def _product_gradient(kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    (x, kernel), (c, d) = kept, kept[1].shape
    rows, of_rows = x.reshape(-1, c), g.reshape(-1, d)
    # The barrier, or the compiler moves the small transposition behind it back to what is multiplied.
    of_kernel = _over_rows(rows, of_rows) if c <= d else jax.lax.optimization_barrier(_over_rows(of_rows, rows)).T
    return jnp.matmul(of_rows, kernel.T).reshape(x.shape), of_kernel


product.defvjp(_product, _product_gradient)


def _over_rows(x: Float[Array, "n c"], y: Float[Array, "n d"]) -> Float[Array, "c d"]:
    return jax.lax.dot_general(x, y, (((0,), (0,)), ((), ())))


@jax.custom_vjp
def winograd(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]) -> Float[Array, "b h w d"]:
    """The `convolution` in steps of 1, its 2x2 results from 4x4 pixels by 16 products of pixels and weights, not 36.

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
    turned = [weights[4 * i + j].T for i in (3, 1, 2, 0) for j in (3, 1, 2, 0)]
    of_x = _tiled(g, turned)
    if min(kernel.shape[2:]) < 128:  # one more transform than for x, of the larger arrays
        return of_x, jax.linear_transpose(lambda k: _convolution(x, k, 1), kernel)(g)[0]
    of_weights = [_over_rows(p, of) for p, of in zip(_of_pixels(x), _of_results(g), strict=True)]
    return of_x, jax.linear_transpose(_of_kernel, kernel)(of_weights)[0]


winograd.defvjp(_winograd, _winograd_gradient)


def _halves(n: int) -> int:
    return -(-n // 2)


def _tiled(x: Float[Array, "b h w c"], weights: Sequence[Float[Array, "c d"]]) -> Float[Array, "b h w d"]:
    # Barriers: else the compiler computes what comes before and after anew in each of the 16 places that use it.
    pixels = _of_pixels(jax.lax.optimization_barrier(x))
    products = [p @ w for p, w in zip(pixels, weights, strict=True)]
    return jax.lax.optimization_barrier(_results(products, x.shape[:3]))


def _twice(transform: Transform, grid: Grid) -> list[Array]:
    """The transform of a grid's rows and then of its columns, row after row."""
    for _ in range(2):
        grid = list(zip(*(transform(*line) for line in grid), strict=True))
    return [value for line in grid for value in line]


def _of_pixels(x: Float[Array, "b h w c"]) -> list[Float[Array, "n c"]]:
    """The 16 transformed pixels of each tile, in rows of all b h/2 w/2 tiles, which overlap by half."""
    b, h, w, c = x.shape
    p, q = _halves(h), _halves(w)
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
    p, q = _halves(h), _halves(w)
    grid = [products[i : i + 4] for i in range(0, 16, 4)]
    found = _twice(lambda m0, m1, m2, m3: (m0 + m1 + m2, m1 - m2 - m3), grid)
    tiles = jnp.stack([value.reshape(b, p, q, -1) for value in found], 3).reshape(b, p, q, 2, 2, -1)
    return tiles.swapaxes(2, 3).reshape(b, 2 * p, 2 * q, -1)[:, :h, :w]


def _of_results(g: Float[Array, "b h w d"]) -> list[Float[Array, "n d"]]:
    """The gradients of the 16 products, from that of the picture which they make."""
    b, h, w, d = g.shape
    p, q = _halves(h), _halves(w)
    pairs = jnp.pad(g, ((0, 0), (0, 2 * p - h), (0, 2 * q - w), (0, 0))).reshape(b, p, 2, q, 2, d)
    grid = [[pairs[:, :, i, :, j] for j in (0, 1)] for i in (0, 1)]
    return [value.reshape(-1, d) for value in _twice(lambda y0, y1: (y0, y0 + y1, y0 - y1, -y1), grid)]


def halved_max(x: Float[Array, "b h w c"], axis: int) -> Float[Array, "b h2 w2 c"]:
    """Maxima of each even place of an axis and its two neighbours; the first of equal ones has the gradient."""
    n, shape = _halves(x.shape[axis]), list(x.shape)
    lowest, none = jnp.array(-jnp.inf, x.dtype), (0, 0, 0)
    x = jax.lax.pad(x, lowest, [(0, 2 * n - x.shape[i], 0) if i == axis else none for i in range(4)])
    pairs = x.reshape(*shape[:axis], n, 2, *shape[axis + 1 :])
    even, after = (jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
    before = jax.lax.pad(after, lowest, [(1, -1, 0) if i == axis else none for i in range(4)])
    # jnp.maximum shares the gradient of equal ones; what is not a number stays, as in the pooling itself.
    first = lambda a, b: jnp.where((a >= b) | jnp.isnan(a), a, b)  # noqa: E731
    return first(first(before, even), after)


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Maxima of 3x3 windows in steps of 2, with one row and column of padding, as torch.nn.MaxPool2d(3, 2, 1)."""
    if on_cpu():
        # XLA scatters the gradient of a pooling window by window there. Columns go first: of equal values the first in
        # reading order has the gradient then, as in the pooling itself.
        return halved_max(halved_max(x, 2), 1)
    return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
