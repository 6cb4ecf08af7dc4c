"""RegDB: 412 identities, ten visible and ten thermal pictures each, ten published splits into halves.

Nguyen et al., "Person Recognition System Based on a Combination of Body Images from Visible Light and Thermal
Cameras", Sensors 2017. Published figures train ten models and average: split t is tested with the model of split t.
"""

from __future__ import annotations

import os

import numpy as np

from input_pipeline.images import collect, count_problems, fail, known_split, read_list, refuse_mixed_labels
from input_pipeline.index import INFRARED, VISIBLE, DataError, Index, Setting, Trial

APPLY = (
    "RegDB is given out on application: http://dm.dongguk.edu/link.html "
    "(there called Dongguk Body-based Person Recognition Database, DBPerson-Recog-DB1)"
)
LAYOUT = "Visible/<identity>/*.bmp, Thermal/<identity>/*.bmp and idx/{train,test}_{visible,thermal}_{1..10}.txt"
SPLITS = ("train", "test")

FOLDS = range(1, 11)
_FOLDERS = ("Visible", "Thermal")
_PUBLISHED = {"identities": 206, "visible images": 2060, "thermal images": 2060}


def read_index(root: str | os.PathLike, split: str, *, fold: int = 1, published: bool = True) -> Index:
    """The images of 'train' or 'test' in one of the ten folds: visible (camera 1), then thermal (2), in list order.

    The identity is the number of the image's folder. The lists' label column counts the identities of one split
    anew, so the same label is another person in the other split; it is checked and not used.
    DataError: missing list or image, a malformed line, labels that do not fit the folders and, if published,
    other numbers of identities and images than 206, 2,060 and 2,060.
    """
    known_split(split, SPLITS, "RegDB")
    if fold not in FOLDS:
        raise DataError(f"RegDB has no fold {fold}, expected 1 to 10")
    lists = collect(lambda folder: read_list(root, f"idx/{split}_{folder.lower()}_{fold}.txt", folder), _FOLDERS)
    path, identity, label = zip(*lists[0], *lists[1], strict=True)
    modality = np.repeat([VISIBLE, INFRARED], [len(rows) for rows in lists])
    source = os.path.join(root, f"idx/{split}_*_{fold}.txt")
    refuse_mixed_labels(identity, label, source)
    index = Index(np.array(path), np.array(identity), modality + 1, modality)
    if published:
        fail(_count_problems(index, source))
    return index


def settings(index: Index, *, published: bool = True) -> list[Setting]:
    """Visible-to-infrared and infrared-to-visible, one trial each: all images of one modality against all of the other.

    DataError: an index without one of the modalities and, if published, other sizes than 2,060 against 2,060.
    """
    visible, thermal = (np.flatnonzero(index.modality == modality).astype(np.int32) for modality in (VISIBLE, INFRARED))
    fail(["index: no images of one modality, expected both"] if not len(visible) or not len(thermal) else [])
    if published:
        fail(_count_problems(index, "index"))
    return [
        Setting("regdb", "regdb", direction, "-", [trial], valid, unique_identities=False)
        for direction, trial in (
            ("visible-to-infrared", Trial(visible, thermal)),
            ("infrared-to-visible", Trial(thermal, visible)),
        )
    ]


def valid(
    query_identity: np.ndarray, query_camera: np.ndarray, gallery_identity: np.ndarray, gallery_camera: np.ndarray
) -> np.ndarray:
    """bool[q g], True throughout: each of the two cameras is on one side only, so there is nothing to skip."""
    return np.ones((len(query_identity), len(gallery_identity)), bool)


def _count_problems(index: Index, source: str) -> list[str]:
    found = {
        "identities": len(np.unique(index.identity)),
        "visible images": int((index.modality == VISIBLE).sum()),
        "thermal images": int((index.modality == INFRARED).sum()),
    }
    return count_problems(found, _PUBLISHED, source)
