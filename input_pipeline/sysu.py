"""SYSU-MM01: six cameras, 491 identities, and the official four evaluation settings.

Wu et al., "RGB-Infrared Cross-Modality Person Re-Identification", ICCV 2017.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path, PurePosixPath

import numpy as np

from input_pipeline.images import count_problems, gather_errors, known_split, list_images, raise_all, shorten
from input_pipeline.index import INFRARED, VISIBLE, DataError, Index, Setting, Trial
from input_pipeline.lists import NUMBER, read_ids, refuse_repeated
from input_pipeline.matlab import read_mat
from input_pipeline.protocols import refuse_other_counts

APPLY = (
    "SYSU-MM01 is given out on application: https://github.com/wuancong/SYSU-MM01 "
    "(rand_perm_cam.mat is not in the archive; it comes from the folder evaluation/data_split of that repository)"
)
LAYOUT = "cam{1..6}/<0001..0533>/<0001, 0002, ...>.jpg and exp/{train,val,test}_id.txt, exp/rand_perm_cam.mat"
SPLITS = ("train", "val", "test")
FOLDERS = ("cam1", "cam2", "cam3", "cam4", "cam5", "cam6")

CAMERAS = range(1, 7)
INFRARED_CAMERAS = (3, 6)
GALLERY_CAMERAS = {"all": (1, 2, 4, 5), "indoor": (1, 2)}
TRIALS = 10

# Identities, and images of cameras 1-6. The visible and infrared sums are published; the numbers by camera are
# those of the official permutation file, whose "val" rows reach the published sums without identity 347.
_PUBLISHED = {
    "train": (296, (4721, 5753, 5929, 4821, 4989, 4000)),
    "val": (99, (0, 0, 1980, 990, 984, 0)),
    "trainval": (395, (4721, 5753, 7909, 5811, 5973, 4000)),
    "test": (96, (1374, 1565, 1883, 1918, 1918, 1920)),
}
_PUBLISHED_GALLERY = {("all", 1): 301, ("all", 10): 3010, ("indoor", 1): 112, ("indoor", 10): 1120}
# Queries with a true match in the gallery; the others are left out of every average.
_PUBLISHED_MATCHED = {"all": 3803, "indoor": 2208}


def read_index(
    root: str | os.PathLike,
    split: str,
    *,
    published: bool = True,
    split_dir: str | os.PathLike | None = None,
    found: list[str] | None = None,
) -> Index:
    """The images of 'train', 'val', 'trainval' (what papers train on) or 'test', by identity, camera, file name.

    split_dir holds {train,val,test}_id.txt, or .mat where there is no .txt; root/exp unless given.
    DataError: missing folder or identity file, an identity without images or in two files, a file that is not
    .jpg and, if published, other numbers of identities and images than the data set is published with.
    found: as in `images.raise_all`.
    """
    root, split_dir = Path(root), Path(split_dir or Path(root, "exp"))
    known_split(split, _PUBLISHED, "SYSU-MM01")
    names = ["train", "val"] if split == "trainval" else [split]
    lists = gather_errors(lambda name: _read_split_ids(split_dir, name, found), names, found)
    ids = [identity for listed in lists for identity in listed]
    refuse_repeated(ids, f"{split_dir}: identity files of {' and '.join(names)}", found)
    # Listing the camera folders themselves, never below them: cam1_video_train may lie beside them.
    present = dict(gather_errors(lambda camera: _folders(root, camera), CAMERAS, found))
    files = gather_errors(lambda identity: _files_of(root, identity, present, found), sorted(set(ids)), found)
    rows = [row for part in files for row in part]
    path, identity, camera = zip(*rows, strict=True) if rows else ((), (), ())
    modality = np.where(np.isin(camera, INFRARED_CAMERAS), INFRARED, VISIBLE)
    index = Index(np.array(path), np.array(identity), np.array(camera), modality)
    if published:
        raise_all(size_problems(index, split, root), found)
    return index


def setting(index: Index, protocol: str, place: str, shots: int, galleries: list, published: bool) -> Setting:
    """All infrared images against each of the galleries i32[g]; place: all or indoor, shots: 1 or 10.

    DataError: if published, other `protocols.counts` than the published ones.
    """
    query = np.flatnonzero(index.modality == INFRARED).astype(np.int32)
    trials = [Trial(query, gallery) for gallery in galleries]
    name, number = f"{protocol}-{place}", {1: "single", 10: "multi"}[shots]
    result = Setting("sysu", name, "infrared-to-visible", number, trials, valid, unique_identities=True)
    if published:
        queries = sum(_PUBLISHED["test"][1][camera - 1] for camera in INFRARED_CAMERAS)
        counts = {"queries": queries, "gallery images": _PUBLISHED_GALLERY[place, shots]}
        refuse_other_counts(index, result, {**counts, "queries with a match": _PUBLISHED_MATCHED[place]})
    return result


def _folders(root: Path, camera: int) -> tuple[int, set[str]]:
    if not (folder := root / f"cam{camera}").is_dir():
        raise DataError(f"{folder}: no such folder, expected {LAYOUT}")
    return camera, set(os.listdir(folder))


def _files_of(
    root: Path, identity: int, present: dict[int, set[str]], found: list[str] | None
) -> list[tuple[str, int, int]]:
    folders = {c: f"cam{c}/{identity:04d}" for c, names in present.items() if f"{identity:04d}" in names}
    rows = [(f"{below}/{name}", identity, c) for c, below in folders.items() for name in list_images(root / below)]
    if not rows:
        raise DataError(f"{root}: no images in any cam*/{identity:04d}, expected some of every listed identity")
    other = [path for path, _, _ in rows if not path.lower().endswith(".jpg")]
    raise_all([f"{root}: {shorten(other)} where only .jpg files were expected"] if other else [], found)
    return rows


def _read_split_ids(split_dir: Path, name: str, found: list[str] | None = None) -> list[int]:
    text, mat = split_dir / f"{name}_id.txt", split_dir / f"{name}_id.mat"
    if text.exists():
        return read_ids(text, found)
    if not mat.exists():
        raise DataError(f"{text}: no such file, and no {mat.name} beside it; expected the identities of {name}")
    ids = read_mat(mat, "id")
    if isinstance(ids, list) or not ids.size or not _counting(ids):
        raise DataError(f"{mat}: 'id' holds something else than positive identity numbers")
    numbers = ids.ravel().astype(int).tolist()
    refuse_repeated(numbers, mat, found)
    return numbers


def _counting(numbers: np.ndarray) -> bool:
    """Whether all are of 1, 2, ..."""
    return bool(((numbers > 0) & (numbers < 2**31) & (numbers == np.floor(numbers))).all())


def size_problems(index: Index, split: str, root: Path) -> list[str]:
    """One line for every number of identities, and of images by camera, that is not the split's published one."""
    identities, by_camera = _PUBLISHED[split]
    name = f"identities in {split}"
    problems = count_problems({name: len(np.unique(index.identity))}, {name: identities}, root)
    name = f"images of the {split} identities"
    for camera, number in zip(CAMERAS, by_camera, strict=True):
        problems += count_problems({name: int((index.camera == camera).sum())}, {name: number}, root / f"cam{camera}")
    return problems


