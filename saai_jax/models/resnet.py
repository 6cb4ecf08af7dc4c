"""ResNet with torchvision's numerics, in NHWC. Systems compose Stem, Stage and Block themselves where they differ."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from saai_jax.models.attention import ModalityAttention, NonLocal
from saai_jax.models.initialisers import kaiming
from saai_jax.models.normalisation import BatchNorm

Conv = Callable[..., nn.Module]  # `conv`, with whatever a network sets for all of its convolutions


def conv(features: int, size: int, stride: int = 1, **how: Any) -> nn.Conv:
    """torch's convolution of an odd size, without bias. how: dtype, conv_general_dilated and others of nn.Conv."""
    # "SAME" pads a strided convolution differently from torch.
    how = {"padding": [(size // 2, size // 2)] * 2, "use_bias": False, "kernel_init": kaiming, **how}
    return nn.Conv(features, (size, size), stride, **how)


def max_pool(x: Float[Array, "b h w c"], ceil: bool = False) -> Float[Array, "b h2 w2 c"]:
    """torch.nn.MaxPool2d(3, 2, 1) of values that are not negative, so that zeros can pad.

    ceil: MaxPool2d(3, 2, ceil_mode=True), fast-reid's: the first window starts at the edge.
    As maxima of slices, of columns and then of rows: CPUs and exporters run these better than a reduced window.
    """
    h, w = (n // 2 * 2 if ceil else n for n in x.shape[1:3])
    before = 0 if ceil else 1
    x = jnp.pad(x, ((0, 0), (before, 1), (before, 1), (0, 0)))
    x = functools.reduce(jnp.maximum, [x[:, :, j : j + w : 2] for j in range(3)])
    return functools.reduce(jnp.maximum, [x[:, i : i + h : 2] for i in range(3)])


class Block(nn.Module):
    """A block of ResNet-50 (1x1, 3x3 with the stride, 1x1), or of ResNet-18 (two 3x3, the first with the stride)."""

    features: int
    stride: int = 1
    bottleneck: bool = True
    conv: Conv = conv

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        d, stride, out = self.features, self.stride, self.features * (4 if self.bottleneck else 1)
        layers = [(d, 1, 1), (d, 3, stride), (out, 1, 1)] if self.bottleneck else [(d, 3, stride), (d, 3, 1)]
        y = x
        for i, layer in enumerate(layers, 1):
            y = BatchNorm(name=f"bn{i}")(self.conv(*layer, name=f"conv{i}")(y), train)
            y = nn.relu(y) if i < len(layers) else y
        if x.shape != y.shape:
            x = BatchNorm(name="downsample_bn")(self.conv(out, 1, stride, name="downsample_conv")(x), train)
        return nn.relu(x + y)


class Stem(nn.Module):
    """The 7x7 convolution of stride 2, and the max pooling, which small pictures can do without.

    ceil: how it pools, see `max_pool`. rows: those whose statistics count, as for BatchNorm.
    """

    features: int = 64
    pool: bool = True
    conv: Conv = conv
    ceil: bool = False

    @nn.compact
    def __call__(
        self, image: Float[Array, "b h w 3"], train: bool, rows: Bool[Array, b] | None = None
    ) -> Float[Array, "b h2 w2 c"]:
        x = nn.relu(BatchNorm(name="bn1")(self.conv(self.features, 7, 2, name="conv1")(image), train, rows))
        return max_pool(x, self.ceil) if self.pool else x


class Stage(nn.Module):
    """`depth` blocks, the first with the stride. remat: blocks are computed again for their gradient.

    non_local: how many of the last blocks a NonLocal follows.
    """

    depth: int
    features: int
    stride: int = 1
    bottleneck: bool = True
    conv: Conv = conv
    remat: bool = False
    non_local: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h2 w2 d"]:
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        non_local = nn.remat(NonLocal, static_argnums=(2,)) if self.remat else NonLocal
        for j in range(self.depth):
            stride = self.stride if j == 0 else 1
            x = block(self.features, stride, self.bottleneck, self.conv, name=f"block{j}")(x, train)
            if j >= self.depth - self.non_local:
                x = non_local(self.conv, name=f"non_local{j}")(x, train)
        return x


class ResNet(nn.Module):
    """ResNet feature map, last stride 1: stages (3, 4, 6, 3), width 64, bottleneck make the ResNet-50 of this field.

    mam: the stages, counted from 1, that a ModalityAttention follows (3 and 4 in the released SYSU-MM01 model).
    non_local: of each stage, how many of the last blocks a NonLocal follows; () for none.
    stem_of_modality: a stem for each modality, which must be given then, and the rest for both.
    """

    stages: Sequence[int] = (3, 4, 6, 3)
    width: int = 64
    bottleneck: bool = True
    mam: Sequence[int] = ()
    stem_pool: bool = True
    conv: Conv = conv
    remat: bool = False
    non_local: Sequence[int] = ()
    stem_of_modality: bool = False

    def setup(self) -> None:
        for name in ("visible_stem", "infrared_stem") if self.stem_of_modality else ("stem",):
            setattr(self, name, Stem(self.width, self.stem_pool, self.conv))
        attention = nn.remat(ModalityAttention) if self.remat else ModalityAttention
        for i in range(1, len(self.stages) + 1):
            setattr(self, f"layer{i}", stage(self, i))
            if i in self.mam:
                setattr(self, f"mam{i}", attention(self.conv))

    def __call__(
        self, image: Float[Array, "b h w 3"], train: bool, modality: Int[Array, b] | None = None
    ) -> Float[Array, "b h2 w2 c"]:
        return self.upper(self.lower(image, train, modality), train)

    def lower(
        self, image: Float[Array, "b h w 3"], train: bool, modality: Int[Array, b] | None = None
    ) -> Float[Array, "b h2 w2 c"]:
        """The map before the last stage: of the stems and the other stages."""
        if self.stem_of_modality:
            x = of_modality((self.visible_stem, self.infrared_stem), image, train, modality)
        else:
            x = self.stem(image, train)
        for i in range(1, len(self.stages)):
            x = self._staged(x, i, train)
        return x

    def upper(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w d"]:
        """The last stage of a map before it."""
        return self._staged(x, len(self.stages), train)

    def _staged(self, x: Float[Array, "b h w c"], i: int, train: bool) -> Float[Array, "b h2 w2 d"]:
        x = getattr(self, f"layer{i}")(x, train)
        return getattr(self, f"mam{i}")(x) if i in self.mam else x


def stage(net: ResNet, i: int, name: str | None = None) -> Stage:
    """Stage i, counted from 1, as a ResNet's fields have it; of the module that calls this."""
    how = net.width * 2 ** (i - 1), 2 if i in (2, 3) else 1, net.bottleneck, net.conv, net.remat
    return Stage(net.stages[i - 1], *how, net.non_local[i - 1] if net.non_local else 0, name=name)


def of_modality(modules: Sequence[Callable[..., Any]], x: Array, train: bool, modality: Int[Array, b] | None) -> Any:
    """Of each row what its modality's module gives, of two: the visible one comes first.

    Each sees all rows and counts its own: any mix of modalities is one program.
    """
    visible, infrared = (module(x, train, modality == m) for m, module in enumerate(modules))
    own = lambda v, i: jnp.where((modality == 0).reshape(-1, *[1] * (v.ndim - 1)), v, i)  # noqa: E731
    return jax.tree.map(own, visible, infrared)


def map_of(model: nn.Module) -> Callable[..., Float[Array, "b h w c"]]:
    """variables, images, modality -> the last map of a network's `backbone`, in evaluation."""

    def run(variables: dict[str, Any], image: Float[Array, "b h w 3"], modality: Int[Array, b]) -> Any:
        return model.apply(variables, image, False, modality, method=lambda of, *given: of.backbone(*given))

    return run


def map_size(
    height: int, width: int, stages: int = 4, stem_pool: bool = True, stem_ceil: bool = False
) -> tuple[int, int]:
    """Rows and columns of a ResNet's map of images of this size in pixels. stem_ceil: `Stem.ceil`.

    Raises ValueError for images smaller than its stride.
    """
    # Halved by the first convolution, its pooling, and every stage but the first and the last of four.
    stride = 2 ** (1 + stem_pool + min(stages - 1, 2))
    if min(height, width) < stride:
        raise ValueError(f"images of {height} x {width} pixels are smaller than the backbone's stride of {stride}")
    if stem_pool and stem_ceil:  # which leaves out the last one of an odd number
        height, width = ((n + n % 2) // 4 * 4 for n in (height, width))
    return -(-height // stride), -(-width // stride)


def built(
    *,
    convolution: Callable[..., Array] = jax.lax.conv_general_dilated,
    stages: Sequence[int] = (3, 4, 6, 3),
    width: int = 64,
    bottleneck: bool = True,
    stem_pool: bool = True,
    dtype: str = "float32",
    remat: bool = False,
    mam: Sequence[int] = (),
    non_local: Sequence[int] = (),
    stem_of_modality: bool = False,
) -> ResNet:
    """The ResNet of a configuration's fields. convolution: what stands in for jax.lax.conv_general_dilated.

    Raises ValueError for a value that is none of a field's.
    """
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"model.dtype is {dtype!r}, expected float32 or bfloat16")
    if not set(mam) <= set(range(1, len(stages) + 1)):
        raise ValueError(f"model.mam is {tuple(mam)}, expected stages from 1 to {len(stages)}")
    if narrow := [i for i in mam if width * 2 ** (i - 1) * (4 if bottleneck else 1) < ModalityAttention.reduction]:
        raise ValueError(f"model.mam is {tuple(mam)}, expected stages of 16 channels or more, not {narrow[0]}")
    if non_local and (
        len(non_local) != len(stages) or any(not 0 <= n <= d for n, d in zip(non_local, stages, strict=True))
    ):
        raise ValueError(
            f"model.non_local is {tuple(non_local)}, expected from 0 to the blocks of stages {tuple(stages)}"
        )
    how = functools.partial(conv, dtype=jnp.dtype(dtype), conv_general_dilated=convolution)
    rest = tuple(non_local), stem_of_modality
    return ResNet(tuple(stages), width, bottleneck, tuple(mam), stem_pool, how, remat, *rest)
