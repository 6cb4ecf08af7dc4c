"""SAAI (ICCV 2023): ResNet, semantic-aligned parts, dual-branch neck, shared and modality classifiers."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, cast

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from saai_jax import augment, optimisers
from saai_jax.losses import identity
from saai_jax.losses.centres import centre_separation
from saai_jax.losses.common import Variant, check_variant
from saai_jax.losses.diversity import part_diversity
from saai_jax.models import heads, resnet
from saai_jax.systems.means import mean_classifiers, mean_rate, own_and_other
from saai_jax.systems.system import Batch, System, Tree, weighted
from saai_jax.weights.names import Names, resnet_names

Pooling = Literal["prototypes", "stripes", "global"]
Neck = Literal["dual", "single"]


class Output(NamedTuple):
    """What the network gives for a batch, float32.

    feature f[b d]: before the neck. embedding f[b d]: after it, the retrieval feature.
    similarity f[b p n]: of part i to position n, before the sigmoid (Eq. 1); p = 0 without prototypes.
    shared, visible, infrared f[b k]: logits of the three classifiers.
    """

    feature: Float[Array, "b d"]
    embedding: Float[Array, "b d"]
    similarity: Float[Array, "b p n"]
    shared: Float[Array, "b k"]
    visible: Float[Array, "b k"]
    infrared: Float[Array, "b k"]


class Network(nn.Module):
    """backbone: a ResNet. pooling: "prototypes" is SAFL; "stripes" and "global" are those of the ablations.

    neck: "dual" has a branch for each modality; "single", of the baseline in Table 3, is one for both.
    """

    identities: int
    backbone: nn.Module
    pooling: Pooling
    parts: int
    aggregate_position: bool
    neck: Neck

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], modality: Int[Array, b], train: bool) -> Output:
        x = cast(Any, self.backbone)(image, train)
        b, h, w, _ = x.shape
        similarity, feature = jnp.zeros((b, 0, h * w)), x.mean((1, 2))
        if self.pooling == "prototypes":
            parts, similarity = heads.Safl(self.parts, self.aggregate_position, name="safl")(x)
            feature = jnp.concatenate([parts.reshape(b, -1), feature], 1)
        elif self.pooling == "stripes":
            feature = jnp.concatenate([heads.stripes(x, self.parts).reshape(b, -1), feature], 1)
        feature = feature.astype(jnp.float32)  # the neck's statistics, the losses and rankings need float32
        branches, branch = (2, modality) if self.neck == "dual" else (1, jnp.zeros_like(modality))
        embedding = heads.ModalityBatchNorm(branches, name="neck")(feature, branch, train=train)
        return Output(feature, embedding, similarity, *heads.classified(embedding, self.identities))


def names_of(neck: Neck) -> Names:
    """What our parameters are called in the released checkpoints."""
    branches = ("bn_neck.bn_neck_v", "bn_neck.bn_neck_i") if neck == "dual" else ("bn_neck",)
    return Names(
        table=(
            *resnet_names("backbone/", "backbone."),
            (r"safl", "attn_pool"),
            (r"neck", branches),
            (r"shared_classifier", "classifier"),
            (r"(visible|infrared)_classifier", r"\1_classifier"),
            (r"mean_classifiers/(visible|infrared)", r"\1_classifier_"),
        ),
        leaves={"prototypes": "part_tokens", "position": "pos_embeding"},  # the release's spelling
        zeros=tuple(f"{branch}.bias" for branch in branches),
        copies={f"{m}_classifier_.weight": f"{m}_classifier.weight" for m in ("visible", "infrared")},
        imagenet=((r"(?:conv1|bn1|layer\d)\..+", ("backbone.",)),),
    )


def build(
    *,
    identities: int,
    size: tuple[int, int],
    pooling: Pooling = "prototypes",
    parts: int = 7,
    aggregate_position: bool = False,
    neck: Neck = "dual",
    separation: float = 1.0,
    rho1: float = 0.01,
    rho2: float = 0.7,
    diversity: float = 0.25,
    diversity_variant: Variant = "released",
    mutual_variant: Variant = "released",
    teacher_rate: float = 0.02,
    pad: int = 10,
    erasing: float = 0.5,
    grayscale: augment.Grayscale = "channel",
    weight_decay: float = 5e-4,
    **network: Any,
) -> System:
    """SAAI for so many identities and images of size (height, width) pixels; configs/saai.py says what the rest is.

    network: keywords of `resnet.built`. Raises ValueError for what cannot be built.
    """
    backbone = resnet.built(**network)
    rows, columns = resnet.map_size(*size, len(backbone.stages), backbone.stem_pool)
    room = {"prototypes": rows * columns, "stripes": rows, "global": parts}
    if pooling not in room:
        raise ValueError(f"model.pooling is {pooling!r}, expected one of {', '.join(room)}")
    if parts > room[pooling]:
        raise ValueError(f"{size[0]} x {size[1]} pixels give a map of {rows} x {columns}, too small for {parts} parts")
    if neck not in ("dual", "single"):
        raise ValueError(f"model.neck is {neck!r}, expected 'dual' or 'single'")
    if parts < 1:
        raise ValueError(f"model.parts is {parts}, expected at least 1")
    if grayscale not in ("channel", "luminance"):
        raise ValueError(f"augment.grayscale is {grayscale!r}, expected 'channel' or 'luminance'")
    check_variant(diversity_variant, "loss.diversity_variant")
    check_variant(mutual_variant, "loss.mutual_variant")
    model = Network(identities, backbone, pooling, parts, aggregate_position, neck)

    def init(key: Array) -> tuple[Tree, Tree]:
        variables = model.init(key, jnp.zeros((1, *size, 3)), jnp.zeros(1, jnp.int32), train=False)
        params = cast(Tree, variables["params"])
        return params, {"batch_stats": variables["batch_stats"], "mean_classifiers": mean_classifiers(params, None, 0)}

    def augmented(key: Array, batch: Batch) -> Batch:
        image = augment.augment(key, batch["image"], pad=pad, erasing=erasing, kind=grayscale)
        return cast(Batch, {**batch, "image": image})

    def loss(
        params: Tree, collections: Tree, batch: Batch, key: Array, epoch: Array
    ) -> tuple[Array, tuple[dict[str, Array], Tree]]:
        """Total loss (Eq. 11), its unweighted terms and the next collections. The means move before they are used."""
        variables, person, modality = {"params": params, **collections}, batch["identity"], batch["modality"]
        output, updated = cast(Any, model.apply)(
            variables, batch["image"], modality, train=True, mutable=["batch_stats"]
        )
        means = mean_classifiers(params, collections["mean_classifiers"], mean_rate(epoch, teacher_rate))
        own, other_mean = own_and_other(output.visible, output.infrared, output.embedding, means, modality)
        terms = {
            "shared": identity.shared_identity(output.shared, person),
            "specific": identity.specific_identity(own, person, modality),
            "mutual": identity.mutual_identity(own, other_mean, modality, variant=mutual_variant),
            "separation": centre_separation(output.feature, person, rho1=rho1, rho2=rho2),
            "diversity": part_diversity(output.similarity, variant=diversity_variant),
        }
        weight = {"separation": separation, "diversity": diversity}
        return weighted(terms, weight), (terms, {"batch_stats": updated["batch_stats"], "mean_classifiers": means})

    def output_of(variables: Tree, image: Array, modality: Array) -> Output:
        return cast(Output, model.apply(variables, image, modality, train=False))

    def maps(variables: Tree, image: Array, modality: Array) -> Array:
        """How much each position belongs to each part, in [0, 1] (Eq. 1)."""
        return nn.sigmoid(output_of(variables, image, modality).similarity).reshape(-1, parts, rows, columns)

    return System(
        init,
        augmented,
        loss,
        optimisers.adam_l2(weight_decay),
        embed=lambda variables, image, modality: output_of(variables, image, modality).embedding,
        names=names_of(neck),
        maps=maps if pooling == "prototypes" else None,
        pooled=lambda variables, image, modality: output_of(variables, image, modality).feature,
        dense=resnet.map_of(model),
    )
