"""What benchmarks.affinity measures against: the formulas written plainly in torch, and as numpy loops.

They are what one writes down from the papers with a library's own functions.
"""

from __future__ import annotations

import numpy as np


def cosine(query, gallery):
    """1 - cosine similarity of torch tensors f32[q d], f32[g d]."""
    from torch.nn.functional import normalize

    return 1 - normalize(query) @ normalize(gallery).T


def aim(query, gallery, *, k1: int, k2: int):
    """AIM as released, on torch tensors f32[q d], f32[g d], with whole matrices."""
    from torch.nn.functional import normalize

    query, gallery = normalize(query), normalize(gallery)
    query_gallery, gallery_gallery = query @ gallery.T, gallery @ gallery.T

    def strongest(affinity):
        return affinity.masked_fill(affinity < affinity.topk(k1).values[:, -1:], 0)

    kept = strongest(gallery_gallery)
    neighbours = gallery_gallery.topk(k2).indices
    # One neighbour at a time: kept[neighbours].mean(1) holds k2 matrices and takes longer.
    expanded = kept[neighbours[:, 0]]
    for i in range(1, k2):
        expanded += kept[neighbours[:, i]]
    return -(normalize(strongest(query_gallery)) @ normalize(expanded / k2).T) - query_gallery


def aim_float64(query: np.ndarray, gallery: np.ndarray, *, k1: int, k2: int) -> np.ndarray:
    """The same in float64 numpy, to measure errors against."""

    def unit(x):
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)

    def strongest(affinity):
        return np.where(affinity >= np.sort(affinity, axis=1)[:, -k1, None], affinity, 0)

    query, gallery = unit(query.astype(np.float64)), unit(gallery.astype(np.float64))
    query_gallery, gallery_gallery = query @ gallery.T, gallery @ gallery.T
    neighbours = np.argsort(-gallery_gallery, axis=1, kind="stable")[:, :k2]
    expanded = strongest(gallery_gallery)[neighbours].mean(1)
    return -unit(strongest(query_gallery)) @ unit(expanded).T - query_gallery


def score(distance: np.ndarray, identity: tuple, camera: tuple, *, filtering: str) -> dict[str, float]:
    """SYSU-MM01's scores in percent, one query after the other; identity, camera: of queries and of gallery.

    A query of camera 3 skips gallery images of camera 2; the CMC counts every identity once, where it is first met;
    queries without a match are left out. filtering: how skipped images leave a query's list, by "numpy", or item by
    item in "python" in each of the two passes, as the evaluation code does that the papers of this field share.
    """
    ranks, precisions, penalties = [], [], []
    order = np.argsort(distance, axis=1)

    def lists():
        for row, own, place in zip(order, identity[0], camera[0], strict=True):
            found = np.where((camera[1][row] == 2) & (place == 3), -1, identity[1][row])
            found = found[found >= 0] if filtering == "numpy" else np.array([name for name in found if name >= 0])
            if own in found:
                yield own, found

    for own, found in lists():
        names, first = np.unique(found, return_index=True)
        ranks.append(np.flatnonzero(names[np.argsort(first)] == own)[0])
    for own, found in lists():
        places = np.flatnonzero(found == own) + 1
        precisions.append((np.arange(1, len(places) + 1) / places).mean())
        penalties.append(len(places) / places[-1])
    means = {"rank1": np.array(ranks) < 1, "map": precisions, "minp": penalties}
    return {name: 100 * float(np.mean(values)) for name, values in means.items()}


def k_reciprocal(query: np.ndarray, gallery: np.ndarray, *, k1: int = 20, k2: int = 6, weight: float = 0.3):
    """k-reciprocal encoding (Zhong et al., CVPR 2017) by loops over images, f32[q g], as their code has it:

    distances over each image's largest, weights over their sum, more than two thirds for the half sets.
    """
    rows = np.concatenate([query, gallery])
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    distance = np.maximum(2 - 2 * rows @ rows.T, 0)
    np.fill_diagonal(distance, 0)
    distance /= distance.max(1, keepdims=True)
    order = np.argsort(distance, axis=1)[:, : max(k1 + 1, k2)]

    def reciprocal(i, k):
        listed = order[i, : k + 1]
        return listed[(order[listed, : k + 1] == i).any(1)]

    encoding = np.zeros_like(distance)
    for i in range(len(rows)):
        members = own = reciprocal(i, k1)
        for j in own:
            half = reciprocal(j, round(k1 / 2))
            if 3 * len(np.intersect1d(half, own)) > 2 * len(half):
                members = np.append(members, half)
        members = np.unique(members)
        weights = np.exp(-distance[i, members])
        encoding[i, members] = weights / weights.sum()
    encoding = np.stack([encoding[nearest].mean(0) for nearest in order[:, :k2]])

    of_gallery = encoding[len(query) :]
    holders = [np.flatnonzero(column) for column in of_gallery.T]
    jaccard = np.empty((len(query), len(gallery)), np.float32)
    for i in range(len(query)):
        least = np.zeros(len(gallery), np.float32)
        for j in np.flatnonzero(encoding[i]):
            least[holders[j]] += np.minimum(encoding[i, j], of_gallery[holders[j], j])
        jaccard[i] = 1 - least / (2 - least)  # rows sum to 1: sums of maxima are 2 less those of minima
    return (1 - weight) * jaccard + weight * distance[: len(query), len(query) :]
