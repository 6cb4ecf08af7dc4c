"""AGW (TPAMI 2021), its base method, and the additions of CAJ (ICCV 2021): two stems, one neck and one classifier."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int

from saai_jax import augment, optimisers
from saai_jax.losses import triplet as triplets
from saai_jax.losses.common import Variant, check_variant
from saai_jax.losses.identity import shared_identity
from saai_jax.models import heads, resnet
from saai_jax.systems.system import Batch, System, Tree, weighted
from saai_jax.weights.names import Names, resnet_names

Pooling = Literal["gem", "mean"]
Triplet = Literal["weighted", "squared", "hard"]
LUMINANCE = (0.2989, 0.587, 0.114)  # of CAJ
FILL = (0.4914, 0.4822, 0.4465)  # what CAJ erases with, after normalisation


class Output(NamedTuple):
    """feature f32[b d]: pooled, before the neck. embedding f32[b d]: after it. logits f32[b k]."""

    feature: Float[Array, "b d"]
    embedding: Float[Array, "b d"]
    logits: Float[Array, "b k"]


class Network(nn.Module):
    """backbone: a ResNet, in AGW with a stem for each modality."""

    identities: int
    backbone: nn.Module
    pooling: Pooling

    def setup(self) -> None:
        around_one = lambda *how: 1 + nn.initializers.normal(0.01)(*how)  # noqa: E731
        self.neck = heads.ModalityBatchNorm(1, around_one)
        self.classifier = nn.Dense(self.identities, use_bias=False, kernel_init=nn.initializers.normal(0.001))

    def __call__(self, image: Float[Array, "b h w 3"], modality: Int[Array, b], train: bool) -> Output:
        return self.head(self.upper(self.lower(image, modality, train), train), train)

    def lower(self, image: Float[Array, "b h w 3"], modality: Int[Array, b], train: bool) -> Float[Array, "b h2 w2 c"]:
        """The backbone's map before its last stage."""
        return cast(resnet.ResNet, self.backbone).lower(image, train, modality)

    def upper(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w d"]:
        """The backbone's last stage."""
        return cast(resnet.ResNet, self.backbone).upper(x, train)

    def head(self, x: Float[Array, "b h w c"], train: bool) -> Output:
        """What follows the backbone's map."""
        feature = heads.gem(x) if self.pooling == "gem" else x.astype(jnp.float32).mean((1, 2))
        embedding = self.neck(feature, jnp.zeros(x.shape[0], jnp.int32), train=train)
        return Output(feature, embedding, self.classifier(embedding))


def exchanged(key: Array, image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """One channel, drawn evenly, in the place of all (CAJ, Section 3.1)."""
    return jnp.broadcast_to(image[..., jax.random.randint(key, (), 0, 3), None], image.shape)


def grey_or_exchanged(key: Array, image: Float[Array, "h w 3"]) -> Float[Array, "h w 3"]:
    """CAJ's change of infrared images: each channel for all with probability 1/4, the luminance with 1/8."""
    draw = jax.random.randint(key, (), 0, 8)
    changed = jnp.where(draw < 6, image[..., jnp.minimum(draw // 2, 2)], image @ jnp.asarray(LUMINANCE))
    return jnp.where(draw < 7, changed[..., None], image)


def cropped(key: Array, image: Float[Array, "h w 3"], pad: int) -> Float[Array, "h w 3"]:
    """Padded with black and cropped, flipped, normalised: the released order."""
    k_crop, k_flip = jax.random.split(key)
    return augment.normalise(augment.flip(k_flip, augment.pad_crop(k_crop, image, pad, 0)))


def two_views(key: Array, batch: Batch, pad: int, erasing: float) -> Batch:
    """CAJ's batch: visible rows, the same rows with exchanged channels, infrared rows. It needs as many of each."""
    order = jnp.argsort(batch["modality"], stable=True)
    half = len(order) // 2
    rows = jnp.concatenate([order[:half], order[:half], order[half:]])

    def one(key, x, kind):
        k_crop, k_erase, k_channel = jax.random.split(key, 3)
        how: dict[str, Any] = {"area": (0.02, 0.4), "aspect": (0.3, 1 / 0.3), "tries": 100, "law": "uniform"}
        x = augment.erase(k_erase, cropped(k_crop, x, pad), probability=erasing, fill=FILL, **how)
        return jnp.select([kind == 0, kind == 1], [x, exchanged(k_channel, x)], grey_or_exchanged(k_channel, x))

    kinds = jnp.repeat(jnp.arange(3), half, total_repeat_length=len(rows))
    taken = {name: jnp.take(cast(Array, value), rows, axis=0) for name, value in batch.items()}
    image = jax.vmap(lambda k, x, kind: one(k, x.astype(jnp.float32) / 255, kind))(
        jax.random.split(key, len(rows)), taken["image"], kinds
    )
    return cast(Batch, {**taken, "image": image})


def names_of(non_local: tuple[int, ...], stages: tuple[int, ...], two_stems: bool = True) -> Names:
    """What our parameters are called in the released checkpoints; one stem is their ResNet's own, which they ignore."""
    parts = {"theta": "theta", "phi": "phi", "g": "g.0", "w": "W.0", "bn": "W.1"}
    stems = {"visible": "visible_module.visible.", "infrared": "thermal_module.thermal."}
    return Names(
        table=(
            *((rf"backbone/{m}_stem/((?:conv|bn)1)", rf"{prefix}\1") for m, prefix in stems.items()),
            *resnet_names("backbone/", "base_resnet.base."),
            *(
                (f"backbone/layer{i}/non_local{depth - n + k}/{ours}", f"NL_{i}.{k}.{torch}")
                for i, (n, depth) in enumerate(zip(non_local, stages, strict=False), 1)
                for k in range(n)
                for ours, torch in parts.items()
            ),
            ("neck", ("bottleneck",)),
            ("classifier", "classifier"),
        ),
        # Each part of the release is a whole ResNet, of which it runs the stem or the rest.
        ignored=(
            r"(visible_module\.visible|thermal_module\.thermal)\.layer\d\..+",
            r"base_resnet\.base\.(conv|bn)1\..+",
        ),
        zeros=("bottleneck.bias",),
        imagenet=(
            (r"(?:conv1|bn1)\..+", tuple(stems.values()) if two_stems else ("base_resnet.base.",)),
            (r"layer\d\..+", ("base_resnet.base.",)),
        ),
    )


def build(
    *,
    identities: int,
    size: tuple[int, int],
    pooling: Pooling = "gem",
    mirror: bool = False,
    triplet: Triplet = "weighted",
    triplet_variant: Variant = "released",
    finite: bool = True,
    margin: float = 0.3,
    pad: int = 10,
    views: int = 1,
    erasing: float = 0.0,
    weight_decay: float = 5e-4,
    backbone_factor: float = 0.1,
    **network: Any,
) -> System:
    """AGW for so many identities and images of size (height, width) pixels; configs/agw.py says what the rest is.

    network: keywords of `resnet.built`. Raises ValueError for what cannot be built.
    """
    kinds = {
        "weighted": functools.partial(triplets.weighted_regularised, variant=triplet_variant, finite=finite),
        "squared": functools.partial(triplets.squared_difference, variant=triplet_variant),
        "hard": functools.partial(triplets.batch_hard, margin=margin),
    }
    for field, value, known in (("loss.triplet", triplet, tuple(kinds)), ("augment.views", views, (1, 2))):
        if value not in known:
            raise ValueError(f"{field} is {value!r}, expected one of {', '.join(map(str, known))}")
    if erasing and views == 1:
        raise ValueError(f"augment.erasing is {erasing} with one view, expected 0: it belongs to CAJ's two views")
    check_variant(triplet_variant, "loss.triplet_variant")
    backbone = resnet.built(**network, stem_of_modality=True)

    def augmented(key: Array, batch: Batch) -> Batch:
        if views == 2:
            return two_views(key, batch, pad, erasing)

        image = augment.each(functools.partial(cropped, pad=pad), key, batch["image"])
        return cast(Batch, {**batch, "image": image})

    return system_of(
        Network(identities, backbone, pooling),
        size,
        augmented,
        kinds[triplet],
        optimisers.sgd_l2(weight_decay, heads=("neck", "classifier"), factor=backbone_factor),
        names_of(tuple(backbone.non_local), tuple(backbone.stages)),
        mirror=mirror,
    )


def system_of(
    model: Network,
    size: tuple[int, int],
    augmented: Callable[[Array, Batch], Batch],
    triplet: Callable[[Array, Array], Array] | None,
    optimiser: optax.GradientTransformation,
    names: Names,
    *,
    mirror: bool = False,
) -> System:
    """The System of a network that learns by cross entropy and, if any, a triplet loss of features and identities.

    Raises ValueError for an unknown pooling and images that are too small.
    """
    if model.pooling not in ("gem", "mean"):
        raise ValueError(f"model.pooling is {model.pooling!r}, expected one of gem, mean")
    backbone = cast(resnet.ResNet, model.backbone)
    resnet.map_size(*size, len(backbone.stages), backbone.stem_pool)

    def init(key: Array) -> tuple[Tree, Tree]:
        variables = model.init(key, jnp.zeros((1, *size, 3)), jnp.zeros(1, jnp.int32), train=False)
        return cast(Tree, variables["params"]), {"batch_stats": variables["batch_stats"]}

    def loss(
        params: Tree, collections: Tree, batch: Batch, key: Array, epoch: Array
    ) -> tuple[Array, tuple[dict[str, Array], Tree]]:
        """Cross entropy and triplet loss, the sum and each, and the next collections."""
        variables, person = {"params": params, **collections}, batch["identity"]
        output, updated = cast(Any, model.apply)(
            variables, batch["image"], batch["modality"], train=True, mutable=["batch_stats"]
        )
        terms = {"identity": shared_identity(output.logits, person)}
        if triplet:
            terms["triplet"] = triplet(output.feature, person)
        return weighted(terms, {}), (terms, dict(updated))

    def unit(x: Float[Array, "b d"]) -> Float[Array, "b d"]:
        return x / jnp.linalg.norm(x, axis=1, keepdims=True)

    def output_of(variables: Tree, image: Array, modality: Array) -> Output:
        return cast(Output, model.apply(variables, image, modality, train=False))

    def embed(variables: Tree, image: Array, modality: Array) -> Array:
        """The neck's output of unit length; with mirror, of the sum of an image's and its mirror image's."""
        found = unit(output_of(variables, image, modality).embedding)
        return unit(found + unit(output_of(variables, image[:, :, ::-1], modality).embedding)) if mirror else found

    def pooled(variables: Tree, image: Array, modality: Array) -> Array:
        return output_of(variables, image, modality).feature

    return System(init, augmented, loss, optimiser, embed, names, pooled=pooled, dense=resnet.map_of(model))
