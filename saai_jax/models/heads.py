"""What follows a backbone: its map pooled whole or in parts, and a neck with a branch for each modality."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from saai_jax.models.initialisers import kaiming, uniform_fan_in
from saai_jax.models.normalisation import BatchNorm


def safl(
    x: Float[Array, "b h w c"],
    prototypes: Float[Array, "p c"],
    position: Float[Array, "n c"],
    *,
    aggregate_position: bool = False,
) -> tuple[Float[Array, "b p c"], Float[Array, "b p n"]]:
    """Semantic part features and the similarity of every position to every prototype (Eq. 1 and 2).

    n = h w, row-major. The similarity is before the sigmoid; its sigmoid is the attention of a part, in [0, 1].
    The paper aggregates the pixel features with their position embedding (aggregate_position=True), the released
    code without.
    """
    b, h, w, c = x.shape
    pixels = x.reshape(b, h * w, c)
    placed = pixels + position.astype(x.dtype)
    similarity = jnp.einsum("pc,bnc->bpn", prototypes.astype(x.dtype), placed, preferred_element_type=jnp.float32)
    attention = nn.sigmoid(similarity).astype(x.dtype)
    parts = jnp.einsum("bpn,bnc->bpc", attention, placed if aggregate_position else pixels) / (h * w)
    return parts, similarity


def stripes(x: Float[Array, "b h w c"], parts: int) -> Float[Array, "b p c"]:
    """Average of each of `parts` horizontal stripes of equal height (the baseline of Table 3).

    Where h is not a multiple of parts the stripes overlap by a row, as in adaptive average pooling.
    """
    h = x.shape[1]
    edges = [(i * h // parts, -(-(i + 1) * h // parts)) for i in range(parts)]
    return jnp.stack([x[:, top:bottom].mean((1, 2)) for top, bottom in edges], 1)


def gem(x: Float[Array, "b h w c"], power: float = 3.0, eps: float = 1e-12) -> Float[Array, "b c"]:
    """Generalised mean over positions of values that are not negative, (mean(x^p) + eps)^(1/p); in float32."""
    mean = jax.lax.pow(x.astype(jnp.float32), power).mean((1, 2)) + eps
    return jax.lax.pow(mean, 1 / power)


def patterns(
    x: Float[Array, "b h w c"], logits: Float[Array, "b h w p"]
) -> tuple[Float[Array, "b d"], Float[Array, "b p n"]]:
    """MPANet's pooled patterns, the global mean behind them, d = (p + 1) c; and their masks in [0, 1], n = h w."""
    b, h, w, c = x.shape
    mask = nn.sigmoid(logits.astype(jnp.float32)).reshape(b, h * w, -1).swapaxes(1, 2)
    pooled = jnp.einsum("bpn,bnc->bpc", mask.astype(x.dtype), x.reshape(b, h * w, c)) / (h * w)
    return jnp.concatenate([pooled.reshape(b, -1), x.mean((1, 2))], 1).astype(jnp.float32), mask


def modality_batch_norm(
    x: Float[Array, "b d"],
    modality: Int[Array, b],
    scale: Float[Array, "m d"],
    mean: Float[Array, "m d"],
    var: Float[Array, "m d"],
    *,
    train: bool,
    momentum: float = 0.9,
    eps: float = 1e-5,
) -> tuple[Float[Array, "b d"], tuple[Float[Array, "m d"], Float[Array, "m d"]]]:
    """Batch normalisation with statistics and scale of each row's modality, without bias, and the next statistics.

    The running variance is unbiased, as in PyTorch. A modality with fewer than two rows has no variance: it keeps
    its statistics. Any mix of modalities is one program: the sums are masked, nothing is indexed by a condition.
    """
    if not train:
        return (x - mean[modality]) * (jax.lax.rsqrt(var + eps) * scale)[modality], (mean, var)
    member = jax.nn.one_hot(modality, len(scale), dtype=x.dtype)
    n = member.sum(0)[:, None]
    dot = lambda a, b: jnp.matmul(a.T, b, precision="highest")  # noqa: E731  sums, not a product to round
    batch_mean = dot(member, x) / jnp.maximum(n, 1)
    centred = x - batch_mean[modality]
    batch_var = dot(member, jnp.square(centred)) / jnp.maximum(n, 1)
    keep = jnp.where(n > 1, momentum, 1.0)
    running = (
        keep * mean + (1 - keep) * batch_mean,
        keep * var + (1 - keep) * batch_var * n / jnp.maximum(n - 1, 1),
    )
    return centred * (jax.lax.rsqrt(batch_var + eps) * scale)[modality], running


