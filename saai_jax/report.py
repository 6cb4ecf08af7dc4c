"""What people look at after a run, from its arrays: ranked lists and attention maps of a few queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from saai_jax import evaluate, plots
from saai_jax.models.saai import SAAI, feature_map

Pictures = Callable[[np.ndarray], np.ndarray]  # rows i32[*] -> u8[* h w 3]


def examples(
    identity: Int[np.ndarray, n], query: Int[np.ndarray, q], gallery: Int[np.ndarray, g], number: int = 6
) -> Int[np.ndarray, k]:
    """Rows of a few queries, evenly spread over those whose identity is in the gallery."""
    present = query[np.isin(identity[query], identity[gallery])]
    return present[:: max(len(present) // number, 1)][:number]


def ranked_lists(
    file: str,
    pictures: Pictures,
    embedding: Float[np.ndarray, "n d"],
    identity: Int[np.ndarray, n],
    shown: Int[np.ndarray, k],
    trial: tuple[Int[np.ndarray, q], Int[np.ndarray, g]],
    valid: np.ndarray,
    distances: Mapping[str, evaluate.Distance],
) -> None:
    """Draws the first ten gallery images of the trial's queries `shown` under each distance. valid: bool[k g]."""
    query, gallery = trial
    queries, images = jnp.asarray(embedding[query]), jnp.asarray(embedding[gallery])
    # All queries are ranked, as in the results: some distances depend on which come together.
    place = np.argsort(query)[np.searchsorted(query, shown, sorter=np.argsort(query))]
    found = [evaluate.nearest(distance(queries, images)[place], valid, 10) for distance in distances.values()]
    rows = gallery[np.stack([order for order, _ in found])]
    correct = identity[rows] == identity[shown][:, None]
    skipped = np.stack([skip for _, skip in found])
    plots.ranked_lists(file, pictures(shown), pictures(rows), correct, skipped, list(distances))


def attention_maps(
    file: str,
    pictures: Pictures,
    model: SAAI,
    variables: dict,
    shown: Int[np.ndarray, k],
    modality: Int[np.ndarray, k],
    names: list[str],
) -> None:
    """Draws where each prototype of the model looks in the pictures of the rows `shown`."""
    images: UInt8[np.ndarray, "k h w 3"] = pictures(shown)
    attention = np.asarray(evaluate.embed(model, variables, jnp.asarray(images), jnp.asarray(modality))[1])
    rows, columns = feature_map(model, *images.shape[1:3])
    plots.attention_maps(file, images, attention.reshape(len(shown), -1, rows, columns), names)
