"""ResNet with torchvision's numerics, in NHWC, and the modality attention blocks of SAAI's SYSU-MM01 model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from saai_jax.models import layers, spatial
from saai_jax.models.layers import Moments

kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Conv(nn.Module):
    """The `convolution` with a kernel drawn as torchvision does, for so many channels; x and the kernel in dtype."""

    features: int
    size: int
    stride: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, channels: int) -> Callable[[Float[Array, "b h w c"]], Float[Array, "b h2 w2 d"]]:
        kernel = self.param("kernel", kaiming_fan_out, (self.size, self.size, channels, self.features))
        return lambda x: spatial.convolution(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)


class BatchNorm(nn.Module):
    """Scale, bias and running statistics f[features]; `keep` moves the statistics."""

    features: int

    def setup(self):
        c = (self.features,)
        self.scale, self.bias = (
            self.param("scale", nn.initializers.ones, c),
            self.param("bias", nn.initializers.zeros, c),
        )
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, c)
        self.var = self.variable("batch_stats", "var", jnp.ones, c)

    def __call__(self) -> tuple[Float[Array, c], Float[Array, c]]:
        return self.scale, self.bias

    def running(self) -> Moments:
        return Moments(self.mean.value, self.var.value, jnp.zeros(()))

    def keep(self, of_batch: Moments) -> None:
        if not self.is_initializing():
            self.mean.value, self.var.value, _ = layers.running(self.running(), of_batch)


Normed = tuple[layers.Layer, BatchNorm]


def normed(conv: Conv, norm: str, channels: int) -> Normed:
    """A convolution of so many channels with a BatchNorm of that name, within the module that calls."""
    module = BatchNorm(conv.features, name=norm)
    return layers.Layer(conv(channels), *module()), module


def shortcut(conv: Callable[..., Conv], channels: int, features: int, stride: int) -> Normed | None:
    """What brings a block's input to the shape of its output; None where it has it already."""
    if stride == 1 and channels == features:
        return None
    return normed(conv(features, 1, stride, name="downsample_conv"), "downsample_bn", channels)


def run(
    x: Float[Array, "b h w c"],
    chain: list[Normed],
    side: Normed | None,
    finish: layers.Finish,
    *,
    train: bool,
    recompute: int,
) -> Float[Array, "b h2 w2 d"]:
    """`layers.through`, which moves the running statistics when it trains and goes by them when it does not."""
    norms = [norm for _, norm in [*chain, *([side] if side else [])]]
    how: dict[str, Any] = {"recompute": recompute} if train else {"known": [norm.running() for norm in norms]}
    y, found = layers.through(x, [layer for layer, _ in chain], side[0] if side else None, finish, **how)
    for norm, of_batch in zip(norms, found, strict=True):
        if train:
            norm.keep(of_batch)
    return y


def added(x: Array, y: Array, side: Array | None) -> Array:
    """What a residual block ends with."""
    return nn.relu((x if side is None else side) + y)


class Bottleneck(nn.Module):
    """1x1, 3x3 (carrying the stride), 1x1 convolutions of a ResNet-50 block; four times `features` channels out."""

    features: int
    stride: int
    dtype: jnp.dtype
    recompute: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 c2"]:
        conv, c, d, out = functools.partial(Conv, dtype=self.dtype), x.shape[-1], self.features, 4 * self.features
        chain = [
            normed(conv(d, 1, name="conv1"), "bn1", c),
            normed(conv(d, 3, self.stride, name="conv2"), "bn2", d),
            normed(conv(out, 1, name="conv3"), "bn3", d),
        ]
        return run(x, chain, shortcut(conv, c, out, self.stride), added, train=train, recompute=self.recompute)


class Basic(nn.Module):
    """Two 3x3 convolutions of a ResNet-18 block, the first carrying the stride."""

    features: int
    stride: int
    dtype: jnp.dtype
    recompute: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 c2"]:
        conv, c, d = functools.partial(Conv, dtype=self.dtype), x.shape[-1], self.features
        chain = [
            normed(conv(d, 3, self.stride, name="conv1"), "bn1", c),
            normed(conv(d, 3, name="conv2"), "bn2", d),
        ]
        return run(x, chain, shortcut(conv, c, d, self.stride), added, train=train, recompute=self.recompute)


class ModalityAttention(nn.Module):
    """MAM: channels that carry the modality are replaced by their instance-normalised form (released code).

    m = sigmoid(W2 relu(W1 GAP(x))), y = m x + (1 - m) IN(x).
    """

    dtype: jnp.dtype
    recompute: int
    reduction: int = 16

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        c = x.shape[-1]
        squeeze = Conv(c // self.reduction, 1, dtype=self.dtype, name="squeeze")(c)
        excite = Conv(c, 1, dtype=self.dtype, name="excite")(c // self.reduction)

        def attend(x: Array) -> Array:
            m = nn.sigmoid(excite(nn.relu(squeeze(x.mean((1, 2), keepdims=True)))))
            return m * x + (1 - m) * layers.instance_norm(x)

        return (jax.checkpoint(attend) if self.recompute else attend)(x)


class ResNet(nn.Module):
    """ResNet feature map, last stride 1: stages (3, 4, 6, 3), width 64, bottleneck make the ResNet-50 of SAAI.

    mam: the stages (3 and 4 in the released SYSU-MM01 model) that are followed by a ModalityAttention.
    stem_pool: the 3x3 max pooling after the first convolution, which small pictures can do without.
    recompute: what training keeps for the gradient, see `layers.through`.
    """

    stages: Sequence[int] = (3, 4, 6, 3)
    width: int = 64
    bottleneck: bool = True
    mam: Sequence[int] = ()
    stem_pool: bool = True
    dtype: jnp.dtype = jnp.float32
    recompute: int = 0

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], *, train: bool) -> Float[Array, "b h2 w2 c"]:
        def stem(x: Array, y: Array, side: Array | None) -> Array:
            return spatial.max_pool(nn.relu(y)) if self.stem_pool else nn.relu(y)

        first = normed(Conv(self.width, 7, 2, self.dtype, name="conv1"), "bn1", 3)
        x = run(image, [first], None, stem, train=train, recompute=self.recompute)
        block = Bottleneck if self.bottleneck else Basic
        for i, depth in enumerate(self.stages):
            for j in range(depth):
                how = self.width * 2**i, 2 if j == 0 and 0 < i < 3 else 1, self.dtype, self.recompute
                x = block(*how, name=f"layer{i + 1}_{j}")(x, train=train)
            if i + 1 in self.mam:
                x = ModalityAttention(self.dtype, self.recompute, name=f"mam{i + 1}")(x)
        return x
