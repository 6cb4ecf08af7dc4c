"""One pass over a data set on disk, with a list of everything that is wrong with it."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from input_pipeline import llcm, regdb, sysu
from input_pipeline.images import Folder, decode, some
from input_pipeline.index import INFRARED, VISIBLE, DataError, Index

T = TypeVar("T")

DATASETS = {"sysu": sysu, "regdb": regdb, "llcm": llcm}
SAMPLED = 4  # images of an identity in one modality that published samplers draw for a batch (4 + 4)


def examine(dataset: str, root: str | os.PathLike, **options) -> list[str]:
    """Every problem of a data set below root, one a line; lines that begin with 'warning:' do not stop training.

    options are those of the data set's read_index (published, fold, split_dir). Every split is read, the protocol
    of the test split is drawn, and every listed image is decoded. DataError: an unknown data set, nothing else.
    """
    if dataset not in DATASETS:
        raise DataError(f"no data set {dataset!r}, expected one of {some(DATASETS)}")
    module, root = DATASETS[dataset], Path(root)
    if not root.is_dir() or not any(root.iterdir()):
        return [f"{root}: missing or empty folder. {module.APPLY}. Expected layout: {module.LAYOUT}"]
    found: list[str] = []
    published = options.pop("published", True)
    indices: dict[str, Index] = {}
    for split in module.SPLITS:
        read = functools.partial(module.read_index, root, split, **options)
        index = _attempt(read, published, found)
        if index is not None:
            indices[split] = index
            found += _modality_problems(index, split)
            if published and module is llcm:
                found += [f"warning: {line}" for line in llcm.image_doubts(index, split, root)]
    found += _overlaps(indices)
    if "test" in indices:
        where = [options.get("split_dir") or root / "exp"] if module is sysu else []
        _attempt(functools.partial(module.settings, indices["test"], *where), published, found)
    return list(dict.fromkeys(found + _image_problems(root, indices)))


def _attempt(read: Callable[..., T], published: bool, found: list[str]) -> T | None:
    """read as published or, where that fails, as it is, so that a wrong count hides nothing else. Adds to found."""
    for strict in (True, False) if published else (False,):
        try:
            return read(published=strict)
        except DataError as error:
            found += str(error).splitlines()
    return None


def _modality_problems(index: Index, split: str) -> list[str]:
    identities = np.unique(index.identity)
    problems = []
    for modality, name in ((VISIBLE, "visible"), (INFRARED, "infrared")):
        rows = index.identity[index.modality == modality]
        counts = np.array([(rows == identity).sum() for identity in identities])
        if (counts == 0).any():
            problems.append(f"{split}: no {name} images of identities {some(identities[counts == 0])}, expected both")
        few = (counts > 0) & (counts < SAMPLED)
        if split != "test" and few.any():
            problems.append(
                f"warning: {split}: fewer than {SAMPLED} {name} images of identities {some(identities[few])}, "
                f"which a sampler of {SAMPLED} + {SAMPLED} drops or refuses"
            )
    return problems


def _overlaps(indices: dict[str, Index]) -> list[str]:
    problems = []
    for one, other in combinations(indices, 2):
        if both := sorted(set(indices[one].identity.tolist()) & set(indices[other].identity.tolist())):
            problems.append(f"identities {some(both)} are in {one} and in {other}, expected in one split")
    return problems


def _image_problems(root: Path, indices: dict[str, Index]) -> list[str]:
    """Files that cannot be read or decoded, and files with the same content under two identities."""
    problems, first = [], {}
    for split, index in indices.items():
        images = Folder(root, index)
        for i, path in enumerate(tqdm(index.path, desc=f"examining {split}", unit="image", disable=None)):
            try:
                data = images[i]
                decode(data, str(path))
            except DataError as error:
                problems.append(str(error))
                continue
            identity = int(index.identity[i])
            other, other_path = first.setdefault(hashlib.sha256(data).digest(), (identity, str(path)))
            if other != identity:
                problems.append(f"{path}: same content as {other_path}, though of another identity")
    return problems
