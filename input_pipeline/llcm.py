"""LLCM: 1,064 identities under nine cameras at low light.

Zhang and Wang, "Diverse Embedding Expansion Network and Low-Light Cross-Modality Benchmark", CVPR 2023.
"""

from __future__ import annotations

import os
import random
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

import numpy as np
from absl import logging

from input_pipeline.images import (
    collect,
    count_problems,
    fail,
    known_split,
    list_images,
    read_ids,
    read_list,
    refuse_mixed_labels,
    some,
)
from input_pipeline.index import INFRARED, VISIBLE, DataError, Index, Setting, Trial

APPLY = "LLCM is given out on application: https://github.com/ZYK100/LLCM"
LAYOUT = (
    "vis/<identity>, nir/<identity>, test_vis/cam{1..9}/<identity>, test_nir/cam{1,2,4..9}/<identity> with images "
    "and idx/{train_vis,train_nir}.txt, idx/test_id.txt"
)
SPLITS = ("train", "test")

TRIALS = 10
_TRAIN_LISTS = {"vis": VISIBLE, "nir": INFRARED}
_TEST_FOLDERS = {"test_vis": VISIBLE, "test_nir": INFRARED}
_TEST_CAMERAS = {"test_vis": (1, 2, 3, 4, 5, 6, 7, 8, 9), "test_nir": (1, 2, 4, 5, 6, 7, 8, 9)}
_IDENTITIES = {"train": 713, "test": 351}
# No publication in hand states these four; they sum to the 46,767 boxes that are published.
_IMAGES = {"train": (16_946, 13_975), "test": (8_680, 7_166)}


def read_index(root: str | os.PathLike, split: str, *, published: bool = True) -> Index:
    """The images of 'train' (visible, then infrared, in list order) or 'test' (visible, then infrared, each by
    identity, camera, file name). Cameras of 'train' are those of the file names (_c06_), of 'test' the folders'.

    DataError: missing list, folder or image, a malformed line or file name and, if published, other identities or
    camera folders than published ones; other numbers of images are only warned of (see _IMAGES).
    """
    known_split(split, SPLITS, "LLCM")
    rows = _train_rows(root) if split == "train" else _test_rows(Path(root), published)
    index = Index(*map(np.array, zip(*rows, strict=True)))
    if published:
        fail(_identity_problems(index, split, os.fspath(root)))
        for line in image_doubts(index, split, root):
            logging.warning("%s", line)
    return index


def image_doubts(index: Index, split: str, root: str | os.PathLike) -> list[str]:
    """One line for each modality whose number of images is not the one this module knows, which may be at fault."""
    found = {f"{split} images, {name}": int((index.modality == m).sum()) for name, m in _TRAIN_LISTS.items()}
    return count_problems(found, dict(zip(found, _IMAGES[split], strict=True)), root)


def _identity_problems(index: Index, split: str, source: str) -> list[str]:
    name = f"{split} identities"
    return count_problems({name: len(np.unique(index.identity))}, {name: _IDENTITIES[split]}, source)


def _train_rows(root: str | os.PathLike) -> list[tuple[str, int, int, int]]:
    lists = collect(lambda folder: read_list(root, f"idx/train_{folder}.txt", folder), _TRAIN_LISTS)
    listed = [(*row, modality) for rows, modality in zip(lists, _TRAIN_LISTS.values(), strict=True) for row in rows]
    refuse_mixed_labels([row[1] for row in listed], [row[2] for row in listed], os.path.join(root, "idx/train_*.txt"))
    cameras = collect(lambda row: _camera(row[0]), listed)
    return [(path, identity, c, modality) for (path, identity, _, modality), c in zip(listed, cameras, strict=True)]


def _camera(path: str) -> int:
    # The name alone is searched: folders above it may well be called something with "cam" or "_c1_".
    found = re.search(r"_c(\d+)_", PurePosixPath(path).name)
    if not found:
        raise DataError(f"{path}: names no camera, expected a file name like 0351_c06_s200656_f4830_nir.jpg")
    return int(found[1])


