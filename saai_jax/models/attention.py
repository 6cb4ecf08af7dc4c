"""Attention blocks that stand between the stages of a backbone."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from saai_jax.models.normalisation import BatchNorm, instance_norm


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


class NonLocal(nn.Module):
    """AGW's non-local block of width 1: z = x + BN(W y), y_i = theta_i mean_j(phi_j g_j); it starts as the identity.

    With one channel the products of all pairs of positions are a product of sums. conv: as `resnet.conv`.
    """

    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        def linear(out: int, fan_in: int, name: str) -> nn.Module:
            """A 1x1 convolution with torch's default first weights, U(+-1/sqrt(fan in)), and a bias."""

            def draw(key, shape, dtype=jnp.float32):
                return jax.random.uniform(key, shape, dtype, -1, 1) / fan_in**0.5

            return self.conv(out, 1, use_bias=True, kernel_init=draw, bias_init=draw, name=name)

        c = x.shape[-1]
        theta, phi, g = (linear(1, c, name)(x) for name in ("theta", "phi", "g"))
        y = theta * (phi * g).mean((1, 2), keepdims=True)
        return x + BatchNorm(nn.initializers.zeros, name="bn")(linear(c, 1, "w")(y), train)
