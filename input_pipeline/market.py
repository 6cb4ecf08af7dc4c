"""Market-1501, and DukeMTMC-reID in the same layout: visible images only, for systems that need no other modality.

Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015. DukeMTMC-reID was withdrawn by its authors;
a copy that is there is read, none is linked to.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

import numpy as np

from input_pipeline.images import count_problems, gather_errors, known_split, list_images, raise_all, shorten, warn
from input_pipeline.index import VISIBLE, DataError, Index, Setting, Trial
from input_pipeline.lists import refuse_repeated
from input_pipeline.protocols import counts, same_camera_skipped

LAYOUT = (
    "bounding_box_train, bounding_box_test and query with images called 0001_c1s1_001051_00.jpg or 0001_c2_f0046182.jpg"
)
APPLY = "Market-1501 is at https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html; DukeMTMC-reID was withdrawn"
SPLITS = ("train", "test")
FOLDERS = TRAIN, GALLERY, QUERY = "bounding_box_train", "bounding_box_test", "query"
JUNK = -1  # badly cut boxes of the test folder, which no one ranks; identity 0, people never asked for, is ranked

_FOLDERS = {"train": (TRAIN,), "test": (GALLERY, QUERY)}
_NAME = re.compile(r"(-1|[0-9]{1,9})_c([1-9])(s[0-9]+_|_f)[0-9]+.*")
# Images by folder, junk included: of the 19,732 in Market-1501's test folder 15,913 are ranked.
_PUBLISHED = {
    "market1501": {
        "train": {"identities": 751, TRAIN: 12_936},
        "test": {GALLERY: 19_732, QUERY: 3_368},
        "protocol": {"queries": 3_368, "gallery images": 15_913, "queries with a match": 3_368},
    },
    "dukemtmc": {
        "train": {"identities": 702, TRAIN: 16_522},
        "test": {GALLERY: 17_661, QUERY: 2_228},
        "protocol": {"queries": 2_228, "gallery images": 17_661, "queries with a match": 2_228},
    },
}
DATASETS = tuple(_PUBLISHED)
# Counts that no publication in hand states are warned of.
_CERTAIN = {"market1501": ("identities", TRAIN, GALLERY, QUERY, "queries", "gallery images"), "dukemtmc": ()}


def read_index(
    root: str | os.PathLike,
    split: str,
    *,
    dataset: str = "market1501",
    published: bool = True,
    found: list[str] | None = None,
) -> Index:
    """The images of 'train', or of 'test' (gallery, then query), by file name; identities and cameras are the names'.

    dataset: market1501 or dukemtmc. Junk (identity -1) is left out, distractors (identity 0) are not.
    DataError: missing folder, a file name of another form and, if published, other numbers of training identities
    and of images in a folder than the published ones; those of dukemtmc are only warned of.
    found: as in `images.raise_all`; warnings are then lines of it too.
    """
    _known(dataset)
    known_split(split, SPLITS, dataset)
    root = Path(root)
    folders = _FOLDERS[split]
    names = dict(gather_errors(lambda folder: (folder, list_images(root / folder)), folders, found))
    paths = [f"{folder}/{name}" for folder, listed in names.items() for name in listed]
    if not paths:
        raise DataError(f"{root}: no images in {shorten(folders)}, expected {LAYOUT}")
    rows = gather_errors(lambda path: (path, *_parse(path)), paths, found)
    path, identity, camera = map(np.array, zip(*rows, strict=True) if rows else ((), (), ()))
    index = Index(path, identity, camera, np.full(len(path), VISIBLE))
    kept = index.take(index.identity != JUNK)
    if published:
        counted = {folder: len(names.get(folder, ())) for folder in folders}
        counted |= {"identities": len(np.unique(kept.identity))}
        _judge(counted, _PUBLISHED[dataset][split], dataset, root, found)
    return kept


def _known(dataset: str) -> None:
    if dataset not in _PUBLISHED:
        raise DataError(f"no data set {dataset!r}, expected one of {shorten(_PUBLISHED)}")


def _parse(path: str) -> tuple[int, int]:
    found = _NAME.fullmatch(PurePosixPath(path).stem)
    if not found:
        raise DataError(f"{path}: expected a name like 0001_c1s1_001051_00.jpg or 0001_c2_f0046182.jpg")
    return int(found[1]), int(found[2])


def _judge(
    counted: dict[str, int],
    published: dict[str, int],
    dataset: str,
    source: str | os.PathLike,
    found: list[str] | None = None,
) -> None:
    certain = {name: number for name, number in published.items() if name in _CERTAIN[dataset]}
    raise_all(count_problems(counted, certain, source), found)
    warn(count_problems(counted, {k: v for k, v in published.items() if k not in certain}, source), found)


def settings(index: Index, *, dataset: str = "market1501", published: bool = True) -> list[Setting]:
    """The one setting: rows of query/ against rows of bounding_box_test/ but for junk, one trial.

    The same person under the same camera is skipped, and the CMC counts images. index may come from a features
    file; the two sides are told apart by the folder their paths begin with. DataError: a path of another folder, a
    path that is there twice, a side without images, a query that is junk or a distractor and, if published, other
    numbers of queries and gallery images than the published ones; other numbers of queries with a match, and all
    of dukemtmc, are only warned of.
    """
    _known(dataset)
    refuse_repeated(index.path, "index")
    folder = np.array([str(path).split("/", 1)[0] for path in index.path])
    problems = []
    if other := index.path[~np.isin(folder, (QUERY, GALLERY))].tolist():
        problems.append(f"index: {shorten(other, 3)} not below {QUERY}/ or {GALLERY}/, the folders of the test split")
    query = np.flatnonzero(folder == QUERY).astype(np.int32)
    gallery = np.flatnonzero((folder == GALLERY) & (index.identity != JUNK)).astype(np.int32)
    problems += [
        f"index: no images below {name}/" for name, rows in ((QUERY, query), (GALLERY, gallery)) if not len(rows)
    ]
    if nobody := index.path[query][index.identity[query] <= 0].tolist():
        problems.append(f"index: {shorten(nobody, 3)} of no known identity, expected queries of identities from 1")
    raise_all(problems)
    trial = Trial(query, gallery)
    if published:
        _judge(counts(index, trial, valid), _PUBLISHED[dataset]["protocol"], dataset, f"index, {dataset}")
    return [Setting(dataset, dataset, "visible-to-visible", "-", [trial], valid, unique_identities=False)]


def validation_setting(index: Index, dataset: str = "market1501") -> Setting:
    """Identities held out of the training split, ranked as the test split is: the first image of each identity and
    camera against all images, itself skipped with the others of its camera."""
    cells = np.stack([index.identity, index.camera], 1)
    query = np.sort(np.unique(cells, axis=0, return_index=True)[1]).astype(np.int32)
    trial = Trial(query, np.arange(len(index), dtype=np.int32))
    return Setting(dataset, "validation", "visible-to-visible", "-", [trial], valid, unique_identities=False)


valid = same_camera_skipped