def _test_rows(root: Path, published: bool) -> list[tuple[str, int, int, int]]:
    ids = sorted(read_ids(root / "idx/test_id.txt"))
    cameras = collect(lambda folder: _camera_folders(root / folder, _TEST_CAMERAS[folder], published), _TEST_FOLDERS)
    rows = []
    for (folder, modality), numbers in zip(_TEST_FOLDERS.items(), cameras, strict=True):
        present = {camera: set(os.listdir(root / folder / f"cam{camera}")) for camera in numbers}
        for identity in ids:
            for camera in (camera for camera in numbers if f"{identity:04d}" in present[camera]):
                below = f"{folder}/cam{camera}/{identity:04d}"
                rows += [(f"{below}/{name}", identity, camera, modality) for name in list_images(root / below)]
        if others := sorted(set().union(*present.values()) - {f"{identity:04d}" for identity in ids}):
            # Not an error: the released loader leaves them out as well.
            logging.warning("%s: %s not in idx/test_id.txt, not read", root / folder, some(others))
    if absent := sorted(set(ids) - {row[1] for row in rows}):
        raise DataError(f"{root}: no images in test_vis, test_nir of identities {some(absent)} of idx/test_id.txt")
    return rows


def _camera_folders(folder: Path, expected: tuple[int, ...], published: bool) -> list[int]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, expected {LAYOUT}")
    names = sorted(os.listdir(folder))
    if wrong := [name for name in names if not re.fullmatch(r"cam[1-9]", name)]:
        raise DataError(f"{folder}: {some(wrong)} where only folders cam1 to cam9 were expected")
    cameras = [int(name[3:]) for name in names]
    if not cameras or (published and cameras != list(expected)):
        raise DataError(f"{folder}: folders of cameras {some(cameras) or 'none'}, expected cameras {some(expected, 9)}")
    return cameras


def settings(index: Index, *, published: bool = True) -> list[Setting]:
    """Variant A (infrared-to-visible) and its mirror B (visible-to-infrared), single-shot, 10 trials each.

    All images of one modality are queries, in index order. The gallery of trial t holds one image of the other
    modality for every (identity, camera), identities then cameras ascending, drawn as the released loader does:
    random.seed(t), then random.choice(sorted files) for one after the other. index may come from a features file.
    DataError: a modality without images and, if published, another number of identities than 351.
    """
    if published:
        fail(_identity_problems(index, "test", "index"))
    queries = {m: np.flatnonzero(index.modality == m).astype(np.int32) for m in (VISIBLE, INFRARED)}
    fail(["index: no images of one modality, expected both"] if not all(map(len, queries.values())) else [])
    return [
        Setting(
            "llcm",
            protocol,
            direction,
            "single",
            [Trial(queries[query], gallery) for gallery in _draw(index, queries[gallery_modality])],
            valid,
            unique_identities=True,
        )
        for protocol, direction, query, gallery_modality in (
            ("llcm-A", "infrared-to-visible", INFRARED, VISIBLE),
            ("llcm-B", "visible-to-infrared", VISIBLE, INFRARED),
        )
    ]


def _draw(index: Index, rows: np.ndarray) -> list[np.ndarray]:
    cells = defaultdict(list)
    for row in sorted(rows.tolist(), key=lambda row: str(index.path[row])):
        cells[int(index.identity[row]), int(index.camera[row])].append(row)
    generators = [random.Random(seed) for seed in range(TRIALS)]
    return [np.array([generator.choice(cells[cell]) for cell in sorted(cells)], np.int32) for generator in generators]


def valid(
    query_identity: np.ndarray, query_camera: np.ndarray, gallery_identity: np.ndarray, gallery_camera: np.ndarray
) -> np.ndarray:
    """bool[q g], False for the same person under the same camera: visible and infrared cameras share their numbers."""
    return (query_identity[:, None] != gallery_identity) | (query_camera[:, None] != gallery_camera)
