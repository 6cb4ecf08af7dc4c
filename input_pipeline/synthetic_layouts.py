"""Which images and lists a synthetic set consists of, in the layouts of SYSU-MM01, RegDB, LLCM and Market-1501."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np

from input_pipeline.index import INFRARED, VISIBLE
from input_pipeline.people import COUNT_STREAM, FAMILY_SIZE, PERMUTATION_STREAM, SPLIT_STREAM, stream
from input_pipeline.scenes import CAMERAS, Camera, llcm_camera

TRIALS = 10
LEAST_SHOTS = 4  # a training batch takes four images of each modality from an identity
REGDB_SHOTS = 10
COLOUR = [camera for camera in CAMERAS.values() if camera.modality == VISIBLE]


class Size(NamedTuple):
    """train, val, test: identities; the shots: mean images per identity and camera; height, width: pixels."""

    train: int
    val: int
    test: int
    visible_shots: int
    infrared_shots: int
    test_shots: int
    height: int
    width: int


SIZES = {
    "tiny": Size(8, 4, 6, 4, 4, 4, 48, 24),
    "small": Size(160, 16, 48, 5, 5, 5, 96, 48),
    "large": Size(296, 99, 96, 18, 16, 21, 288, 144),
}


class Picture(NamedTuple):
    """One image to draw. path is relative to the root of the set."""

    path: str
    identity: int
    camera: Camera
    shot: int


class Plan(NamedTuple):
    """All that a set holds: images to draw, identity by identity, and every other file's content by its path."""

    pictures: list[Picture]
    files: dict[str, bytes]


def sysu(size: Size, seed: int) -> Plan:
    """SYSU-MM01: cam{1..6}/<id>/<shot>.jpg and exp/, with cameras 1 and 2 holding the same part of the identities."""
    count = size.train + size.val + size.test
    shuffled = _shuffled(count, seed)
    train, val, test = np.split(shuffled, [size.train, size.train + size.val])
    held = set(test.tolist())
    counts = {identity: _sysu_counts(size, seed, identity, identity in held) for identity in range(1, count + 1)}
    pictures = [
        Picture(f"cam{camera}/{identity:04d}/{shot:04d}.jpg", identity, CAMERAS[camera], shot)
        for identity, shots in counts.items()
        for camera in CAMERAS
        for shot in range(1, shots[camera] + 1)
    ]
    files = {"exp/rand_perm_cam.mat": _permutations(counts, seed)}
    for name, identities in (("available", shuffled), ("train", train), ("val", val), ("test", test)):
        files[f"exp/{name}_id.txt"] = _numbers(identities)
    return Plan(pictures, files)


