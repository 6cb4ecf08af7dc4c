"""What a system is: a tuple of pure functions, as optax.GradientTransformation is one."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from saai_jax.weights.names import Names

Tree = dict[str, Any]


class Batch(TypedDict):
    """image: u8[b h w 3] or, once augmented, normalised f32; identity i32[b], from 0; camera, modality i32[b]."""

    image: Array
    identity: Int[Array, b]
    camera: Int[Array, b]
    modality: Int[Array, b]  # 0 visible, 1 infrared


Features = Callable[[Tree, Float[Array, "b h w 3"], Int[Array, "b"]], Float[Array, "b d"]]


PRECISIONS = ("default", "high", "highest")  # of products and convolutions in float32: docs/usage.md


class System(NamedTuple):
    """All that training, evaluation, reports and the reader of weights know of a method: docs/systems_guide.md.

    variables are {"params": ..., **collections}; images are normalised as `augment.normalise` does.
    """

    init: Callable[[Key[Array, ""]], tuple[Tree, Tree]]  # params, collections (batch_stats, mean classifiers)
    augment: Callable[[Key[Array, ""], Batch], Batch]  # u8 images to normalised f32; may add rows
    # params, collections, augmented batch, key, epoch (from 0) -> total, (terms by name, next collections)
    loss: Callable[[Tree, Tree, Batch, Key[Array, ""], Array], tuple[Array, tuple[dict[str, Array], Tree]]]
    optimiser: optax.GradientTransformation  # the direction at rate 1; factors of parameter groups are inside
    embed: Features  # variables, images, modality -> the retrieval feature that the original ranks
    names: Names  # our parameters by the names of the original's PyTorch weights
    maps: Callable[[Tree, Array, Array], Float[Array, "b p h w"]] | None = None  # where it looks, for people
    pooled: Features | None = None  # the feature before the neck, for people
    dense: Callable[[Tree, Array, Array], Float[Array, "b h w c"]] | None = None  # the map that is pooled, for people
    note: str = ""  # what a person should know before training it; logged once
    check_batch: Callable[[np.ndarray], None] | None = None  # identities i32[b]: ValueError if it cannot learn of them


def weighted(terms: dict[str, Array], weights: dict[str, float]) -> Array:
    """The sum of a loss's terms, each times its weight; those without one count whole."""
    return functools.reduce(operator.add, [weights.get(name, 1.0) * term for name, term in terms.items()])


def at_precision(system: System, training: str, evaluation: str) -> System:
    """The system whose loss, and whose other functions, compute float32 products at one of PRECISIONS.

    What asks for a precision of its own keeps it.
    """

    def at(precision: str, function: Callable[..., Any] | None) -> Any:
        if function is None:
            return None

        @functools.wraps(function)
        def precise(*arguments):
            with jax.default_matmul_precision(precision):
                return function(*arguments)

        return precise

    seen = {name: at(evaluation, getattr(system, name)) for name in ("embed", "maps", "pooled", "dense")}
    return system._replace(loss=at(training, system.loss), **seen)
