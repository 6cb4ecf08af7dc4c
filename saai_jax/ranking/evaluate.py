"""From a network to embeddings, and from embeddings to the scores of a protocol's trials."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int, UInt8

from saai_jax import parallel
from saai_jax.affinity.checks import Rows
from saai_jax.augment import LUMINANCE, normalise
from saai_jax.metrics import cmc, rank_metrics

CURVE = 100  # places of a CMC that are kept
Distance = Callable[[Float[Rows, "q d"], Float[Rows, "g d"]], Float[Array, "q g"]]
# An embedding and trials (query rows, gallery rows) of it to the distances f[q g] of each.
TrialDistances = Callable[[Any, Sequence[tuple[np.ndarray, np.ndarray]]], Iterable[Any]]


@functools.partial(jax.jit, static_argnames="function")
def of_pixels(
    function: Callable[..., Array], variables: dict, image: UInt8[Array, "b h w 3"], modality: Int[Array, b]
) -> Float[Array, "b ..."]:
    """A system's embed, maps or pooled of uint8 images."""
    return function(variables, normalise(image), modality)


def extract(
    embed: Callable[..., Array], variables: dict, batches: Iterable[dict[str, np.ndarray]]
) -> Float[np.ndarray, "n d"]:
    """The features that `embed` gives for all images, in the order of the batches; the devices share each batch."""
    mesh = parallel.batch_mesh(jax.local_devices())
    variables = parallel.replicate(parallel.local_copy(variables), mesh)
    over = NamedSharding(mesh, jax.P(parallel.AXIS))
    rows, full = [], 0
    for batch in batches:
        number = len(batch["image"])
        # Filled up, the last and smaller one needs no program of its own.
        full = max(full, -(-number // mesh.size) * mesh.size)
        image, modality = (
            jax.device_put(np.pad(x, ((0, full - number), *((0, 0),) * (x.ndim - 1))), over)
            for x in (batch["image"], batch["modality"])
        )
        rows.append(np.asarray(of_pixels(embed, variables, image, modality))[:number])
    return np.concatenate(rows)


def pixels(batches: Iterable[dict[str, np.ndarray]]) -> Float[np.ndarray, "n d"]:
    """Each image's luminance with its mean removed: the features of nearest neighbour by pixels."""
    rows = []
    for batch in batches:
        gray = (batch["image"].astype(np.float32) / 255) @ np.asarray(LUMINANCE, np.float32)
        gray = gray.reshape(len(gray), -1)
        rows.append(gray - gray.mean(1, keepdims=True))
    return np.concatenate(rows)


def score_trials(
    embedding: Float[np.ndarray, "n d"],
    identity: Int[np.ndarray, n],
    camera: Int[np.ndarray, n],
    trials: Sequence[tuple[np.ndarray, np.ndarray]],
    valid: Callable[..., np.ndarray],
    distance: Distance,
    *,
    unique_identities: bool,
    together: TrialDistances | None = None,
) -> list[dict[str, Any]]:
    """One dict of a trial: rank1, rank5, rank10, rank20, map, minp in percent; queries and gallery in images.

    Beside them cmc, percent by place, as long as the gallery has places (identities if these are counted) and no longer
    than CURVE, and per_query, of the queries with a match: query i[m], rows of the arrays, and rank1 (0 or 1), ap and
    inp f[m] in [0, 1]. Queries without a true match are left out of the means.

    trials: (query rows, gallery rows) of the arrays. valid: the protocol's rule, see `input_pipeline.index.Setting`.
    unique_identities: the CMC counts identities, not images. together: distance of all trials at once, where that saves
    work (`affinity.aim_trials`).
    Raises ValueError for a trial without any true match and for a distance that is not finite.
    """
    pairs = ((embedding[query], embedding[gallery]) for query, gallery in trials)
    matrices = together(embedding, trials) if together else (distance(*pair) for pair in pairs)
    scores = []
    for (query, gallery), matrix in zip(trials, matrices, strict=True):
        skip_free = valid(identity[query], camera[query], identity[gallery], camera[gallery])
        result = rank_metrics(matrix, identity[query], identity[gallery], skip_free)
        rank = result.identity_rank if unique_identities else result.rank
        places = len(np.unique(identity[gallery])) if unique_identities else len(gallery)
        curve, found = 100 * cmc(rank, CURVE), result.matched
        precision, penalty = result.average_precision[found], result.inverse_negative_penalty[found]
        scores.append(
            {f"rank{k}": float(curve[k - 1]) for k in (1, 5, 10, 20)}
            | {key: 100 * float(x.mean(dtype=np.float64)) for key, x in (("map", precision), ("minp", penalty))}
            | {"queries": len(precision), "gallery": len(gallery), "cmc": curve[:places].tolist()}
            | {"per_query": {"query": query[found], "rank1": rank[found] == 0, "ap": precision, "inp": penalty}}
        )
    return scores
