"""Convolutions with batch normalisation, at once or with less memory; pure functions with torchvision's numerics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

EPS = 1e-5


class Moments(NamedTuple):
    """Mean and biased variance of each channel, and of how many values; float32."""

    mean: Float[Array, c]
    var: Float[Array, c]
    n: Float[Array, ""]


class Layer(NamedTuple):
    """A convolution, and the scale and bias f[d] of the batch normalisation that follows it."""

    convolve: Callable[[Float[Array, "b h w c"]], Float[Array, "b h2 w2 d"]]
    scale: Float[Array, d]
    bias: Float[Array, d]


# What is made of a block's input, its chain's output, and its side's output or None.
Finish = Callable[[Array, Array, "Array | None"], Array]


def moments(x: Float[Array, "b h w c"]) -> Moments:
    """Those of a batch, whatever its dtype, in two passes."""
    wide = x.astype(jnp.float32)
    mean = wide.mean((0, 1, 2))
    return Moments(mean, jnp.square(wide - mean).mean((0, 1, 2)), jnp.float32(x.size // x.shape[-1]))


def pooled(of_parts: Moments) -> Moments:
    """Moments of a whole from those of its equally large parts, mean f[m c] (Chan, Golub and LeVeque, 1979)."""
    mean = of_parts.mean.mean(0)
    return Moments(mean, of_parts.var.mean(0) + jnp.square(of_parts.mean - mean).mean(0), of_parts.n.sum())


def normalised(x: Float[Array, "b h w c"], layer: Layer, of: Moments) -> Float[Array, "b h w c"]:
    """x with the moments `of` taken out, scaled and shifted as the layer says; in the dtype of x."""
    # Centred before it is scaled: folding the mean into the bias cancels digits in the gradient of the scale.
    y = (x.astype(jnp.float32) - of.mean) * (jax.lax.rsqrt(of.var + EPS) * layer.scale) + layer.bias
    return y.astype(x.dtype)


@jax.custom_vjp
def standardised(
    x: Float[Array, "b h w c"], scale: Float[Array, c], bias: Float[Array, c]
) -> tuple[Float[Array, "b h w c"], Moments]:
    """x `normalised` with its own `moments`, and these, through which no gradient flows.

    The gradient is the closed one (Ioffe and Szegedy, 2015, Section 3), which needs x alone: what JAX would keep for
    its own is three times as much.
    """
    return _standardised(x, scale, bias)[0]


def _standardised(x, scale, bias):
    of = moments(x)
    return (normalised(x, Layer(lambda x: x, scale, bias), of), of), (x, scale, of)


def _standardised_gradient(kept, gradients):
    x, scale, of = kept
    g, inverse = gradients[0].astype(jnp.float32), jax.lax.rsqrt(of.var + EPS)
    unit = (x.astype(jnp.float32) - of.mean) * inverse
    of_bias, of_scale = g.sum((0, 1, 2)), (g * unit).sum((0, 1, 2))
    of_x = scale * inverse * (g - (of_bias + unit * of_scale) / of.n)
    return of_x.astype(x.dtype), of_scale, of_bias


standardised.defvjp(_standardised, _standardised_gradient)


def running(kept: Moments, of_batch: Moments, momentum: float = 0.9) -> Moments:
    """The next running statistics, as torch.nn.BatchNorm2d keeps them: their variance is unbiased."""
    unbiased = of_batch.var * (of_batch.n / jnp.maximum(of_batch.n - 1, 1))
    mean = momentum * kept.mean + (1 - momentum) * of_batch.mean
    return Moments(mean, momentum * kept.var + (1 - momentum) * unbiased, kept.n + of_batch.n)


def instance_norm(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Each image's channels to zero mean and unit variance over positions, without parameters, in float32."""
    wide = x.astype(jnp.float32)
    mean = wide.mean((1, 2), keepdims=True)
    var = jnp.square(wide - mean).mean((1, 2), keepdims=True)
    return ((wide - mean) * jax.lax.rsqrt(var + EPS)).astype(x.dtype)


def through(
    x: Float[Array, "b h w c"],
    chain: Sequence[Layer],
    side: Layer | None,
    finish: Finish,
    *,
    known: Sequence[Moments] = (),
    recompute: int = 0,
) -> tuple[Float[Array, "b h2 w2 d"], list[Moments]]:
    """finish(x, chain(x), side(x)), and the moments of each layer's convolution, the side's last.

    The layers of the chain have a ReLU between them. known: moments to normalise with, by default the batch's own.
    recompute: 0 keeps everything for the gradient; 1 keeps x and computes the rest again; more works through the batch
    in so many parts as well, with the statistics of the whole. The result is the same but for float32 rounding. Raises
    ValueError for a batch that cannot be divided into so many parts.
    """
    if recompute > 1:
        return _in_parts(x, chain, side, finish, recompute)

    def at_once(x: Array) -> tuple[Array, list[Moments]]:
        found = []

        def one(x: Array, layer: Layer) -> Array:
            y = layer.convolve(x)
            if known:
                found.append(known[len(found)])
                return normalised(y, layer, found[-1])
            y, of_batch = standardised(y, layer.scale, layer.bias)
            found.append(of_batch)
            return y

        y = one(x, chain[0])
        for layer in chain[1:]:
            y = one(nn.relu(y), layer)
        return finish(x, y, one(x, side) if side else None), found

    return (jax.checkpoint(at_once) if recompute else at_once)(x)


def _in_parts(
    x: Array, chain: Sequence[Layer], side: Layer | None, finish: Finish, parts: int
) -> tuple[Array, list[Moments]]:
    """Nothing but x and the result is ever there of more than one part.

    For the moments of a layer all parts pass through the layers before it, so that a chain of n layers takes
    n (n + 1) / 2 + n convolutions instead of n. Gradients flow through the moments.
    """
    if len(x) % parts:
        raise ValueError(f"a batch of {len(x)} images cannot be divided into {parts} equal parts")
    # Part i has the rows i, i + parts, ...: where a batch is spread over devices, each part is spread alike.
    apart = jnp.moveaxis(x.reshape(len(x) // parts, parts, *x.shape[1:]), 1, 0)

    def map_parts(f: Callable[[Array], Any]) -> Any:
        return jax.lax.map(jax.checkpoint(f), apart)

    def before(x: Array, layers: Sequence[Layer], found: Sequence[Moments]) -> Array:
        for layer, of in zip(layers, found, strict=True):
            x = nn.relu(normalised(layer.convolve(x), layer, of))
        return x

    def moments_of(layer: Layer, layers: Sequence[Layer], found: Sequence[Moments]) -> Moments:
        return pooled(map_parts(lambda x: moments(layer.convolve(before(x, layers, found)))))

    found: list[Moments] = []
    for i, layer in enumerate(chain):
        found.append(moments_of(layer, chain[:i], tuple(found)))
    of_side = moments_of(side, (), ()) if side else None

    def last(x: Array) -> Array:
        y = normalised(chain[-1].convolve(before(x, chain[:-1], found[:-1])), chain[-1], found[-1])
        return finish(x, y, normalised(side.convolve(x), side, of_side) if side and of_side else None)

    y = map_parts(last)
    whole = jnp.moveaxis(y, 0, 1).reshape(len(x), *y.shape[2:])
    return whole, [*found, *([of_side] if of_side else [])]
