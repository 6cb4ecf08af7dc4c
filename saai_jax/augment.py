"""Augmentation of uint8 images inside the jitted step; every draw is a function of a key, none is state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import random
from jaxtyping import Array, Float, Key, UInt8

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, as torchvision's weights expect
STD = (0.229, 0.224, 0.225)
LUMINANCE = (0.299, 0.587, 0.114)
Grayscale = Literal["channel", "luminance"]


def normalise(image: UInt8[Array, "*b h w 3"] | Float[Array, "*b h w 3"]) -> Float[Array, "*b h w 3"]:
    """uint8 pixels, or intensities f32 in [0, 1], to zero mean and unit variance over ImageNet; what networks take."""
    intensity = image.astype(jnp.float32) / 255 if image.dtype == jnp.uint8 else image
    return (intensity - jnp.asarray(MEAN)) / jnp.asarray(STD)


def flip(key: Key[Array, ""], image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Left and right exchanged with probability one half."""
    return jnp.where(random.bernoulli(key), image[:, ::-1], image)


def pad_crop(
    key: Key[Array, ""], image: Float[Array, "h w c"], pad: int, fill: float | None = None
) -> Float[Array, "h w c"]:
    """Widened on every side by `pad` pixels, then cut back to its size at a random place.

    fill: what the new pixels have; by default they mirror the image, its edge included.
    """
    how: dict[str, Any] = {"mode": "symmetric"} if fill is None else {"constant_values": fill}
    padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)), **how)
    top, left = random.randint(key, (2,), 0, 2 * pad + 1)
    return jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)


def resized_crop(
    key: Key[Array, ""], image: Float[Array, "h w c"], *, area: tuple[float, float], aspect: tuple[float, float]
) -> Float[Array, "h w c"]:
    """A part of the image at a random place, made as large as the image, linearly between pixels.

    area: the part's share of the image, uniform, at most 1. aspect: its height over width, the image's being 1, uniform
    in its logarithm; what would be longer than the image is cut.
    """
    k_area, k_aspect, k_place = random.split(key, 3)
    share = random.uniform(k_area, minval=area[0], maxval=area[1])
    ratio = jnp.exp(random.uniform(k_aspect, minval=jnp.log(aspect[0]), maxval=jnp.log(aspect[1])))
    side = jnp.minimum(jnp.sqrt(share * jnp.stack([ratio, 1 / ratio])), 1)  # of the image's height and width
    corner = random.uniform(k_place, (2,)) * (1 - side) * jnp.array(image.shape[:2])
    return jax.image.scale_and_translate(
        image, image.shape, (0, 1), 1 / side, -corner / side, method="linear", antialias=False
    )


def grayscale(
    key: Key[Array, ""], image: Float[Array, "h w 3"], *, kind: Grayscale = "channel"
) -> Float[Array, "h w 3"]:
    """With probability 3/11 the image without colour.

    "channel" (released): one channel, drawn evenly, stands for all three. "luminance" (paper, "random grayscale"):
    their weighted sum; the paper gives no probability, so the released one serves. Raises ValueError for others.
    """
    if kind not in ("channel", "luminance"):
        raise ValueError(f"grayscale is {kind!r}, expected 'channel' or 'luminance'")
    draw = random.randint(key, (), 0, 11)
    if kind == "channel":
        single = image[..., jnp.minimum(draw, 2)]
    else:
        single = image @ jnp.asarray(LUMINANCE)
    return jnp.where(draw < 3, single[..., None], image)


def erase(
    key: Key[Array, ""],
    image: Float[Array, "h w c"],
    *,
    probability: float = 0.5,
    area: tuple[float, float] = (0.02, 0.33),
    aspect: tuple[float, float] = (0.3, 3.3),
    tries: int = 10,
    law: Literal["log-uniform", "uniform"] = "log-uniform",
    fill: Sequence[float] | None = None,
) -> Float[Array, "h w c"]:
    """With the given probability a random rectangle is filled with standard normal noise, or with a colour `fill`.

    area: share of the image, uniform, known when compiling; aspect: height over width, whose law is given. The first
    of `tries` rectangles that fits is used; if none fits the image stays.
    """
    h, w, c = image.shape
    k_apply, k_area, k_aspect, k_place, k_noise = random.split(key, 5)
    size = h * w * random.uniform(k_area, (tries,), minval=area[0], maxval=area[1])
    if law == "uniform":
        ratio = random.uniform(k_aspect, (tries,), minval=aspect[0], maxval=aspect[1])
    else:
        ratio = jnp.exp(random.uniform(k_aspect, (tries,), minval=jnp.log(aspect[0]), maxval=jnp.log(aspect[1])))
    heights, widths = jnp.round(jnp.sqrt(size * ratio)), jnp.round(jnp.sqrt(size / ratio))
    fits = (heights < h) & (widths < w)
    chosen = jnp.argmax(fits)
    eh, ew = heights[chosen], widths[chosen]
    y, x = random.uniform(k_place, (2,))
    top, left = jnp.floor(y * (h - eh + 1)), jnp.floor(x * (w - ew + 1))
    rows, columns = jnp.arange(h)[:, None], jnp.arange(w)[None]
    inside = (rows >= top) & (rows < top + eh) & (columns >= left) & (columns < left + ew)
    inside &= fits.any() & random.bernoulli(k_apply, probability)
    if fill is not None:
        return jnp.where(inside[..., None], jnp.asarray(fill, image.dtype), image)
    # As many draws as the largest rectangle has pixels (rounding adds half a row and half a column at most), not as the
    # image has: they are most of what augmentation costs. The older way to draw takes a sixth of the time on a CPU;
    # what the newer one is for, many devices that share a draw, is not needed where each image has its own key.
    with jax.threefry_partitionable(False):
        noise = random.normal(k_noise, (math.ceil(area[1] * h * w + (h + w) / 2 + 1), c), image.dtype)
    own = jnp.where(inside, (rows - top) * ew + columns - left, 0).astype(jnp.int32)
    return jnp.where(inside[..., None], noise[own], image)


def augment(
    key: Key[Array, ""],
    image: UInt8[Array, "b h w 3"],
    *,
    pad: int = 10,
    erasing: float = 0.5,
    kind: Grayscale = "channel",
) -> Float[Array, "b h w 3"]:
    """Flip, symmetric pad and crop, grayscale, normalise, random erasing: the released order, a key for each image."""

    def one(key, x):
        k_flip, k_crop, k_gray, k_erase = random.split(key, 4)
        x = pad_crop(k_crop, flip(k_flip, x), pad)
        return erase(k_erase, normalise(grayscale(k_gray, x, kind=kind)), probability=erasing)

    return each(one, key, image)


def each(
    one: Callable[[Key[Array, ""], Float[Array, "h w 3"]], Array], key: Key[Array, ""], image: UInt8[Array, "b h w 3"]
) -> Float[Array, "b h w 3"]:
    """one(key, intensities in [0, 1]) of every image, each with a key of its own."""
    return jax.vmap(lambda key, x: one(key, x.astype(jnp.float32) / 255))(random.split(key, len(image)), image)