def regdb(size: Size, seed: int) -> Plan:
    """RegDB: Visible/<id>/ and Thermal/<id>/ of ten images each, and ten random halvings of the identities in idx/."""
    count = size.train + size.test
    folders = {VISIBLE: ("Visible", "v", CAMERAS[4]), INFRARED: ("Thermal", "t", CAMERAS[6])}
    pictures = [
        Picture(f"{folder}/{identity}/{mark}_{identity:05d}_{shot}.bmp", identity, camera, shot)
        for identity in range(1, count + 1)
        for folder, mark, camera in folders.values()
        for shot in range(1, REGDB_SHOTS + 1)
    ]
    files = {}
    for trial in range(1, TRIALS + 1):
        train, test = np.split(_shuffled(count, seed, trial), [count // 2])
        files |= _lists(pictures, {"train": train, "test": test}, (f"visible_{trial}", f"thermal_{trial}"))
    return Plan(pictures, files)


def llcm(size: Size, seed: int) -> Plan:
    """LLCM: vis/<id>/ and nir/<id>/ to train, test_vis/cam<n>/<id>/ and test_nir/cam<n>/<id>/ to test, and idx/."""
    count = size.train + size.test
    train, test = np.split(_shuffled(count, seed), [size.train])
    held = set(test.tolist())
    pictures = [
        picture
        for identity in range(1, count + 1)
        for picture in _llcm_pictures(size, seed, identity, identity in held)
    ]
    lists = _lists(pictures, {"train": train, "test": test}, ("vis", "nir"))
    return Plan(pictures, {"idx/test_id.txt": _numbers(test), **lists})


def market(size: Size, seed: int) -> Plan:
    """Market-1501: bounding_box_train/, bounding_box_test/ and query/, of visible cameras alone.

    The identities of SYSU-MM01's validation are seen in bounding_box_test/ alone, half of them as distractors
    (identity 0000) and half as junk (-1), which is no worse cut here than the others.
    """
    train, test, others = np.split(
        _shuffled(size.train + size.test + size.val, seed), [size.train, size.train + size.test]
    )
    names = {identity: ("bounding_box_train", f"{identity:04d}") for identity in train.tolist()}
    names |= {identity: ("bounding_box_test", f"{identity:04d}") for identity in test.tolist()}
    names |= {identity: ("bounding_box_test", ("0000", "-1")[i % 2]) for i, identity in enumerate(others.tolist())}
    asked = set(test.tolist())
    pictures = []
    for identity, (folder, name) in sorted(names.items()):
        random = stream(COUNT_STREAM, seed, identity)
        # Two cameras at least, or nobody could be found under another one.
        for camera in np.sort(random.permutation(len(COLOUR))[: random.integers(2, len(COLOUR) + 1)]).tolist():
            shots = _varied(size.visible_shots if folder == "bounding_box_train" else size.test_shots, random)
            for shot in range(1, shots + 1):
                file = f"{name}_c{COLOUR[camera].number}s1_{100 * identity + shot:06d}_01.jpg"
                where = "query" if identity in asked and shot == 1 else folder
                pictures.append(Picture(f"{where}/{file}", identity, COLOUR[camera], shot))
    return Plan(pictures, {})


def _shuffled(count: int, seed: int, trial: int = 0) -> np.ndarray:
    """i64[count], identities from 1 in random order, family by family, so that look-alikes meet in one split."""
    families = -(-count // FAMILY_SIZE)
    order = stream(SPLIT_STREAM, seed, trial).permutation(families)
    identities = (order[:, None] * FAMILY_SIZE + np.arange(1, FAMILY_SIZE + 1)).ravel()
    return identities[identities <= count]


def _varied(shots: int, random: np.random.Generator) -> int:
    return max(LEAST_SHOTS, round(shots * random.uniform(0.75, 1.25)))


def _sysu_counts(size: Size, seed: int, identity: int, held: bool) -> dict[int, int]:
    """Images by camera, zero where the identity was not seen; never zero for a whole modality."""
    random = stream(COUNT_STREAM, seed, identity)
    indoors = random.random() < 0.65
    absent = set() if indoors else {1, 2}
    # At most one of the other cameras misses an identity, which leaves it both modalities.
    if random.random() < 0.15:
        absent.add(int(random.choice([3, 4, 5, 6])))
    counts = {}
    for number, camera in CAMERAS.items():
        shots = size.infrared_shots if camera.modality == INFRARED else size.visible_shots
        seen = _varied(size.test_shots if held else shots, random)
        counts[number] = 0 if number in absent else seen
    return counts


def _permutations(counts: dict[int, dict[int, int]], seed: int) -> bytes:
    """A MATLAB file of ten orders of each identity's images by camera: 6x1 cells of n x 1 cells of 10 x count."""
    # Here and not above: spawned workers import this module, and scipy would double the time that takes.
    from scipy.io import savemat

    cameras = np.empty((len(CAMERAS), 1), dtype=object)
    for row, camera in enumerate(CAMERAS):
        cells = np.empty((len(counts), 1), dtype=object)
        for identity, shots in counts.items():
            random = stream(PERMUTATION_STREAM, seed, camera, identity)
            orders = [random.permutation(shots[camera]) + 1 for _ in range(TRIALS)]
            cells[identity - 1, 0] = np.array(orders, dtype=np.uint16).reshape(TRIALS, shots[camera])
        cameras[row, 0] = cells
    stored = io.BytesIO()
    savemat(stored, {"rand_perm_cam": cameras})
    # The first 116 bytes are a remark that holds the time of writing; the same seed must give the same bytes.
    return b"MATLAB 5.0 MAT-file, synthetic people".ljust(116) + stored.getvalue()[116:]


def _llcm_pictures(size: Size, seed: int, identity: int, held: bool) -> list[Picture]:
    random = stream(COUNT_STREAM, seed, identity)
    # At least three of the nine cameras, so that two are left without camera 3, which has no infrared.
    numbers = np.sort(random.permutation(9)[: random.integers(3, 6)] + 1).tolist()
    pictures = []
    for modality, name, shots in ((VISIBLE, "vis", size.visible_shots), (INFRARED, "nir", size.infrared_shots)):
        for number in numbers:
            if modality == INFRARED and number == 3:
                continue
            folder = f"test_{name}/cam{number}/{identity:04d}" if held else f"{name}/{identity:04d}"
            start = int(random.integers(100000, 300000))
            for shot in range(1, _varied(size.test_shots if held else shots, random) + 1):
                file = f"{identity:04d}_c{number:02d}_s{start:06d}_f{60 * shot:04d}_{name}.jpg"
                pictures.append(Picture(f"{folder}/{file}", identity, llcm_camera(number, modality), shot))
    return pictures


def _numbers(identities: np.ndarray) -> bytes:
    return (",".join(map(str, np.sort(identities))) + "\n").encode()


def _lists(pictures: list[Picture], parts: dict[str, np.ndarray], names: tuple[str, str]) -> dict[str, bytes]:
    """Files of the visible and of the infrared images of each part's identities, by path.

    An image is a line, with a label from 0 in the order of the identities.
    """
    files = {}
    for part, identities in parts.items():
        labels = {identity: label for label, identity in enumerate(np.sort(identities).tolist())}
        for modality, name in zip((VISIBLE, INFRARED), names, strict=True):
            listed = (p for p in pictures if p.identity in labels and p.camera.modality == modality)
            files[f"idx/{part}_{name}.txt"] = "".join(f"{p.path} {labels[p.identity]}\n" for p in listed).encode()
    return files
