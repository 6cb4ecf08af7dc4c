"""One pass over a data set on disk, with a list of everything that is wrong with it."""

from __future__ import annotations

import functools
import hashlib
import io
import os
from itertools import combinations
from pathlib import Path, PurePath
from types import ModuleType

import numpy as np
from PIL import Image
from tqdm import tqdm

from input_pipeline import llcm, market, regdb, sysu
from input_pipeline.images import FORMATS, SUFFIXES, Folder, decode, gather_errors, left_behind, shorten
from input_pipeline.index import INFRARED, VISIBLE, DataError, Index
from input_pipeline.lists import NUMBER
from input_pipeline.sampling import of_one_camera

DATASETS = {"sysu": sysu, "regdb": regdb, "llcm": llcm, "market1501": market, "dukemtmc": market}
# Where pictures are that some split should have: all but the junk of Market-1501, whose names begin with -1.
PICTURES = {
    "sysu": ("cam[1-6]/*/*",),
    "regdb": ("Visible/*/*", "Thermal/*/*"),
    "llcm": ("vis/*/*", "nir/*/*", "test_vis/cam?/*/*", "test_nir/cam?/*/*"),
    **dict.fromkeys(market.DATASETS, tuple(f"{folder}/[!-]*" for folder in market.FOLDERS)),
}
INFRARED_FOLDERS = ("Thermal", "nir", "test_nir", *(f"cam{camera}" for camera in sysu.INFRARED_CAMERAS))
NAMES = {VISIBLE: "visible", INFRARED: "infrared"}
ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
# What decode makes of pictures that are not RGB is defined, but hardly what was meant; grey infrared is.
ODD_MODES = {
    "1": "of two levels, decoded as black and white",
    "LA": "with transparency, which is dropped",
    "RGBA": "with transparency, which is dropped",
    "P": "with a palette",
    "CMYK": "of four inks (CMYK), whose conversion to RGB is approximate",
    "YCbCr": "of a TIFF's YCbCr",
}
SAMPLED = 4  # images of an identity in one modality that published samplers draw for a batch (4 + 4)


def examine(dataset: str, root: str | os.PathLike, **options) -> list[str]:
    """Every problem of a data set below root, one a line; lines that begin with 'warning:' do not stop training.

    options are those of the data set's read_index (published, fold, split_dir). Every split is read as far as it can
    be, the protocol of the test split is drawn, and every listed image is decoded; where a list is at fault, all
    images that are there. DataError: an unknown data set, nothing else.
    """
    if dataset not in DATASETS:
        raise DataError(f"no data set {dataset!r}, expected one of {shorten(DATASETS)}")
    module, root = DATASETS[dataset], Path(root)
    if problem := misplaced(root, module):
        return [problem]
    found: list[str] = []
    published = options.pop("published", True)
    named = {"dataset": dataset} if module is market else {}  # of two that share a reader
    indices: dict[str, Index] = {}
    for split in module.SPLITS:
        read = functools.partial(module.read_index, root, published=published, found=found, **{**options, **named})
        for index in filter(len, gather_errors(read, [split], found)):
            indices[split] = index
            found += _camera_problems(index, split) if module is market else _modality_problems(index, split)
    found += overlaps(indices)
    if "test" in indices:
        where = [options.get("split_dir") or root / "exp"] if module is sysu else []
        found += _protocol_problems(functools.partial(module.settings, indices["test"], *where, **named), published)
    examined, unlisted = dict(indices), _unlisted(root, dataset, indices)
    if len(unlisted) and not _faulty(found):
        found.append(f"warning: {root}: images that no split has: {shorten(unlisted.path)}")
    elif len(unlisted):
        examined["no list"] = unlisted
    found += _image_problems(root, examined)
    # Names that are no UTF-8 could not be printed.
    return [line.encode(errors="backslashreplace").decode() for line in dict.fromkeys(found)]


def misplaced(root: str | os.PathLike, module: ModuleType) -> str:
    """What to type where root has none of the folders of a data set, or has one in other letters; "" if neither.

    module: the data set's reader.
    """
    root, wanted = Path(root), {name.lower(): name for name in module.FOLDERS}

    def known(folder: Path) -> dict[str, str]:
        names = [name for name in os.listdir(folder) if name.lower() in wanted] if os.access(folder, os.R_OK) else []
        return {name: wanted[name.lower()] for name in names if (folder / name).is_dir()}

    said = "no such folder"
    if root.is_dir():
        here = known(root)
        if other := [f"{name} to {right}" for name, right in here.items() if right not in here]:
            return f"{root}: rename {shorten(other)}; expected {module.LAYOUT}"
        if here:
            return ""
        near = [folder for pattern in ("*", "*/*") for folder in sorted(root.glob(pattern)) if folder.is_dir()]
        if found := next(filter(known, [*near, root.resolve().parent]), None):
            return f"{root}: has none of {shorten(wanted.values())}; {found} looks like it: --config.data.root={found}"
        said = f"has none of {shorten(wanted.values())}"
    what = f"{root}: {said}; name your folder with --config.data.root=DIR and examine it with --mode=doctor"
    return f"{what}\n{module.APPLY}. Expected layout: {module.LAYOUT}"