def settings(index: Index, split_dir: str | os.PathLike, *, published: bool = True) -> list[Setting]:
    """The official settings: all single-shot, all multi-shot, indoor single-shot, indoor multi-shot; 10 trials each.

    index may come from a features file; its rows may stand in any order and only the file numbers of its paths are
    read. Queries are all infrared rows in index order. The gallery of trial t holds, by identity, then camera, then
    draw, the images named by the first 1 or 10 entries of row t of that identity's and camera's permutation in
    split_dir/rand_perm_cam.mat. With published=False any identities of the permutation file are taken, say those
    of 'val'. DataError: missing or damaged files, a permutation that does not fit the index and, if published,
    identities other than those of the test split, and other sizes than the published ones.
    """
    split_dir, problems, permutation = Path(split_dir), [], {}
    if published:
        _refuse_other_identities(index, split_dir, problems)
    refuse_mixed_cameras(index)
    cells = rows_by_number(index, problems)
    for permutation in gather_errors(_read_permutation, [split_dir / "rand_perm_cam.mat"], problems):
        _refuse_mismatch(cells, permutation, split_dir / "rand_perm_cam.mat", problems)
    raise_all(problems)
    result = []
    for place, cameras in GALLERY_CAMERAS.items():
        drawn = [(cells[cell], permutation[cell]) for cell in sorted(cells) if cell[1] in cameras]
        for shots in (1, 10):
            galleries = [[rows[order[t, :shots]] for rows, order in drawn] for t in range(TRIALS)]
            whole = [np.concatenate([np.zeros(0, np.int32), *gallery]) for gallery in galleries]
            result.append(setting(index, "sysu-official", place, shots, whole, published))
    return result


def valid(
    query_identity: np.ndarray, query_camera: np.ndarray, gallery_identity: np.ndarray, gallery_camera: np.ndarray
) -> np.ndarray:
    """bool[q g], False where both pictures are from one place, whoever they show: cameras 2 and 3 share a room."""
    query_place, gallery_place = (np.where(camera == 2, 3, camera) for camera in (query_camera, gallery_camera))
    return query_place[:, None] != gallery_place[None, :]


