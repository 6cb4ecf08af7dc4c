"""SAAI (ICCV 2023): ResNet, semantic-aligned parts, dual-branch neck, shared and modality classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from saai_jax.models import heads
from saai_jax.models.backbone import ResNet

Pooling = Literal["prototypes", "stripes", "global"]


class Output(NamedTuple):
    """What a model gives for a batch, float32.

    feature f[b d]: before the neck. embedding f[b d]: after it, the retrieval feature.
    similarity f[b p n]: of part i to position n before the sigmoid; p = 0 without prototypes.
    shared, visible, infrared f[b k]: logits of the three classifiers.
    """

    feature: Float[Array, "b d"]
    embedding: Float[Array, "b d"]
    similarity: Float[Array, "b p n"]
    shared: Float[Array, "b k"]
    visible: Float[Array, "b k"]
    infrared: Float[Array, "b k"]

    @property
    def attention(self) -> Float[Array, "b p n"]:
        """How much each position belongs to each part, in [0, 1] (Eq. 1)."""
        return nn.sigmoid(self.similarity)


class SAAI(nn.Module):
    """The network; its numbers are the released SYSU-MM01 model's but for `mam`, which is (3, 4) there.

    pooling: "prototypes" is SAFL; "stripes" and "global" are the baselines of Table 3 and of the ablations.
    """

    identities: int
    parts: int = 7
    pooling: Pooling = "prototypes"
    aggregate_position: bool = False
    stages: Sequence[int] = (3, 4, 6, 3)
    width: int = 64
    bottleneck: bool = True
    mam: Sequence[int] = ()
    stem_pool: bool = True
    dtype: jnp.dtype = jnp.float32
    recompute: int = 0

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], modality: Int[Array, b], *, train: bool = False) -> Output:
        shape = self.stages, self.width, self.bottleneck, self.mam, self.stem_pool
        x = ResNet(*shape, self.dtype, self.recompute, name="backbone")(image, train=train)
        b, h, w, _ = x.shape
        similarity = jnp.zeros((b, 0, h * w))
        feature = x.mean((1, 2))
        if self.pooling == "prototypes":
            parts, similarity = heads.Safl(self.parts, self.aggregate_position, name="safl")(x)
            feature = jnp.concatenate([parts.reshape(b, -1), feature], 1)
        elif self.pooling == "stripes":
            feature = jnp.concatenate([heads.stripes(x, self.parts).reshape(b, -1), feature], 1)
        # From here on float32: batch statistics of a feature, losses and rankings do not bear less.
        feature = feature.astype(jnp.float32)
        embedding = heads.ModalityBatchNorm(name="neck")(feature, modality, train=train)
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # U(+-1/sqrt(d)), PyTorch's default
        logits = [
            nn.Dense(self.identities, use_bias=False, kernel_init=init, name=f"{name}_classifier")(embedding)
            for name in ("shared", "visible", "infrared")
        ]
        return Output(feature, embedding, similarity, *logits)


def feature_map(model: SAAI, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the backbone's map for images of this size in pixels.

    Raises ValueError if the images are smaller than the backbone's stride, the map has no room for the parts, or
    there is no such pooling.
    """
    # Halved by the first convolution, its pooling, and every stage but the first and the last of four.
    stride = 2 ** (1 + model.stem_pool + min(len(model.stages) - 1, 2))
    rows, columns = -(-height // stride), -(-width // stride)
    if min(height, width) < stride:
        raise ValueError(f"images of {height} x {width} pixels are smaller than the backbone's stride of {stride}")
    room = {"prototypes": rows * columns, "stripes": rows, "global": model.parts}
    if model.pooling not in room:
        raise ValueError(f"pooling is {model.pooling!r}, expected one of {', '.join(room)}")
    if model.parts > room[model.pooling]:
        raise ValueError(
            f"{height} x {width} pixels give a map of {rows} x {columns}, too small for {model.parts} parts"
        )
    return rows, columns


def teacher_logits(
    embedding: Float[Array, "b d"], modality: Int[Array, b], teacher: dict[str, Float[Array, "d k"]]
) -> Float[Array, "b k"]:
    """Logits of each row by the mean classifier of the *other* modality (supplement, Eq. 3).

    teacher: kernels "visible" and "infrared", the moving averages of the modality classifiers.
    """
    return jnp.where(
        (modality == 0)[:, None], jnp.matmul(embedding, teacher["infrared"]), jnp.matmul(embedding, teacher["visible"])
    )
