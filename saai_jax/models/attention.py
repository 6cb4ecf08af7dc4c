"""Attention blocks that stand between the stages of a backbone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from saai_jax.models.initialisers import uniform_fan_in
from saai_jax.models.normalisation import BatchNorm, instance_norm

Keys = Literal["pooled", "self"]
Fusion = Literal["multiply-sigmoid", "multiply", "add"]
Norm = Literal["compressed", "input", "none"]


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


def region_interaction(
    query: Float[Array, "b n d"], key: Float[Array, "b m d"], value: Float[Array, "b m d"], heads: int
) -> tuple[Float[Array, "b n d"], Float[Array, "b heads n m"]]:
    """GRI of WRIM-Net: multi-head attention, softmax(q k / sqrt(d / heads)) v of each head; and its weights, float32.

    heads: divides d.
    """
    query, key, value = (x.reshape(*x.shape[:2], heads, -1) for x in (query, key, value))
    score = jnp.einsum("bnhc,bmhc->bhnm", query, key, preferred_element_type=jnp.float32)
    weight = nn.softmax(score * query.shape[-1] ** -0.5)
    out = jnp.einsum("bhnm,bmhc->bnhc", weight.astype(value.dtype), value)
    return out.reshape(*out.shape[:2], -1), weight


class Miim(nn.Module):
    """WRIM-Net's MIIM: compressed, made to interact, restored and fused with its input; no code of it is released.

    Compression: a convolution to c / reduction channels with a stride as large as its kernel, which divides the map.
    Interaction: `region_interaction` of layer-normalised positions with keys and values of theirs ("self", a third
    party's listing) or of their averages over windows of region x region ("pooled", as published). Restoration: linear,
    for fusion "multiply-sigmoid" a sigmoid, nearest upsampling. Unconfirmed: region, and norm, where the normalisation
    without parameters of the listing stands.

    Gives the map, and how much each compressed position is looked at, 1 on average (of "pooled": its window is).
    conv: as `resnet.conv`. rows: those whose statistics count, as for BatchNorm.
    """

    conv: Callable[..., nn.Module]
    reduction: int
    kernel: int = 1
    heads: int = 8
    keys: Keys = "pooled"
    region: int = 2
    fusion: Fusion = "multiply-sigmoid"
    norm: Norm = "compressed"

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool, rows: Bool[Array, b] | None = None
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b h2 w2"]]:
        def linear(y: Array, out: int, name: str, size: int = 1, bias: bool = True) -> Array:
            how = {"use_bias": bias, "padding": 0, "kernel_init": uniform_fan_in}
            return self.conv(out, size, size, **how, name=name)(y)

        b, c, k = x.shape[0], x.shape[-1], self.kernel
        d = c // self.reduction
        normalised = BatchNorm(affine=False, name="bn")
        y = linear(normalised(x, train, rows) if self.norm == "input" else x, d, "compress", k)
        y = normalised(y, train, rows) if self.norm == "compressed" else y
        grid, side = y.shape[1:3], self.region if self.keys == "pooled" else 1
        pooled = _window_sums(y, side) / _window_sums(jnp.ones((1, *grid, 1), y.dtype), side) if side > 1 else y
        norm = nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name="norm")
        query = linear(norm(y), d, "query", bias=False)
        key, value = jnp.split(linear(norm(pooled), 2 * d, "key_value", bias=False).reshape(b, -1, 2 * d), 2, -1)
        found, weight = region_interaction(query.reshape(b, -1, d), key, value, self.heads)
        z = linear(linear(found.reshape(y.shape), d, "project"), c, "restore")
        z = nn.sigmoid(z) if self.fusion == "multiply-sigmoid" else z
        z = _upsampled(z, k)
        looked = (weight.mean((1, 2)) * weight.shape[-1]).reshape(b, *pooled.shape[1:3])
        # The ReLU of the listing; without the sigmoid a map would have negative values.
        return nn.relu(x + z if self.fusion == "add" else x * z), _upsampled(looked, side)[:, : grid[0], : grid[1]]


def _window_sums(x: Float[Array, "b h w c"], side: int) -> Float[Array, "b h2 w2 c"]:
    """The sum of every window of side x side; the last ones may be smaller. Unlike nn.avg_pool it can be exported."""
    b, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, -h % side), (0, -w % side), (0, 0)))
    return x.reshape(b, -(-h // side), side, -(-w // side), side, c).sum((2, 4))


def _upsampled(x: Float[Array, "b h w *c"], times: int) -> Float[Array, "b h2 w2 *c"]:
    """Every position repeated in both directions, as torch's nearest upsampling."""
    return jnp.repeat(jnp.repeat(x, times, 1), times, 2)
