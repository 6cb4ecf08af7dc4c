"""LbA (ICCV 2021): images learn from their features made of those of another image, position by position (CMAlign)."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from saai_jax import augment, optimisers
from saai_jax.losses.identity import shared_identity
from saai_jax.losses.triplet import attended, batch_hard, dense
from saai_jax.models import cmalign, heads, resnet
from saai_jax.systems import agw
from saai_jax.systems.system import Batch, System, Tree, weighted

Pairs = tuple[Int[Array, "b"], Int[Array, "b"]]  # of each row of a batch, its positive's row and its negative's


class Aligned(NamedTuple):
    """Images made of their positives, f32[b h w c]; of each position its dense triplet and co-attention, f32[b h w]."""

    reconstructed: Float[Array, "b h w c"]
    triplet: Float[Array, "b h w"]
    coattention: Float[Array, "b h w"]


class Passes(NamedTuple):
    """What a step computes: of the images, of their lower and upper maps, and the logits of these reconstructed."""

    clean: agw.Output
    lower: Aligned
    upper: Aligned
    lower_logits: Float[Array, "b k"]
    upper_logits: Float[Array, "b k"]


class PCB(agw.Network):
    """With PCB's head: the feature is its stripes one after the other, the embedding their reductions."""

    def setup(self) -> None:
        self.stripes = heads.Stripes(self.identities)

    def head(self, x: Float[Array, "b h w c"], train: bool) -> agw.Output:
        pooled, reduced, logits = self.stripes(x, train)
        return agw.Output(pooled.reshape(x.shape[0], -1), reduced, logits)


def check_batch(identity: np.ndarray) -> None:
    """Raises ValueError for a batch, by its identities i32[b], that `pairs` cannot draw from.

    The halves hold the same identities, each as often; each has as many other identities as it has images in a half.
    """
    half = len(identity) // 2
    if len(identity) % 2 or sorted(identity[:half]) != sorted(identity[half:]):
        raise ValueError(
            "CMAlign pairs the first half of a batch with the second, expected the same identities in both: "
            "--config.data.sampler=replacement"
        )
    people, images = np.unique(identity[:half], return_counts=True)
    if len(people) <= images.max():
        raise ValueError(
            f"a batch of data.identities={len(people)} and data.images={2 * images.max()} has {len(people) - 1} others "
            f"for each identity, CMAlign needs {images.max()}: --config.data.identities={images.max() + 1} or more, or "
            "fewer data.images"
        )


def pairs(key: Array, identity: Int[Array, b]) -> Pairs:
    """Rows of a positive and a negative for each row of a batch that `check_batch` accepts; both of the other half.

    Positives are a random bijection between the images of an identity; the negatives of an identity are of as many
    different others, in random order, each by an image of another place. By the order of rows alone, not by modality.
    """
    half, (k_first, k_second) = len(identity) // 2, jax.random.split(key)
    first, second = identity[:half], identity[half:]
    to_second, to_first = _partners(k_first, first, second), _partners(k_second, second, first)
    positive, negative = (jnp.concatenate([a + half, b]) for a, b in zip(to_second, to_first, strict=True))
    return positive, negative


def _partners(key: Array, own: Int[Array, n], other: Int[Array, n]) -> Pairs:
    """The positive and the negative row of `other` for each row of `own`."""
    n, (k_positive, k_place, k_people) = len(own), jax.random.split(key, 3)

    def place(person: Int[Array, n], order: Int[Array, n]) -> Int[Array, n]:
        """How many rows of the same person come before each row in an order."""
        return ((person[:, None] == person) & (order[:, None] > order)).sum(1)

    rows = jnp.arange(n)
    shuffled = jnp.lexsort((jax.random.permutation(k_positive, n), own))
    positive = jnp.zeros(n, jnp.int32).at[shuffled].set(jnp.argsort(other, stable=True))
    # Every person of `other` stands as its first row, in an order that all rows of a person of `own` share.
    of_person = jnp.argmax(own[:, None] == own, axis=1)
    score = jax.random.uniform(k_people, (n, n))[of_person]
    candidate = (place(other, rows) == 0) & (other != own[:, None])
    person = other[jnp.argsort(jnp.where(candidate, score, jnp.inf), axis=1)[rows, place(own, rows)]]
    at = place(own, jax.random.permutation(k_place, n))
    negative = jnp.argmax((other == person[:, None]) & (place(other, rows) == at[:, None]), axis=1)
    return positive, negative


def align(x: Float[Array, "b h w c"], positive: Int[Array, b], negative: Int[Array, b], margin: float) -> Aligned:
    """CMAlign of a batch's map with these rows, in float32."""
    x = x.astype(jnp.float32)
    shown = cmalign.mask(x)

    def reconstructed(rows: Int[Array, b]) -> tuple[Float[Array, "b h w c"], Float[Array, "b n n"]]:
        probability = cmalign.probability(x, x[rows])
        return cmalign.reconstruct(x, cmalign.warp(probability, x[rows]), shown), probability

    (near, probability), (far, _) = reconstructed(positive), reconstructed(negative)
    return Aligned(near, dense(x, near, far, margin=margin), cmalign.coattention(probability, shown, shown[positive]))