class Safl(nn.Module):
    """Prototypes and position embedding of `safl`; the number of positions is that of the feature map."""

    parts: int
    aggregate_position: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> tuple[Float[Array, "b p c"], Float[Array, "b p n"]]:
        _, h, w, c = x.shape
        init = nn.initializers.normal((2 / c) ** 0.5)  # kaiming-normal with c inputs, as released
        prototypes = self.param("prototypes", init, (self.parts, c))
        position = self.param("position", init, (h * w, c))
        return safl(x, prototypes, position, aggregate_position=self.aggregate_position)


class Stripes(nn.Module):
    """PCB's head: each stripe of the map has a reduction, a batch normalisation and a classifier of its own.

    Gives the means of the stripes, their reductions, d = width p, one after the other, and their classifiers' logits
    (Sun et al., ECCV 2018, Section 3.1).
    """

    identities: int
    parts: int = 6
    width: int = 256

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> tuple[Float[Array, "b p c"], Float[Array, "b d"], Float[Array, "b p k"]]:
        pooled, reduced, logits = stripes(x.astype(jnp.float32), self.parts), [], []
        for i in range(self.parts):
            # A 1x1 convolution of a map of one position.
            y = nn.Dense(self.width, use_bias=False, kernel_init=kaiming, name=f"reduce{i}")(pooled[:, i])
            reduced.append(nn.relu(BatchNorm(name=f"bn{i}")(y[:, None, None], train)[:, 0, 0]))
            classifier = nn.Dense(self.identities, kernel_init=nn.initializers.normal(0.001), name=f"classifier{i}")
            logits.append(classifier(reduced[i]))
        return pooled, jnp.concatenate(reduced, 1), jnp.stack(logits, 1)


class ModalityBatchNorm(nn.Module):
    """Scale and running statistics of `modality_batch_norm`: the dual-branch BNNeck (SAAI, Section 3.2)."""

    modalities: int = 2
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Float[Array, "b d"], modality: Int[Array, b], *, train: bool) -> Float[Array, "b d"]:
        shape = (self.modalities, x.shape[-1])
        scale = self.param("scale", self.scale_init, shape)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        var = self.variable("batch_stats", "var", jnp.ones, shape)
        y, running = modality_batch_norm(x, modality, scale, mean.value, var.value, train=train)
        if train and not self.is_initializing():
            mean.value, var.value = running
        return y


class Projection(nn.Module):
    """What a contrastive loss compares: d -> d, BatchNorm, ReLU -> 128, of unit length."""

    @nn.compact
    def __call__(self, x: Float[Array, "b d"], train: bool) -> Float[Array, "b 128"]:
        linear = functools.partial(nn.Dense, kernel_init=uniform_fan_in)
        y = linear(x.shape[-1], name="hidden")(x)
        y = linear(128, name="out")(nn.relu(BatchNorm(name="bn")(y[:, None, None], train)[:, 0, 0]))
        return y * jax.lax.rsqrt(jnp.maximum(jnp.square(y).sum(1, keepdims=True), 1e-24))


def classified(embedding: Float[Array, "b d"], identities: int) -> list[Float[Array, "b k"]]:
    """Logits of the shared, the visible and the infrared classifier, layers of the module that calls this."""
    names = ("shared_classifier", "visible_classifier", "infrared_classifier")
    return [nn.Dense(identities, use_bias=False, kernel_init=uniform_fan_in, name=name)(embedding) for name in names]
