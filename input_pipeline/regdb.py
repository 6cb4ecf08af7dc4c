"""RegDB: 412 identities, ten visible and ten thermal pictures each, ten published splits into halves.

Nguyen et al., "Person Recognition System Based on a Combination of Body Images from Visible Light and Thermal
Cameras", Sensors 2017. The protocol trains ten models and averages: split t is tested with the model of split t. Some
published figures are of one split.
"""

from __future__ import annotations

import os

import numpy as np

from input_pipeline.images import count_problems, gather_errors, known_split, raise_all
from input_pipeline.index import INFRARED, VISIBLE, DataError, Index, Setting, Trial
from input_pipeline.lists import read_list, refuse_mixed_labels
from input_pipeline.protocols import nothing_skipped, refuse_other_counts, rows_by_modality

APPLY = (
    "RegDB is given out on application: http://dm.dongguk.edu/link.html "
    "(there called Dongguk Body-based Person Recognition Database, DBPerson-Recog-DB1)"
)
LAYOUT = "Visible/<identity>/*.bmp, Thermal/<identity>/*.bmp and idx/{train,test}_{visible,thermal}_{1..10}.txt"
SPLITS = ("train", "test")
FOLDERS = ("Visible", "Thermal", "idx")

FOLDS = range(1, 11)
_FOLDERS = {"Visible": VISIBLE, "Thermal": INFRARED}
_PUBLISHED = {"identities": 206, "visible images": 2060, "thermal images": 2060}
_PUBLISHED_COUNTS = {"queries": 2060, "gallery images": 2060, "queries with a match": 2060}


def read_index(
    root: str | os.PathLike, split: str, *, fold: int = 1, published: bool = True, found: list[str] | None = None
) -> Index:
    """The images of 'train' or 'test' in one of the ten folds: visible (camera 1), then thermal (2), in list order.

    The identity is the number of the image's folder. The lists' label column counts the identities of one split
    anew, so the same label is another person in the other split; it is checked and not used.
    DataError: missing list or image, a malformed line, labels that do not fit the folders and, if published,
    other numbers of identities and images than 206, 2,060 and 2,060. found: as in `images.raise_all`.
    """
    known_split(split, SPLITS, "RegDB")
    if fold not in FOLDS:
        raise DataError(f"RegDB has no fold {fold}, expected 1 to 10")

    def listed(kind: tuple[str, int]) -> list[tuple[str, int, int, int]]:
        rows = read_list(root, f"idx/{split}_{kind[0].lower()}_{fold}.txt", kind[0], found)
        return [(*row, kind[1]) for row in rows]

    rows = [row for part in gather_errors(listed, _FOLDERS.items(), found) for row in part]
    path, identity, label, modality = zip(*rows, strict=True) if rows else ((), (), (), ())
    source = os.path.join(root, f"idx/{split}_*_{fold}.txt")
    refuse_mixed_labels(identity, label, source, found)
    index = Index(np.array(path), np.array(identity), np.array(modality, int) + 1, np.array(modality))
    if published:
        raise_all(_count_problems(index, source), found)
    return index


def settings(index: Index, *, published: bool = True) -> list[Setting]:
    """Visible-to-infrared and infrared-to-visible, one trial each: all images of one modality against all of the other.

    The figures of one fold, as SAAI, MPANet and IDKL report; `ten_folds` for the mean of ten.
    DataError: an index without one of the modalities and, if published, other sizes than 2,060 against 2,060 or a
    query without a match.
    """
    visible, thermal = rows_by_modality(index)
    if published:
        raise_all(_count_problems(index, "index"))
    result = [
        Setting("regdb", "regdb", direction, "-", [trial], valid, unique_identities=False)
        for direction, trial in (
            ("visible-to-infrared", Trial(visible, thermal)),
            ("infrared-to-visible", Trial(thermal, visible)),
        )
    ]
    for setting in result if published else ():
        refuse_other_counts(index, setting, _PUBLISHED_COUNTS)
    return result


def ten_folds(index: Index, *, published: bool = True) -> list[Setting]:
    """Both directions with ten trials each, one a fold: the mean over ten models that AGW, CAJ, DEEN and others report.

    index is that of ten features files one after the other, in the order of the folds, each of the test images of
    its fold; all folds are equally large, so every tenth of the rows is one. DataError: rows that are no ten equal
    parts, two parts with the same images (one fold twice: a model must be tested on its own fold) and whatever
    `settings` refuses of a part.
    """
    rows, rest = divmod(len(index), len(FOLDS))
    if rest or not rows:
        raise DataError(f"index: {len(index):,} rows, expected those of ten equally large folds, one after the other")
    parts = [np.arange(start, start + rows, dtype=np.int32) for start in range(0, len(index), rows)]

    def of_fold(fold: int) -> list[Setting]:
        try:
            return settings(index.take(parts[fold - 1]), published=published)
        except DataError as error:
            raise DataError("\n".join(f"fold {fold}: {line}" for line in str(error).splitlines())) from error

    images = {}
    for fold, part in zip(FOLDS, parts, strict=True):
        if (other := images.setdefault(frozenset(index.path[part].tolist()), fold)) != fold:
            raise DataError(f"index: folds {other} and {fold} have the same images, expected ten different test sets")
    joined = []
    for directions in zip(*gather_errors(of_fold, FOLDS), strict=True):
        trials = [Trial(*(part[side] for side in s.trials[0])) for part, s in zip(parts, directions, strict=True)]
        joined.append(directions[0]._replace(protocol="regdb-ten-folds", trials=trials))
    return joined


# Each of the two cameras is on one side only, so there is nothing to skip, whatever numbers a features file gives them.
valid = nothing_skipped


def _count_problems(index: Index, source: str) -> list[str]:
    found = {
        "identities": len(np.unique(index.identity)),
        "visible images": int((index.modality == VISIBLE).sum()),
        "thermal images": int((index.modality == INFRARED).sum()),
    }
    return count_problems(found, _PUBLISHED, source)
