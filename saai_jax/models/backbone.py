"""ResNet with torchvision's numerics, in NHWC, and the modality attention blocks of SAAI's SYSU-MM01 model."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def batch_norm(
    x: Float[Array, "b h w c"],
    scale: Float[Array, c],
    bias: Float[Array, c],
    mean: Float[Array, c],
    var: Float[Array, c],
    *,
    train: bool,
    momentum: float = 0.9,
    eps: float = 1e-5,
) -> tuple[Float[Array, "b h w c"], tuple[Float[Array, c], Float[Array, c]]]:
    """Batch normalisation and the next running (mean, var), as torch.nn.BatchNorm2d: the running variance is unbiased.

    Statistics are float32 whatever the dtype of x. Not nn.BatchNorm, whose running variance is the biased one.
    """
    running = mean, var
    if train:
        n = x.size // x.shape[-1]
        wide = x.astype(jnp.float32)
        batch_mean = wide.mean((0, 1, 2))
        batch_var = jnp.square(wide - batch_mean).mean((0, 1, 2))
        unbiased = batch_var * (n / max(n - 1, 1))
        running = momentum * mean + (1 - momentum) * batch_mean, momentum * var + (1 - momentum) * unbiased
        mean, var = batch_mean, batch_var
    # Centred before it is scaled: folding the mean into the bias cancels digits in the gradient of the scale.
    y = (x.astype(jnp.float32) - mean) * (jax.lax.rsqrt(var + eps) * scale) + bias
    return y.astype(x.dtype), running


def instance_norm(x: Float[Array, "b h w c"], *, eps: float = 1e-5) -> Float[Array, "b h w c"]:
    """Each image's channels to zero mean and unit variance over positions, without parameters, in float32."""
    wide = x.astype(jnp.float32)
    mean = wide.mean((1, 2), keepdims=True)
    var = jnp.square(wide - mean).mean((1, 2), keepdims=True)
    return ((wide - mean) * jax.lax.rsqrt(var + eps)).astype(x.dtype)


class BatchNorm(nn.Module):
    """Parameters and running statistics of `batch_norm`."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        c = (x.shape[-1],)
        scale, bias = self.param("scale", nn.initializers.ones, c), self.param("bias", nn.initializers.zeros, c)
        mean = self.variable("batch_stats", "mean", jnp.zeros, c)
        var = self.variable("batch_stats", "var", jnp.ones, c)
        y, running = batch_norm(x, scale, bias, mean.value, var.value, train=train)
        if train and not self.is_initializing():
            mean.value, var.value = running
        return y


class Bottleneck(nn.Module):
    """1x1, 3x3 (carrying the stride), 1x1 convolutions of a ResNet-50 block; four times `features` channels out."""

    features: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 c2"]:
        conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype, kernel_init=kaiming_fan_out)
        out = 4 * self.features
        y = nn.relu(BatchNorm(name="bn1")(conv(self.features, (1, 1), name="conv1")(x), train=train))
        y = conv(self.features, (3, 3), self.stride, padding=1, name="conv2")(y)
        y = nn.relu(BatchNorm(name="bn2")(y, train=train))
        y = BatchNorm(name="bn3")(conv(out, (1, 1), name="conv3")(y), train=train)
        if self.stride != 1 or x.shape[-1] != out:
            x = conv(out, (1, 1), self.stride, padding=0, name="downsample_conv")(x)
            x = BatchNorm(name="downsample_bn")(x, train=train)
        return nn.relu(x + y)


class Basic(nn.Module):
    """Two 3x3 convolutions of a ResNet-18 block, the first carrying the stride."""

    features: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 c2"]:
        conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype, kernel_init=kaiming_fan_out)
        y = conv(self.features, (3, 3), self.stride, padding=1, name="conv1")(x)
        y = nn.relu(BatchNorm(name="bn1")(y, train=train))
        y = BatchNorm(name="bn2")(conv(self.features, (3, 3), padding=1, name="conv2")(y), train=train)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = conv(self.features, (1, 1), self.stride, padding=0, name="downsample_conv")(x)
            x = BatchNorm(name="downsample_bn")(x, train=train)
        return nn.relu(x + y)


class ModalityAttention(nn.Module):
    """MAM: channels that carry the modality are replaced by their instance-normalised form (released code).

    m = sigmoid(W2 relu(W1 GAP(x))), y = m x + (1 - m) IN(x).
    """

    dtype: jnp.dtype
    reduction: int = 16

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        c = x.shape[-1]
        conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype, kernel_init=kaiming_fan_out)
        m = nn.relu(conv(c // self.reduction, (1, 1), name="squeeze")(x.mean((1, 2), keepdims=True)))
        m = nn.sigmoid(conv(c, (1, 1), name="excite")(m))
        return m * x + (1 - m) * instance_norm(x)


class ResNet(nn.Module):
    """ResNet feature map, last stride 1: stages (3, 4, 6, 3), width 64, bottleneck make the ResNet-50 of SAAI.

    mam: the stages (3 and 4 in the released SYSU-MM01 model) that are followed by a ModalityAttention.
    stem_pool: the 3x3 max pooling after the first convolution, which small pictures can do without.
    """

    stages: Sequence[int] = (3, 4, 6, 3)
    width: int = 64
    bottleneck: bool = True
    mam: Sequence[int] = ()
    stem_pool: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], *, train: bool) -> Float[Array, "b h2 w2 c"]:
        # Padding is explicit everywhere: "SAME" pads strided convolutions differently from torchvision.
        x = nn.Conv(
            self.width,
            (7, 7),
            2,
            padding=3,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=kaiming_fan_out,
            name="conv1",
        )(image.astype(self.dtype))
        x = nn.relu(BatchNorm(name="bn1")(x, train=train))
        if self.stem_pool:
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
        block = Bottleneck if self.bottleneck else Basic
        for i, depth in enumerate(self.stages):
            for j in range(depth):
                stride = 2 if j == 0 and 0 < i < 3 else 1
                x = block(self.width * 2**i, stride, self.dtype, name=f"layer{i + 1}_{j}")(x, train=train)
            if i + 1 in self.mam:
                x = ModalityAttention(self.dtype, name=f"mam{i + 1}")(x)
        return x
