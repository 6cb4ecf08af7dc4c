"""The baseline that SIM (IJCAI 2020, Section 3.1) is applied to: one network for both modalities, two losses."""

from __future__ import annotations

import functools
from typing import Any, cast

import jax
from jaxtyping import Array

from saai_jax import augment, optimisers
from saai_jax.losses.triplet import batch_hard
from saai_jax.models import resnet
from saai_jax.systems import agw
from saai_jax.systems.system import Batch, System
from saai_jax.weights.names import Names, resnet_names

# No weights are released; ours are named as torchvision's ResNet, whose ImageNet weights it starts from.
NAMES = Names(
    table=(*resnet_names("backbone/", "backbone."), ("neck", ("neck",)), ("classifier", "classifier")),
    imagenet=((r"(?:conv1|bn1|layer\d)\..+", ("backbone.",)),),
)


def build(
    *,
    identities: int,
    size: tuple[int, int],
    pooling: agw.Pooling = "mean",
    margin: float = 0.3,
    erasing: float = 0.5,
    weight_decay: float = 5e-4,
    **network: Any,
) -> System:
    """The baseline for so many identities and images of size (height, width) pixels; configs/sim_baseline.py explains.

    The paper does not say whether there is a neck, nor which feature is ranked: here there is AGW's, and its output is.
    network: keywords of `resnet.built`. Raises ValueError for what cannot be built.
    """

    def augmented(key: Array, batch: Batch) -> Batch:
        def one(key, x):
            k_flip, k_erase = jax.random.split(key)
            return augment.erase(k_erase, augment.normalise(augment.flip(k_flip, x)), probability=erasing)

        return cast(Batch, {**batch, "image": augment.each(one, key, batch["image"])})

    return agw.system_of(
        agw.Network(identities, resnet.built(**network), pooling),
        size,
        augmented,
        functools.partial(batch_hard, margin=margin),
        optimisers.adam_l2(weight_decay),
        NAMES,
    )