def refuse_mixed_cameras(index: Index) -> None:
    """DataError unless the rows of cameras 3 and 6, and no others, are infrared."""
    if (np.isin(index.camera, INFRARED_CAMERAS) != (index.modality == INFRARED)).any():
        raise DataError(f"index: rows of cameras {INFRARED_CAMERAS}, and no others, are expected to be infrared")


def _refuse_other_identities(index: Index, split_dir: Path, problems: list[str]) -> None:
    expected, found = set(_read_split_ids(split_dir, "test", problems)), set(index.identity.tolist())
    if unknown := sorted(found - expected):
        problems.append(f"index: identities {shorten(unknown)} are not test identities of {split_dir}")
    if absent := sorted(expected - found):
        problems.append(f"index: test identities {shorten(absent)} of {split_dir} have no images")


def _read_permutation(path: Path) -> dict[tuple[int, int], np.ndarray]:
    """i32[10 n], counted from 0, for every (identity, camera) of the file; n = 0 where it has no images."""
    if not path.exists():
        raise DataError(f"{path}: no such file. {APPLY}")
    cameras = read_mat(path, "rand_perm_cam")
    if not isinstance(cameras, list) or [type(camera) for camera in cameras] != [list] * len(CAMERAS):
        raise DataError(f"{path}: expected 6 cells, one a camera, of one cell for each identity")
    result = {}
    for camera, cells in zip(CAMERAS, cameras, strict=True):
        for identity, cell in enumerate(cells, 1):
            while isinstance(cell, list) and len(cell) == 1:  # the official file wraps each matrix once more
                cell = cell[0]
            if isinstance(cell, list) or (cell.size and (cell.ndim != 2 or len(cell) != TRIALS)):
                what = f"{len(cell)} cells" if isinstance(cell, list) else f"{cell.dtype} of shape {cell.shape}"
                raise DataError(f"{path}: camera {camera}, identity {identity}: {what}, expected numbers in 10 rows")
            if cell.size and not _counting(cell):
                raise DataError(f"{path}: camera {camera}, identity {identity}: other numbers than 1, 2, ...")
            # int32 first: the file's uint8 would wrap round below 0.
            result[identity, camera] = cell.reshape(TRIALS, -1).astype(np.int32) - 1
    return result


def rows_by_number(index: Index, found: list[str] | None = None) -> dict[tuple[int, int], np.ndarray]:
    """Rows of the index for every (identity, camera), such that the i-th is the file with number i + 1.

    The permutation counts images of an identity and the released evaluators take its entries for file numbers;
    both agree only where files are numbered 1, 2, ... without a gap, so this is asserted.
    found: as in `images.raise_all`.
    """
    problems, cells, numbered = [], {}, defaultdict(list)
    for row, (path, identity, camera) in enumerate(zip(index.path, index.identity, index.camera, strict=True)):
        stem = PurePosixPath(path).stem
        if not NUMBER.fullmatch(stem):
            problems.append(f"{path}: expected a file number, as in cam1/0006/0001.jpg")
            continue
        numbered[int(identity), int(camera)].append((int(stem), row))
    for (identity, camera), pairs in numbered.items():
        pairs.sort()
        if [number for number, _ in pairs] != list(range(1, len(pairs) + 1)):
            problems.append(f"cam{camera}/{identity:04d}: files are not numbered 1 to {len(pairs)}, each once")
        cells[identity, camera] = np.array([row for _, row in pairs], np.int32)
    raise_all(problems[:8] + [f"index: {len(problems):,} such names in all"] * (len(problems) > 8), found)
    return cells


def _refuse_mismatch(cells: dict, permutation: dict, path: Path, problems: list[str]) -> None:
    identities = {identity for identity, _ in cells}
    for identity, camera in sorted({(i, c) for i in identities for c in CAMERAS} | set(cells)):
        number, order = len(cells.get((identity, camera), ())), permutation.get((identity, camera))
        name = f"{path}: camera {camera}, identity {identity}"
        if order is None:
            if number:
                problems.append(f"{name}: no cell, but the index has {number} images (cam{camera}/{identity:04d})")
        elif order.shape[1] != number:
            problems.append(f"{name}: {order.shape[1]} images, but the index has {number} (cam{camera}/{identity:04d})")
        elif (np.sort(order, 1) != np.arange(number)).any():
            problems.append(f"{name}: the rows are not permutations of 1 to {number}")