def passes(
    model: agw.Network, variables: Tree, batch: Batch, pairs: tuple[Pairs, Pairs], dense_margin: float
) -> tuple[Passes, Tree]:
    """A training step's passes with pairs for the lower and the upper map, and the next collections.

    The order is the released one, which the running statistics tell: the clean features come last to the neck.
    """

    def run(net: agw.Network) -> Passes:
        below = net.lower(batch["image"], batch["modality"], train=True)
        above = net.upper(below, train=True)
        lower, upper = (align(x, *rows, dense_margin) for x, rows in zip((below, above), pairs, strict=True))
        of_lower = net.head(net.upper(lower.reconstructed.astype(below.dtype), train=True), train=True)
        of_upper = net.head(upper.reconstructed, train=True)
        return Passes(net.head(above, train=True), lower, upper, of_lower.logits, of_upper.logits)

    found, updated = cast(Any, model.apply)(variables, method=run, mutable=["batch_stats"])
    return found, dict(updated)


def terms_of(
    found: Passes, person: Int[Array, b], *, margin: float, cross_batch: bool, triplet: bool = True
) -> dict[str, Array]:
    """The terms of the loss, unweighted: L_ID (two, or one without triplet), L_IC and L_DT (one of each map)."""
    return {
        "identity": shared_identity(found.clean.logits, person),
        **({"triplet": batch_hard(found.clean.feature, person, margin=margin)} if triplet else {}),
        "consistency_lower": shared_identity(found.lower_logits, person),
        "consistency_upper": shared_identity(found.upper_logits, person),
        "dense_lower": attended(found.lower.triplet, found.lower.coattention, cross_batch=cross_batch),
        "dense_upper": attended(found.upper.triplet, found.upper.coattention, cross_batch=cross_batch),
    }


def build(
    *,
    identities: int,
    size: tuple[int, int],
    head: str = "gem",
    triplet: bool = True,
    margin: float = 0.3,
    consistency: float = 1.0,
    dense: float = 0.5,
    dense_margin: float = 0.3,
    cross_batch: bool = False,
    stem_of_modality: bool = True,
    weight_decay: float = 5e-4,
    backbone_factor: float = 0.1,
    **network: Any,
) -> System:
    """LbA for so many identities and images of size (height, width) pixels; configs/lba.py says what the rest is.

    Without `consistency` and `dense` it is the baseline, which aligns nothing. Otherwise the loss takes batches as
    `check_batch` wants them, from whatever modality. network: keywords of `resnet.built`. Raises ValueError for what
    cannot be built.
    """
    if head not in ("gem", "pcb"):
        raise ValueError(f"model.head is {head!r}, expected one of gem, pcb")
    backbone = resnet.built(**network, stem_of_modality=stem_of_modality)
    names = agw.names_of((), tuple(backbone.stages), stem_of_modality)
    if head == "pcb":  # of which nothing is released
        model, parts = PCB(identities, backbone, "mean"), heads.Stripes.parts
        names = dataclasses.replace(names, table=(*names.table, (r"stripes/(\w+)", r"stripes.\1")), zeros=())
    else:
        model, parts = agw.Network(identities, backbone, "gem"), 1

    def augmented(key: Array, batch: Batch) -> Batch:
        flipped = augment.each(lambda key, x: augment.normalise(augment.flip(key, x)), key, batch["image"])
        return cast(Batch, {**batch, "image": flipped})

    baseline = agw.system_of(
        model,
        size,
        augmented,
        functools.partial(batch_hard, margin=margin) if triplet else None,
        optimisers.sgd_l2(weight_decay, heads=("neck", "classifier", "stripes"), factor=backbone_factor),
        names,
    )

    def embed(variables: Tree, image: Array, modality: Array) -> Array:
        """The pooled feature, of unit length; of PCB each stripe's."""
        b = image.shape[0]
        feature = cast(Any, baseline.pooled)(variables, image, modality).reshape(b, parts, -1)
        return (feature / jnp.maximum(jnp.linalg.norm(feature, axis=2, keepdims=True), 1e-12)).reshape(b, -1)

    own = ("consistency", consistency), ("dense", dense)

    def loss(
        params: Tree, collections: Tree, batch: Batch, key: Array, epoch: Array
    ) -> tuple[Array, tuple[dict[str, Array], Tree]]:
        """Total loss, its unweighted terms and the next collections."""
        k_lower, k_upper = jax.random.split(key)
        drawn = pairs(k_lower, batch["identity"]), pairs(k_upper, batch["identity"])
        found, updated = passes(model, {"params": params, **collections}, batch, drawn, dense_margin)
        terms = terms_of(found, batch["identity"], margin=margin, cross_batch=cross_batch, triplet=triplet)
        weights = {f"{name}_{at}": w for name, w in own for at in ("lower", "upper")}
        return weighted(terms, weights), (terms, updated)

    if not (consistency or dense):
        return baseline._replace(embed=embed)
    return baseline._replace(loss=loss, embed=embed, check_batch=check_batch)