def _faulty(lines: list[str]) -> bool:
    return any(not line.startswith("warning:") for line in lines)


def _protocol_problems(settings: functools.partial, published: bool) -> list[str]:
    """Drawn as published or, where that fails, as it is, so that a wrong count hides nothing else."""
    found = []
    for strict in (True, False) if published else (False,):
        if gather_errors(lambda strict: settings(published=strict), [strict], found):
            break
    return found


def _unlisted(root: Path, dataset: str, indices: dict[str, Index]) -> Index:
    """The images that are there and in no split."""
    listed = {path for index in indices.values() for path in index.path.tolist()}
    files = {file for pattern in PICTURES[dataset] for file in root.glob(pattern)}
    pictures = (file for file in files if file.suffix.lower() in SUFFIXES and not left_behind(file.name))
    found = (file.relative_to(root).as_posix() for file in pictures if file.is_file())
    paths = sorted(path for path in found if path not in listed)
    folders = [PurePath(path).parent.name for path in paths]
    # Of Market-1501 no folder says whose a picture is; the reader has named what it could not read.
    identity = [int(name) if NUMBER.fullmatch(name) else -1 for name in folders]
    infrared = [path.split("/", 1)[0] in INFRARED_FOLDERS for path in paths]
    return Index(np.array(paths), np.array(identity), np.ones(len(paths)), np.array(infrared))


def _modality_problems(index: Index, split: str) -> list[str]:
    identities = np.unique(index.identity)
    problems = []
    for modality, name in NAMES.items():
        rows = index.identity[index.modality == modality]
        counts = np.array([(rows == identity).sum() for identity in identities])
        if (counts == 0).any():
            problems.append(
                f"{split}: no {name} images of identities {shorten(identities[counts == 0])}, expected both"
            )
        few = (counts > 0) & (counts < SAMPLED)
        if split != "test" and few.any():
            problems.append(
                f"warning: {split}: fewer than {SAMPLED} {name} images of identities {shorten(identities[few])}, "
                f"which a sampler of {SAMPLED} + {SAMPLED} without replacement drops or refuses"
            )
    return problems


def _camera_problems(index: Index, split: str) -> list[str]:
    alone = of_one_camera(index.identity, index.camera) if split == "train" else []
    what = f"warning: {split}: identities {shorten(alone)} are seen by one camera only"
    return [f"{what}, which the sampler cameras drops or refuses"] if alone else []


def overlaps(indices: dict[str, Index]) -> list[str]:
    """One line for every two splits that have identities in common: what is trained on cannot be tested with."""
    identities = {split: set(index.identity.tolist()) for split, index in indices.items()}
    return [
        f"identities {shorten(sorted(both))} are in {one} and in {other}, expected in one split"
        for one, other in combinations(identities, 2)
        if (both := identities[one] & identities[other])
    ]


def _image_problems(root: Path, indices: dict[str, Index]) -> list[str]:
    """Files that cannot be read or decoded, those with the content of another person's or modality's, odd modes."""
    problems, first, odd = [], {}, {}
    for split, index in indices.items():
        try:
            images = Folder(root, index)
        except DataError as error:
            problems.append(str(error))
            continue
        for i, path in enumerate(tqdm(index.path.tolist(), desc=f"examining {split}", unit="image", disable=None)):
            try:
                data = images[i]
                decode(data, path)
            except DataError as error:
                problems.append(str(error))
                continue
            mine = int(index.identity[i]), int(index.modality[i])
            for remark in _remarks(data, mine[1]):
                odd.setdefault(f"warning: {split}: {NAMES[mine[1]]} images {remark}", []).append(path)
            *other, other_path = first.setdefault(hashlib.sha256(data).digest(), (*mine, path))
            if other[0] != mine[0]:
                problems.append(f"{path}: same content as {other_path}, though of another identity")
            elif other[1] != mine[1]:
                problems.append(f"warning: {path}: same content as {other_path}, though of another modality")
    return problems + [f"{what}: {shorten(paths)}" for what, paths in odd.items()]


def _remarks(data: bytes, modality: int) -> list[str]:
    """What is unusual about an image that can be decoded."""
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    found = [ODD_MODES[image.mode]] if image.mode in ODD_MODES else []
    if modality == VISIBLE and image.mode in ("1", "L", "LA"):
        found.append("without colours")
    try:
        if image.getexif().get(ORIENTATION, 1) != 1:
            found.append("turned by an EXIF tag, which is not applied")
    except Exception:  # as of pictures, Pillow raises nearly every type on damaged tags, which decode does not read
        found.append("with damaged EXIF tags")
    return found
