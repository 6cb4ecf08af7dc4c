"""Attention blocks that stand between the stages of a backbone."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

EPS = 1e-5


def instance_norm(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Each image's channels to zero mean and unit variance over positions, without parameters, in float32."""
    wide = x.astype(jnp.float32)
    mean, var = wide.mean((1, 2), keepdims=True), wide.var((1, 2), keepdims=True)
    return ((wide - mean) * jax.lax.rsqrt(var + EPS)).astype(x.dtype)


class ModalityAttention(nn.Module):
    """MAM: channels that carry the modality are replaced by their instance-normalised form (released code).

    m = sigmoid(W2 relu(W1 GAP(x))), y = m x + (1 - m) IN(x). conv: as `resnet.conv`.
    """

    conv: Callable[..., nn.Module]
    reduction: int = 16

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        c, pooled = x.shape[-1], x.mean((1, 2), keepdims=True)
        squeezed = nn.relu(self.conv(c // self.reduction, 1, name="squeeze")(pooled))
        m = nn.sigmoid(self.conv(c, 1, name="excite")(squeezed))
        return m * x + (1 - m) * instance_norm(x)
