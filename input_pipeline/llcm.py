"""LLCM: 1,064 identities under nine cameras at low light.

Zhang and Wang, "Diverse Embedding Expansion Network and Low-Light Cross-Modality Benchmark", CVPR 2023.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

import numpy as np

from input_pipeline.images import (
    count_problems,
    gather_errors,
    known_split,
    left_behind,
    list_images,
    raise_all,
    shorten,
    warn,
)
from input_pipeline.index import INFRARED, VISIBLE, DataError, Index, Setting, Trial
from input_pipeline.lists import read_ids, read_list, refuse_mixed_labels, refuse_repeated
from input_pipeline.protocols import draw, nothing_skipped, rows_by_modality, same_camera_skipped

APPLY = "LLCM is given out on application: https://github.com/ZYK100/LLCM"
LAYOUT = (
    "vis/<identity>, nir/<identity>, test_vis/cam{1..9}/<identity>, test_nir/cam{1,2,4..9}/<identity> with images "
    "and idx/{train_vis,train_nir}.txt, idx/test_id.txt"
)
SPLITS = ("train", "test")
FOLDERS = ("vis", "nir", "test_vis", "test_nir", "idx")

TRIALS = 10
_TRAIN_LISTS = {"vis": VISIBLE, "nir": INFRARED}
_TEST_FOLDERS = {"test_vis": VISIBLE, "test_nir": INFRARED}
_TEST_CAMERAS = {"test_vis": (1, 2, 3, 4, 5, 6, 7, 8, 9), "test_nir": (1, 2, 4, 5, 6, 7, 8, 9)}
_IDENTITIES = {"train": 713, "test": 351}
# No publication in hand states these four; they sum to the 46,767 boxes that are published.
_IMAGES = {"train": (16_946, 13_975), "test": (8_680, 7_166)}


def read_index(root: str | os.PathLike, split: str, *, published: bool = True, found: list[str] | None = None) -> Index:
    """The images of 'train' (visible, then infrared, in list order) or 'test' (visible, then infrared, each by
    identity, camera, file name). Cameras of 'train' are those of the file names (_c06_), of 'test' the folders'.

    DataError: missing list, folder or image, a malformed line or file name and, if published, other identities or
    camera folders than published ones; other numbers of images are only warned of (see _IMAGES).
    found: as in `images.raise_all`; warnings are then lines of it too.
    """
    known_split(split, SPLITS, "LLCM")
    rows = _train_rows(root, found) if split == "train" else _test_rows(Path(root), published, found)
    index = Index(*map(np.array, zip(*rows, strict=True) if rows else ((), (), (), ())))
    if published:
        raise_all(_identity_problems(index, split, os.fspath(root)), found)
        warn(image_doubts(index, split, root), found)
    return index


def image_doubts(index: Index, split: str, root: str | os.PathLike) -> list[str]:
    """One line for each modality whose number of images is not the one this module knows, which may be at fault."""
    found = {f"{split} images, {name}": int((index.modality == m).sum()) for name, m in _TRAIN_LISTS.items()}
    return count_problems(found, dict(zip(found, _IMAGES[split], strict=True)), root)


def _identity_problems(index: Index, split: str, source: str) -> list[str]:
    name = f"{split} identities"
    return count_problems({name: len(np.unique(index.identity))}, {name: _IDENTITIES[split]}, source)


def _train_rows(root: str | os.PathLike, found: list[str] | None) -> list[tuple[str, int, int, int]]:
    def of(kind: tuple[str, int]) -> list[tuple[str, int, int, int]]:
        return [(*row, kind[1]) for row in read_list(root, f"idx/train_{kind[0]}.txt", kind[0], found)]

    listed = [row for part in gather_errors(of, _TRAIN_LISTS.items(), found) for row in part]
    identities, labels = [row[1] for row in listed], [row[2] for row in listed]
    refuse_mixed_labels(identities, labels, os.path.join(root, "idx/train_*.txt"), found)
    return gather_errors(lambda row: (row[0], row[1], _camera(row[0]), row[3]), listed, found)


def _camera(path: str) -> int:
    # The name alone is searched: folders above it may well be called something with "cam" or "_c1_".
    found = re.search(r"_c([0-9]{1,3})_", PurePosixPath(path).name)
    if not found:
        raise DataError(f"{path}: names no camera, expected a file name like 0351_c06_s200656_f4830_nir.jpg")
    return int(found[1])


def _test_rows(root: Path, published: bool, found: list[str] | None) -> list[tuple[str, int, int, int]]:
    def cameras(folder: str) -> tuple[str, list[int]]:
        return folder, _camera_folders(root / folder, _TEST_CAMERAS[folder], published, found)

    ids = sorted(read_ids(root / "idx/test_id.txt", found))
    rows = []
    for folder, numbers in gather_errors(cameras, _TEST_FOLDERS, found):
        modality = _TEST_FOLDERS[folder]
        present = {camera: set(os.listdir(root / folder / f"cam{camera}")) for camera in numbers}

        def of(place: tuple[int, int], folder=folder, modality=modality) -> list[tuple[str, int, int, int]]:
            below = f"{folder}/cam{place[1]}/{place[0]:04d}"
            return [(f"{below}/{name}", *place, modality) for name in list_images(root / below)]

        places = [(identity, c) for identity in ids for c in numbers if f"{identity:04d}" in present[c]]
        rows += [row for part in gather_errors(of, places, found) for row in part]
        others = set().union(*present.values()) - {f"{identity:04d}" for identity in ids}
        if others := sorted(name for name in others if not left_behind(name)):
            # Not an error: the released loader leaves them out as well.
            warn([f"{root / folder}: {shorten(others)} not in idx/test_id.txt, not read"], found)
    absent = sorted(set(ids) - {row[1] for row in rows})
    listed = f"identities {shorten(absent)} of idx/test_id.txt"
    raise_all([f"{root}: no images in test_vis, test_nir of {listed}"] if absent else [], found)
    return rows


def _camera_folders(folder: Path, expected: tuple[int, ...], published: bool, found: list[str] | None) -> list[int]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, expected {LAYOUT}")
    names = sorted(name for name in os.listdir(folder) if not left_behind(name))
    wrong = [name for name in names if not re.fullmatch(r"cam[1-9]", name) or not (folder / name).is_dir()]
    raise_all([f"{folder}: {shorten(wrong)} where only folders cam1 to cam9 were expected"] if wrong else [], found)
    cameras = [int(name[3:]) for name in names if name not in wrong]
    if not cameras or (published and cameras != list(expected)):
        held = f"folders of cameras {shorten(cameras) or 'none'}"
        raise_all([f"{folder}: {held}, expected cameras {shorten(expected, 9)}"], found)
    return cameras


def settings(index: Index, *, published: bool = True, variants: str = "AB") -> list[Setting]:
    """The settings of the variants in circulation that are named, any of "ABCD", in that order.

    A: all infrared images are queries; the gallery of trial t holds one visible image of every (identity, camera),
    drawn as the released loader does (`protocols.draw`); the same person under the same camera is skipped; 10
    trials. Published as infrared-to-visible, e.g. by DEEN (54.9 rank-1 / 62.9 mAP).
    B: its mirror, visible queries and a drawn infrared gallery; published as visible-to-infrared in the papers of
    DEEN (62.5 / 65.8) and MDGRN (64.5 / 67.1).
    C: what the released code computes for visible-to-infrared: its matrix is the wrong way round, so that the drawn
    infrared images are the queries and all visible ones the gallery; 10 trials. Published as visible-to-infrared
    in the README of LLCM (DEEN 69.21 / 55.52, AGW 63.72 / 47.21, LbA 54.78 / 40.81); the direction says what is done.
    D: all images of one modality against all of the other, nothing skipped, one trial in each direction. IDKL's
    figures are of this one, after a re-ranking that is no part of the protocol.
    In all four the CMC counts identities.

    index may come from a features file, its rows in any order. DataError: a modality without images and, if
    published, another number of identities than 351 in either modality, for A to C a path that stands in the index
    twice; other numbers of images are only warned of.
    ValueError: an unknown variant.
    """
    if unknown := set(variants) - set("ABCD"):
        raise ValueError(f"LLCM has no variant {shorten(sorted(unknown))}, expected any of A, B, C, D")
    visible, infrared = rows_by_modality(index)
    if published:
        raise_all(_identity_problems(index, "test", "index"))
        for name, rows in zip(_TEST_FOLDERS, (visible, infrared), strict=True):
            raise_all(_identity_problems(index.take(rows), "test", f"index, {name}"))
        warn(image_doubts(index, "test", "index"), None)

    def setting(variant: str, query: int, trials: list[Trial], rule=valid) -> Setting:
        direction = "visible-to-infrared" if query == VISIBLE else "infrared-to-visible"
        shots = "single" if variant in "AB" else "-"
        return Setting("llcm", f"llcm-{variant}", direction, shots, trials, rule, unique_identities=True)

    of = {
        "A": lambda: [setting("A", INFRARED, [Trial(infrared, drawn) for drawn in _draw(index, visible)])],
        "B": lambda: [setting("B", VISIBLE, [Trial(visible, drawn) for drawn in _draw(index, infrared)])],
        "C": lambda: [setting("C", INFRARED, [Trial(drawn, visible) for drawn in _draw(index, infrared)])],
        "D": lambda: [
            setting("D", INFRARED, [Trial(infrared, visible)], nothing_skipped),
            setting("D", VISIBLE, [Trial(visible, infrared)], nothing_skipped),
        ],
    }
    return [s for variant in variants for s in of[variant]()]


def _draw(index: Index, rows: np.ndarray) -> list[np.ndarray]:
    refuse_repeated(index.path[rows], "index")
    cells = defaultdict(list)
    for row in sorted(rows.tolist(), key=lambda row: str(index.path[row])):
        cells[int(index.identity[row]), int(index.camera[row])].append(row)
    return draw(cells, TRIALS)


valid = same_camera_skipped  # visible and infrared cameras share their numbers
