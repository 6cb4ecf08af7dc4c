"""Features in the plane: which images are shown, and their t-SNE map."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from saai_jax.affinity.checks import checked
from saai_jax.affinity.cosine import unit_rows

LEAST = 4  # images below which a map says nothing
EXACT = 1000


def people(
    identity: Int[np.ndarray, n],
    modality: Int[np.ndarray, n],
    rows: Int[np.ndarray, m] | None = None,
    *,
    identities: int = 8,
    images: int = 20,
) -> Int[np.ndarray, k]:
    """Rows of a few identities, evenly spread over those seen in both modalities, up to `images` of each modality.

    modality: 0 visible, 1 infrared. rows: what is chosen from, all by default. Sorted; the same for the same arrays.
    """
    rows = np.arange(len(identity)) if rows is None else np.unique(rows)
    both = np.intersect1d(identity[rows[modality[rows] == 0]], identity[rows[modality[rows] == 1]])
    both = both[np.unique(np.linspace(0, len(both) - 1, identities).astype(int))] if len(both) else both
    chosen = [np.zeros(0, np.int64)]
    for person in both:
        for m in (0, 1):
            own = rows[(identity[rows] == person) & (modality[rows] == m)]
            chosen.append(own[np.unique(np.linspace(0, len(own) - 1, images).astype(int))])
    return np.sort(np.concatenate(chosen))


def tsne(feature: Float[np.ndarray, "n d"], *, seed: int = 0) -> Float[np.ndarray, "n 2"]:
    """t-SNE of the rows scaled to length 1, so that near is alike by cosine; the same for the same rows and seed.

    Perplexity 30, or a third of the images if they are fewer. Raises ValueError for fewer than 4 rows and as
    `checks.checked`. van der Maaten and Hinton, JMLR 2008, as scikit-learn computes it.
    """
    from sklearn.manifold import TSNE  # takes a second that only a report should wait

    feature = np.asarray(checked(feature, "feature"))
    if len(feature) < LEAST:
        raise ValueError(f"feature is f32{list(feature.shape)}, expected [n d] of at least {LEAST} rows")
    perplexity = min(30.0, (len(feature) - 1) / 3)
    start = "pca" if feature.shape[1] > 1 else "random"
    # Of few images the exact gradient is the faster one: the threads of the other wait on each other.
    method = "exact" if len(feature) <= EXACT else "barnes_hut"
    return TSNE(perplexity=perplexity, init=start, method=method, random_state=seed).fit_transform(unit_rows(feature))
