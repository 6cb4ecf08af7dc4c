"""WRIM-Net (ECCV 2024): a ResNet with MIIM after its stages, and AICL: losses of two of its maps, whole and in stripes.

No code is released. What the paper's supplement and a third party's listing of the authors' modules leave open is a
field that configs/wrimnet.py calls unconfirmed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from saai_jax import augment, optimisers
from saai_jax.losses.contrastive import Against, Reduction, hardest_positives
from saai_jax.losses.identity import shared_identity
from saai_jax.losses.triplet import batch_hard
from saai_jax.models import heads, resnet
from saai_jax.models.attention import Fusion, Keys, Miim, Norm
from saai_jax.systems.system import Batch, System, Tree, weighted
from saai_jax.weights.names import Names, resnet_names

Feature = Literal["global", "main", "all"]
LEVELS = ("main", "auxiliary")  # the last map (P5) and the one before it (P4; P3 in the supplement's F)
NOTE = (
    "WRIM-Net's code is not released: some of its choices are ours. configs/wrimnet.py calls them unconfirmed, "
    "docs/paper_versus_code.md lists them"
)


class Part(NamedTuple):
    """Of a map or one of its stripes, float32; logits and z in training alone, z where a level is contrasted."""

    feature: Float[Array, "b d"]  # pooled, before the neck
    embedding: Float[Array, "b d"]  # after it
    logits: Float[Array, "b k"] | None = None
    z: Float[Array, "b 128"] | None = None  # of unit length


class Output(NamedTuple):
    """levels: by a name of LEVELS the parts of its map, the whole one first. feature, embedding: of those ranked."""

    levels: dict[str, list[Part]]
    feature: Float[Array, "b d"]
    embedding: Float[Array, "b d"]
    looked: Float[Array, "b p h w"]  # of every MIIM
    dense: Float[Array, "b h w c"]  # the last map


def own_of(module: Callable[[str], nn.Module], separate: bool, x: Array, train: bool, modality: Int[Array, b]) -> Any:
    """What module("") gives; if separate, `resnet.of_modality` of a module for each."""
    if not separate:
        return cast(Any, module(""))(x, train)
    return resnet.of_modality([cast(Any, module(f"{m}_")) for m in ("visible", "infrared")], x, train, modality)


def _nearest(x: Float[Array, "b h w"], height: int, width: int) -> Float[Array, "b height width"]:
    """Resized to the nearest position; jax.image.resize takes no batch whose size is a symbol."""
    rows, columns = (
        ((np.arange(n) + 0.5) * of / n).astype(int) for n, of in zip((height, width), x.shape[1:], strict=True)
    )
    return x[:, rows][:, :, columns]


class Network(nn.Module):
    """backbone: the ResNet whose stem and stages it runs, and its stem_of_modality. miim: what follows each stage.

    separate: the stages whose MIIM there is for each modality. stripes: of each level, by a name of LEVELS; an absent
    one is not trained. contrasted: the levels with projections. ranked: whose parts are the retrieval feature.
    """

    identities: int
    backbone: resnet.ResNet
    stem_ceil: bool
    miim: Sequence[Callable[..., nn.Module] | None]
    separate: Sequence[int]
    stripes: dict[str, int]
    contrasted: Sequence[str]
    ranked: Feature

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], modality: Int[Array, b], train: bool) -> Output:
        net, maps, looked = self.backbone, [], []
        stem = lambda m: resnet.Stem(net.width, net.stem_pool, net.conv, self.stem_ceil, name=f"{m}stem")  # noqa: E731
        x = own_of(stem, net.stem_of_modality, image, train, modality)
        for i, miim in enumerate(self.miim, 1):
            x = resnet.stage(net, i, name=f"layer{i}")(x, train)
            if miim is not None:
                named = lambda m, i=i, miim=miim: miim(name=f"{m}miim{i}")  # noqa: E731
                x, seen = own_of(named, i in self.separate, x, train, modality)
                looked.append(seen)
            maps.append(x)

        def part(feature: Float[Array, "b d"], name: str, contrasted: bool) -> Part:
            embedding = heads.ModalityBatchNorm(1, name=f"{name}neck")(feature, jnp.zeros_like(modality), train=train)
            if not (train or self.is_initializing()):
                return Part(feature, embedding)
            classifier = nn.Dense(
                self.identities, use_bias=False, kernel_init=nn.initializers.normal(0.001), name=f"{name}classifier"
            )
            z = heads.Projection(name=f"{name}projection")(feature, train) if contrasted else None
            return Part(feature, embedding, classifier(embedding), z)

        levels: dict[str, list[Part]] = {}
        for level, x in zip(LEVELS, (maps[-1], maps[-2]), strict=True):
            if level in self.stripes:
                x, prefix = x.astype(jnp.float32), "" if level == "main" else f"{level}_"
                features, n = {"": x.mean((1, 2))}, self.stripes[level]
                features |= {f"stripe{i + 1}_": heads.stripes(x, n)[:, i] for i in range(n)}
                levels[level] = [part(f, prefix + name, level in self.contrasted) for name, f in features.items()]
        every = [part for parts in levels.values() for part in parts]
        ranked = {"global": every[:1], "main": levels["main"], "all": every}[self.ranked]
        feature = jnp.concatenate([part.feature for part in ranked], 1)
        embedding = jnp.concatenate([part.embedding for part in ranked], 1)
        b, h, w, _ = maps[-1].shape
        shown = [_nearest(seen, h, w) for seen in looked]
        return Output(levels, feature, embedding, jnp.stack(shown, 1) if shown else jnp.zeros((b, 0, h, w)), maps[-1])


def names_of(stem_of_modality: bool) -> Names:
    """Our own names, but for the backbone's, which is torchvision's: no weights are released."""
    stems = ("visible_stem.", "infrared_stem.") if stem_of_modality else ("",)
    part = "((?:auxiliary_)?(?:stripe\\d+_)?)"
    return Names(
        table=(
            (r"(visible|infrared)_stem/((?:conv|bn)1)", r"backbone.\1_stem.\2"),
            *resnet_names("", "backbone."),
            (r"((?:visible_|infrared_)?miim\d)/(\w+)", r"\1.\2"),
            (rf"{part}neck", (r"\1neck",)),
            (rf"{part}classifier", r"\1classifier"),
            (rf"{part}projection/(hidden|bn|out)", r"\1projection.\2"),
        ),
        imagenet=(
            (r"(?:conv1|bn1)\..+", tuple(f"backbone.{stem}" for stem in stems)),
            (r"layer\d\..+", ("backbone.",)),
        ),
    )


def build(
    *,
    identities: int,
    size: tuple[int, int],
    miim: Sequence[int] = (1, 2, 3, 4),
    separate: Sequence[int] = (1, 2),
    kernels: Sequence[int] = (4, 2, 1, 1),
    reductions: Sequence[int] = (2, 2, 4, 4),
    attention_heads: int = 8,
    keys: Keys = "pooled",
    region: int = 2,
    norm: Norm = "compressed",
    fusion: Fusion = "multiply-sigmoid",
    stem_ceil: bool = True,
    stripes: int = 2,
    auxiliary: bool = True,
    auxiliary_stripes: int = 0,
    feature: Feature = "main",
    lambda1: float = 0.5,
    lambda2: float = 0.1,
    margin: float = 0.3,
    triplet_levels: Sequence[str] = LEVELS,
    temperature: float = 0.07,
    hardest: int = 4,
    against: Against = "both",
    reduction: Reduction = "sum",
    contrastive_levels: Sequence[str] = LEVELS,
    scale: tuple[float, float] = (0.8, 1.0),
    aspect: tuple[float, float] = (0.9, 1.1),
    grey: float = 0.3,
    erasing: float = 0.5,
    weight_decay: float = 5e-4,
    **network: Any,
) -> System:
    """WRIM-Net for so many identities and images of size (height, width) pixels; configs/wrimnet.py explains the rest.

    network: keywords of `resnet.built`, but mam and non_local. Raises ValueError for what cannot be built.
    """
    if odd := {"mam", "non_local"} & network.keys():
        raise TypeError(f"build() got an unexpected keyword argument {min(odd)!r}")
    backbone = resnet.built(**network)
    stages = range(1, len(backbone.stages) + 1)
    for field, values, known in (
        ("model.miim", miim, stages),
        ("model.separate", separate, stages),
        ("model.keys", [keys], get_args(Keys)),
        ("model.norm", [norm], get_args(Norm)),
        ("model.fusion", [fusion], get_args(Fusion)),
        ("model.feature", [feature], get_args(Feature)),
        ("loss.triplet_levels", triplet_levels, LEVELS),
        ("loss.contrastive_levels", contrastive_levels, LEVELS),
        ("loss.against", [against], get_args(Against)),
        ("loss.reduction", [reduction], get_args(Reduction)),
    ):
        if odd := [value for value in values if value not in known]:
            raise ValueError(f"{field}: {odd[0]!r} is none of {', '.join(map(str, known))}")
    if len(stages) < 2:
        raise ValueError(f"model.stages is {tuple(backbone.stages)}, expected at least two stages")
    for field, numbers in (("model.kernels", kernels), ("model.reductions", reductions)):
        if len(numbers) != len(stages):
            raise ValueError(f"{field}: {len(numbers)} numbers, expected {len(stages)}, one for each of model.stages")
    maps = [resnet.map_size(*size, i, backbone.stem_pool, stem_ceil) for i in stages]
    for field, value, least, most in (
        ("model.kernels", min(kernels), 1, math.inf),
        ("model.reductions", min(reductions), 1, math.inf),
        ("model.attention_heads", attention_heads, 1, math.inf),
        ("model.region", region, 1, math.inf),
        ("model.stripes", stripes, 0, maps[-1][0]),
        ("model.auxiliary_stripes", auxiliary_stripes, 0, maps[-2][0]),
        ("loss.hardest", hardest, 1, math.inf),
    ):
        if not least <= value <= most:
            raise ValueError(f"{field}: {value}, expected from {least} to {most}")
    block = nn.remat(Miim, static_argnums=(2,)) if backbone.remat else Miim
    blocks: list[Callable[..., nn.Module] | None] = [None] * len(stages)
    for i in miim:
        kernel, of = kernels[i - 1], reductions[i - 1]
        channels, (rows, columns) = backbone.width * 2 ** (i - 1) * (4 if backbone.bottleneck else 1), maps[i - 1]
        if rows % kernel or columns % kernel:
            raise ValueError(
                f"model.kernels: {kernel} does not divide the map of stage {i}, {rows} x {columns} of {size[0]} x "
                f"{size[1]} pixels"
            )
        if channels % (of * attention_heads):
            raise ValueError(
                f"model.attention_heads is {attention_heads}, expected a divisor of the compressed channels of stage "
                f"{i}, {channels} / {of} (model.reductions)"
            )
        blocks[i - 1] = functools.partial(block, backbone.conv, of, kernel, attention_heads, keys, region, fusion, norm)
    counts = {"main": stripes} | ({"auxiliary": auxiliary_stripes} if auxiliary else {})
    model = Network(identities, backbone, stem_ceil, tuple(blocks), separate, counts, contrastive_levels, feature)

    def init(key: Array) -> tuple[Tree, Tree]:
        variables = model.init(key, jnp.zeros((1, *size, 3)), jnp.zeros(1, jnp.int32), train=False)
        return cast(Tree, variables["params"]), {"batch_stats": variables["batch_stats"]}

    def augmented(key: Array, batch: Batch) -> Batch:
        def one(key, x):
            k_crop, k_flip, k_grey, k_erase = jax.random.split(key, 4)
            x = augment.flip(k_flip, augment.resized_crop(k_crop, x, area=scale, aspect=aspect))
            plain = (x @ jnp.asarray(augment.LUMINANCE))[..., None]
            x = augment.normalise(jnp.where(jax.random.bernoulli(k_grey, grey), plain, x))
            return augment.erase(k_erase, x, probability=erasing, fill=(0, 0, 0))

        return cast(Batch, {**batch, "image": augment.each(one, key, batch["image"])})

    def loss(
        params: Tree, collections: Tree, batch: Batch, key: Array, epoch: Array
    ) -> tuple[Array, tuple[dict[str, Array], Tree]]:
        """L(P5) + lambda1 L(P4) + lambda2 (all of CMKIC), its unweighted terms and the next statistics."""
        variables, person, modality = {"params": params, **collections}, batch["identity"], batch["modality"]
        output, updated = cast(Any, model.apply)(
            variables, batch["image"], modality, train=True, mutable=["batch_stats"]
        )
        how: dict[str, Any] = {"hardest": hardest, "temperature": temperature}
        how |= {"against": against, "reduction": reduction}
        terms, weights = {}, {}
        for level, parts in output.levels.items():
            prefix, weight = ("", 1.0) if level == "main" else (f"{level}_", lambda1)
            mean = lambda of, parts=parts: functools.reduce(jnp.add, map(of, parts)) / len(parts)  # noqa: E731
            found = {"identity": mean(lambda part: shared_identity(part.logits, person))}
            if level in triplet_levels:
                found["triplet"] = batch_hard(parts[0].feature, person, margin=margin)
            if level in contrastive_levels:
                found["contrastive"] = mean(lambda part: hardest_positives(part.z, person, modality, **how))
            terms |= {prefix + name: term for name, term in found.items()}
            weights |= {prefix + name: lambda2 if name == "contrastive" else weight for name in found}
        return weighted(terms, weights), (terms, dict(updated))

    def output_of(variables: Tree, image: Array, modality: Array) -> Output:
        return cast(Output, model.apply(variables, image, modality, train=False))

    return System(
        init,
        augmented,
        loss,
        optimisers.adam_l2(weight_decay),
        embed=lambda variables, image, modality: output_of(variables, image, modality).embedding,
        names=names_of(backbone.stem_of_modality),
        maps=(lambda variables, image, modality: output_of(variables, image, modality).looked) if miim else None,
        pooled=lambda variables, image, modality: output_of(variables, image, modality).feature,
        dense=lambda variables, image, modality: output_of(variables, image, modality).dense,
        note=NOTE,
    )
