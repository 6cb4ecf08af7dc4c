"""Normalisation of feature maps with torch's numerics."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

EPS = 1e-5


class BatchNorm(nn.Module):
    """torch.nn.BatchNorm2d, momentum 0.1: nn.BatchNorm keeps the biased running variance, torch the unbiased one.

    rows: those whose statistics count in training, all by default. With none, the running statistics stay.
    affine: with a scale and a bias.
    """

    scale_init: nn.initializers.Initializer = nn.initializers.ones
    affine: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool, rows: Bool[Array, b] | None = None
    ) -> Float[Array, "b h w c"]:
        wide, c, n = x.astype(jnp.float32), x.shape[-1:], x.size // x.shape[-1]
        scale, bias = 1.0, 0.0
        if self.affine:
            scale, bias = self.param("scale", self.scale_init, c), self.param("bias", nn.initializers.zeros, c)
        mean = self.variable("batch_stats", "mean", jnp.zeros, c)
        var = self.variable("batch_stats", "var", jnp.ones, c)
        if not train:
            m, v = mean.value, var.value
        elif rows is None:
            m, v = wide.mean((0, 1, 2)), wide.var((0, 1, 2))
        else:
            of_rows, n = rows[:, None, None, None], rows.sum() * (n // len(rows))
            m = jnp.where(of_rows, wide, 0).sum((0, 1, 2)) / jnp.maximum(n, 1)
            v = jnp.where(of_rows, jnp.square(wide - m), 0).sum((0, 1, 2)) / jnp.maximum(n, 1)
        if train and not self.is_initializing():
            rate = 0.1 if rows is None else jnp.where(n > 0, 0.1, 0.0)
            mean.value = (1 - rate) * mean.value + rate * m
            var.value = (1 - rate) * var.value + rate * v * n / jnp.maximum(n - 1, 1)
        # Centred before it is scaled: folding the mean into the bias cancels digits in the gradient of the scale.
        return ((wide - m) * (jax.lax.rsqrt(v + EPS) * scale) + bias).astype(x.dtype)


def instance_norm(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Each image's channels to zero mean and unit variance over positions, without parameters, in float32."""
    wide = x.astype(jnp.float32)
    mean, var = wide.mean((1, 2), keepdims=True), wide.var((1, 2), keepdims=True)
    return ((wide - mean) * jax.lax.rsqrt(var + EPS)).astype(x.dtype)
