"""MPANet (CVPR 2021): ResNet with modality attention, pattern masks, one neck, shared and modality classifiers."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from saai_jax import augment, optimisers
from saai_jax.losses import identity
from saai_jax.losses.centres import centre_separation
from saai_jax.losses.diversity import mask_separation
from saai_jax.models import heads, resnet
from saai_jax.models.initialisers import uniform_fan_in
from saai_jax.systems.means import mean_classifiers, mean_rate, own_and_other
from saai_jax.systems.system import Batch, System, Tree, weighted
from saai_jax.weights.names import Names, resnet_names


class Output(NamedTuple):
    """What the network gives for a batch, float32.

    feature f[b d]: patterns and the global mean, before the neck. embedding f[b d]: after it, the retrieval feature.
    mask f[b p n]: of each pattern in [0, 1]. shared, visible, infrared f[b k]: logits of the three classifiers.
    """

    feature: Float[Array, "b d"]
    embedding: Float[Array, "b d"]
    mask: Float[Array, "b p n"]
    shared: Float[Array, "b k"]
    visible: Float[Array, "b k"]
    infrared: Float[Array, "b k"]


class Network(nn.Module):
    """backbone: a ResNet. patterns: how many masks."""

    identities: int
    backbone: resnet.ResNet
    patterns: int

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], train: bool) -> Output:
        x = self.backbone(image, train)
        masks = self.backbone.conv(self.patterns, 1, use_bias=True, kernel_init=uniform_fan_in, name="pattern_masks")
        feature, mask = heads.patterns(x, masks(x))
        one_branch = jnp.zeros(image.shape[0], jnp.int32)
        embedding = heads.ModalityBatchNorm(1, name="neck")(feature, one_branch, train=train)
        return Output(feature, embedding, mask, *heads.classified(embedding, self.identities))


NAMES = Names(
    table=(
        *resnet_names("backbone/", "backbone."),
        ("pattern_masks", "spatial_attention"),
        ("neck", ("bn_neck",)),
        ("shared_classifier", "classifier"),
        (r"(visible|infrared)_classifier", r"\1_classifier"),
        (r"mean_classifiers/(visible|infrared)", r"\1_classifier_"),
    ),
    zeros=("bn_neck.bias",),
    copies={f"{m}_classifier_.weight": f"{m}_classifier.weight" for m in ("visible", "infrared")},
    imagenet=((r"(?:conv1|bn1|layer\d)\..+", ("backbone.",)),),
)


def build(
    *,
    identities: int,
    size: tuple[int, int],
    patterns: int = 6,
    separation: float = 0.5,
    centre: float = 1.0,
    margin: float = 0.7,
    mutual: float = 2.5,
    teacher_rate: float = 0.2,
    pad: int = 10,
    erasing: float = 0.5,
    weight_decay: float = 5e-4,
    **network: Any,
) -> System:
    """MPANet for so many identities and images of size (height, width) pixels; configs/mpanet.py says what the rest is.

    network: keywords of `resnet.built`. Raises ValueError for what cannot be built.
    """
    if patterns < 1:
        raise ValueError(f"model.patterns is {patterns}, expected at least 1")
    backbone = resnet.built(**network)
    rows, columns = resnet.map_size(*size, len(backbone.stages), backbone.stem_pool)
    model = Network(identities, backbone, patterns)

    def init(key: Array) -> tuple[Tree, Tree]:
        variables = model.init(key, jnp.zeros((1, *size, 3)), train=False)
        params = cast(Tree, variables["params"])
        return params, {"batch_stats": variables["batch_stats"], "mean_classifiers": mean_classifiers(params, None, 0)}

    def augmented(key: Array, batch: Batch) -> Batch:
        def one(key, x):
            k_flip, k_crop, k_erase = jax.random.split(key, 3)
            x = augment.normalise(augment.pad_crop(k_crop, augment.flip(k_flip, x), pad, fill=127 / 255))
            # The aspect's law is that of torchvision 0.4.0, which the release pins.
            return augment.erase(k_erase, x, probability=erasing, law="uniform", fill=(0, 0, 0))

        return cast(Batch, {**batch, "image": augment.each(one, key, batch["image"])})

    def loss(
        params: Tree, collections: Tree, batch: Batch, key: Array, epoch: Array
    ) -> tuple[Array, tuple[dict[str, Array], Tree]]:
        """Total loss, its unweighted terms and the next collections. The means move before they are used."""
        variables, person, modality = {"params": params, **collections}, batch["identity"], batch["modality"]
        output, updated = cast(Any, model.apply)(variables, batch["image"], train=True, mutable=["batch_stats"])
        means = mean_classifiers(params, collections["mean_classifiers"], mean_rate(epoch, teacher_rate))
        own, other_mean = own_and_other(output.visible, output.infrared, output.embedding, means, modality)
        terms = {
            "shared": identity.shared_identity(output.shared, person),
            "specific": identity.specific_identity(own, person, modality),
            "separation": mask_separation(output.mask),
            "centre": centre_separation(output.feature, person, rho1=0.0, rho2=margin),
            "mutual": identity.mutual_divergence(own, other_mean),
        }
        weight = {"separation": separation, "centre": centre, "mutual": mutual}
        return weighted(terms, weight), (terms, {"batch_stats": updated["batch_stats"], "mean_classifiers": means})

    def output_of(variables: Tree, image: Array) -> Output:
        return cast(Output, model.apply(variables, image, train=False))

    return System(
        init,
        augmented,
        loss,
        optimisers.adam_l2(weight_decay),
        embed=lambda variables, image, modality: output_of(variables, image).embedding,
        names=NAMES,
        maps=lambda variables, image, modality: output_of(variables, image).mask.reshape(-1, patterns, rows, columns),
        pooled=lambda variables, image, modality: output_of(variables, image).feature,
        dense=resnet.map_of(model),
    )
