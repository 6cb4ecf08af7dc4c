"""Evaluation protocols by name, and what more than one of them does: the draws, the rules and the counts."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from input_pipeline.images import count_problems, raise_all, shorten
from input_pipeline.index import INFRARED, VISIBLE, Index, Setting, Trial

# What each data set is ranked by where nothing is named.
DEFAULT = {
    "sysu": ("sysu-official",),
    "regdb": ("regdb",),
    "llcm": ("llcm-A", "llcm-B"),
    "market1501": ("market1501",),
    "dukemtmc": ("dukemtmc",),
    "custom": ("custom",),
}
OTHERS = {"sysu": ("sysu-random",), "regdb": ("regdb-ten-folds",), "llcm": ("llcm-C", "llcm-D")}
# Any data set can be ranked by lists of one's own.
KNOWN = {name: tuple(dict.fromkeys((*first, *OTHERS.get(name, ()), "custom"))) for name, first in DEFAULT.items()}


def named(dataset: str, words: str) -> tuple[str, ...]:
    """The protocols of a data set that the comma-separated words name; without words, its default ones.

    Raises ValueError for an unknown name, one of another data set and one that is named twice.
    """
    if not words:
        return DEFAULT[dataset]
    names = tuple(word.strip() for word in words.split(","))
    for name in names:
        if name in KNOWN[dataset]:
            continue
        known = f"of {dataset} there are {', '.join(KNOWN[dataset])}"
        owners = [other for other, protocols in KNOWN.items() if name in protocols]
        what = f"is one of {owners[0]}" if owners else "is unknown"
        raise ValueError(f"protocol={words!r}: {name!r} {what}; {known}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"protocol={words!r}: {shorten(twice)} named more than once")
    return names


def rows_by_modality(index: Index) -> tuple[np.ndarray, np.ndarray]:
    """Rows i32[*] of the visible and of the infrared images. DataError: none of one modality."""
    visible, infrared = (np.flatnonzero(index.modality == m).astype(np.int32) for m in (VISIBLE, INFRARED))
    raise_all(["index: no images of one modality, expected both"] if not len(visible) or not len(infrared) else [])
    return visible, infrared


def draw(cells: Mapping[tuple[int, int], Sequence[int]], trials: int) -> list[np.ndarray]:
    """One row of every (identity, camera) for each trial: i32[g] by identity, then camera, ascending.

    cells: the rows of each in the order of their sorted file names. Trial t is the draw of the AGW family:
    random.seed(t), then random.choice of one cell after the other.
    """
    # Python's own generator: numpy's would draw other galleries than the published ones.
    generators = [random.Random(seed) for seed in range(trials)]
    return [np.array([g.choice(cells[cell]) for cell in sorted(cells)], np.int32) for g in generators]


def nothing_skipped(
    query_identity: np.ndarray, query_camera: np.ndarray, gallery_identity: np.ndarray, gallery_camera: np.ndarray
) -> np.ndarray:
    """bool[q g], True throughout, whatever the cameras are called."""
    return np.ones((len(query_identity), len(gallery_identity)), bool)


def same_camera_skipped(
    query_identity: np.ndarray, query_camera: np.ndarray, gallery_identity: np.ndarray, gallery_camera: np.ndarray
) -> np.ndarray:
    """bool[q g], False for the same person under the same camera, Market-1501's rule; others under it stay."""
    return (query_identity[:, None] != gallery_identity) | (query_camera[:, None] != gallery_camera)


def counts(index: Index, trial: Trial, valid: Callable[..., np.ndarray]) -> dict[str, int]:
    """'queries', 'gallery images' and 'queries with a match': those with a valid image of their identity."""
    # A rule sees identities and cameras only, so one of each pair stands for all: no matrix of images by images.
    query, number = np.unique(
        np.stack([index.identity[trial.query], index.camera[trial.query]], 1), axis=0, return_counts=True
    )
    gallery = np.unique(np.stack([index.identity[trial.gallery], index.camera[trial.gallery]], 1), axis=0)
    match = query[:, :1] == gallery[:, 0]
    match &= valid(query[:, 0], query[:, 1], gallery[:, 0], gallery[:, 1])
    return {
        "queries": len(trial.query),
        "gallery images": len(trial.gallery),
        "queries with a match": int(number[match.any(1)].sum()),
    }


def refuse_other_counts(index: Index, setting: Setting, published: Mapping[str, int]) -> None:
    """DataError naming the first trial of a setting of which a count is not the published one; see `counts`."""
    for t, trial in enumerate(setting.trials):
        source = f"{setting.protocol}, {setting.direction}, shots {setting.shots}, trial {t}"
        raise_all(count_problems(counts(index, trial, setting.valid), published, source))
