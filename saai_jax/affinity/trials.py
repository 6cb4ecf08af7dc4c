"""Distances of all trials of a protocol, which rank the same queries against galleries drawn from the same images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from saai_jax.affinity.aim import aim
from saai_jax.affinity.checks import Rows, checked
from saai_jax.affinity.cosine import cosine, similarity
from saai_jax.affinity.gallery import Gallery

Trials = Sequence[tuple[np.ndarray, np.ndarray]]  # query rows i[q] and gallery rows i[g] of an embedding
SHARED_BYTES = 1 << 31  # of similarities that are kept while the trials last


def shared(embedding: Float[Rows, "n d"], trials: Trials):
    """All queries and all gallery rows of the trials, and their similarities f[q g]; None if that is no saving."""
    queries, images = (np.unique(np.concatenate([trial[i] for trial in trials])) for i in (0, 1))
    apart = sum(len(query) * len(gallery) for query, gallery in trials)
    if len(queries) * len(images) >= apart or 4 * len(queries) * len(images) > SHARED_BYTES:
        return None
    return queries, images, jax.jit(similarity)(embedding[queries], embedding[images])


@jax.jit
def _picked(affinity, rows, columns):
    return affinity[rows][:, columns]


def cosine_trials(embedding: Float[Rows, "n d"], trials: Trials) -> Iterator[Any]:
    """cosine(embedding[query], embedding[gallery]) of every trial (query rows, gallery rows).

    Raises ValueError as `checks.checked` when the first is asked for.
    """
    embedding = np.asarray(checked(embedding, "embedding"))
    common = shared(embedding, trials)
    for query, gallery in trials:
        if common is None:
            yield cosine(embedding[query], embedding[gallery])
        else:
            queries, images, affinity = common
            yield 1 - _picked(affinity, np.searchsorted(queries, query), np.searchsorted(images, gallery))


def aim_trials(embedding: Float[Rows, "n d"], trials: Trials, *, k1: int, k2: int, **how: Any) -> Iterator[Any]:
    """aim(embedding[query], embedding[gallery], k1=, k2=, variant=, remove=, expand=) of every trial.

    Raises ValueError as `cosine_trials` and `aim`.
    """
    embedding = np.asarray(checked(embedding, "embedding"))
    common = shared(embedding, trials) if how.get("remove", True) and min(len(g) for _, g in trials) > k1 * k2 else None
    if common is None:
        for query, gallery in trials:
            yield aim(embedding[query], embedding[gallery], k1=k1, k2=k2, **how)
        return
    queries, images, affinity = common
    k2 = k2 if how.get("expand", True) else 1
    # The lists of a trial's gallery are those of all images without the others: so much longer they have to be.
    spare = int(2 * max(k1, k2) * len(images) / min(len(g) for _, g in trials))
    whole = Gallery.build(embedding[images], k1=k1, k2=k2, variant=how.get("variant", "released"), spare=spare)
    for query, gallery in trials:
        columns = np.searchsorted(images, gallery)
        yield whole.subset(columns).revise(_picked(affinity, np.searchsorted(queries, query), columns))
