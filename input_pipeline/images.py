"""Image files and the text files that list them: everything that more than one data set reads."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from input_pipeline.index import DataError, Index

T = TypeVar("T")
R = TypeVar("R")

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
# TIFF is here only so that its 16-bit and float modes are named; anything else (EPS runs a program!) is unreadable.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF")
MAX_PIXELS = 1 << 26  # a person crop has about 1 << 16; below Pillow's own limit, which only warns
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")


def decode(data: bytes, name: str) -> Image.Image:
    """The whole picture in an encoded file, as an RGB image; name is the file that errors speak of.

    Alpha is dropped, not blended. DataError: empty, truncated or unreadable bytes, a picture of more than
    MAX_PIXELS, more than 8 bits a channel.
    """
    # EXIF orientation stays unread: the published loaders use Image.open alone, so a rotated picture would
    # not be the one that published figures were measured on.
    if not data:
        raise DataError(f"{name}: empty file (0 bytes), expected an image")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise DataError(f"{name}: {width} x {height} pixels, expected at most {MAX_PIXELS} (decompression bomb?)")
        # Pillow cuts 16-bit colour PNG to its high bytes without a word; byte 24 is the bit depth in IHDR.
        if image.mode not in EIGHT_BIT_MODES or (image.format == "PNG" and data[24] > 8):
            raise DataError(
                f"{name}: mode {image.mode} with more than 8 bits a channel (or an unusual colour space); "
                "scale it to 8 bits (mode L or RGB) with a range of your choice and save it again"
            )
        image.load()
        if image.mode == "P":  # the way that keeps the colours of palettes with transparent entries
            image = image.convert("RGBA")
        return image.convert("RGB")
    except DataError:
        raise
    except Exception as error:  # on bad bytes Pillow raises OSError, SyntaxError, ValueError, struct.error, ...
        raise DataError(f"{name}: not a readable image, {len(data)} bytes: {error}") from error


def resize(image: Image.Image, height: int, width: int) -> np.ndarray:
    """An RGB image as u8[h w 3], by Pillow's antialiased bilinear filter: torchvision's Resize on PIL images."""
    return np.array(image.resize((width, height), Image.Resampling.BILINEAR))


class Folder:
    """The encoded files of an index below a root folder: len(folder), folder[i] -> bytes. Picklable.

    DataError: no such root, an index path that is absolute or leaves the root, a file that cannot be read.
    """

    def __init__(self, root: str | os.PathLike, index: Index):
        self.root = os.fspath(root)
        if not os.path.isdir(self.root):
            raise DataError(f"{self.root}: no such folder, expected the data root")
        for path in index.path:
            refuse_outside(str(path), self.root)
        self.paths = index.path

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> bytes:
        path = os.path.join(self.root, self.paths[i])
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise DataError(f"{path}: cannot be read, expected an image file: {error.strerror}") from error


def refuse_unreadable(images: Folder, split: str, threads: int) -> None:
    """Decodes every picture of a split once. DataError with a line for each that cannot be decoded."""

    def problems(i: int) -> list[str]:
        try:
            decode(images[i], images.paths[i])
        except DataError as error:
            return [str(error)]
        return []

    with ThreadPoolExecutor(threads) as pool:
        found = tqdm(
            pool.map(problems, range(len(images))),
            total=len(images),
            desc=f"checking {split}",
            unit="image",
            disable=None,
        )
        fail(line for lines in found for line in lines)


def refuse_outside(path: str, source: str | os.PathLike) -> None:
    """DataError if a relative path, found in source, would leave the data root."""
    if PurePosixPath(path).is_absolute() or os.path.isabs(path) or ".." in re.split(r"[/\\]", path):
        raise DataError(f"{source}: path {path!r} leaves the data root, expected one relative to it")


def known_split(split: str, known: Iterable[str], dataset: str) -> None:
    """DataError if the data set has no such split."""
    if split not in known:
        raise DataError(f"{dataset} has no split {split!r}, expected one of {some(known)}")


def list_images(folder: str | os.PathLike) -> list[str]:
    """Sorted names of the image files directly in a folder. DataError: no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.name.lower().endswith(SUFFIXES) and e.is_file())
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed, expected a folder of images: {error.strerror}") from error


def read_text(path: str | os.PathLike) -> str:
    """A text file of a data set. DataError: missing, unreadable, not text, empty."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # files saved on Windows begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read, expected a text file: {error}") from error
    if not text.strip():
        raise DataError(f"{path}: empty file, expected identities or image paths")
    return text


def read_ids(path: str | os.PathLike) -> list[int]:
    """The identities in a comma-separated line, in file order. DataError: not positive integers, repeated."""
    words = [word for word in re.split(r"[,\s]+", read_text(path)) if word]
    if wrong := [word for word in words if not re.fullmatch(r"[0-9]+", word) or int(word) == 0]:
        raise DataError(f"{path}: {some(wrong)} where positive identity numbers, separated by commas, were expected")
    ids = [int(word) for word in words]
    refuse_repeated(ids, path)
    return ids


def refuse_repeated(items: Iterable, source: str | os.PathLike) -> None:
    """DataError if an identity or a path occurs twice in source."""
    names, counts = np.unique(list(items), return_counts=True)
    if (counts > 1).any():
        raise DataError(f"{source}: {some(names[counts > 1])} listed more than once, expected once")


def read_list(root: str | os.PathLike, name: str, folder: str) -> list[tuple[str, int, int]]:
    """Path, identity and label of each of the lines '<folder>/<identity>/<file> <label>' of the file root/name.

    The identity is the name of the image's folder. DataError: a line of another form, a path that leaves the
    root or occurs twice, a listed file that is not there.
    """
    source = os.path.join(root, name)

    def parse(line: tuple[int, str]) -> tuple[str, int, int]:
        path, _, label = line[1].strip().rpartition(" ")
        refuse_outside(path, f"{source}:{line[0]}")
        parts = path.split("/")
        if len(parts) != 3 or parts[0] != folder or not parts[1].isdecimal() or not label.isdecimal():
            raise DataError(f"{source}:{line[0]}: {line[1]!r}, expected '{folder}/<identity>/<file> <label>'")
        return path, int(parts[1]), int(label)

    lines = [(number, line) for number, line in enumerate(read_text(source).splitlines(), 1) if line.strip()]
    rows = collect(parse, lines)
    paths = [path for path, _, _ in rows]
    refuse_repeated(paths, source)
    if missing := [path for path in paths if not os.path.isfile(os.path.join(root, path))]:
        raise DataError(f"{source}: lists files that are not in {root}: {some(missing)}")
    return rows


def refuse_mixed_labels(identities: Iterable[int], labels: Iterable[int], source: str | os.PathLike) -> None:
    """DataError unless the labels of a split's lists run from 0 without a gap, one for each identity folder."""
    identity, label = (np.array(list(column), dtype=np.int64) for column in (identities, labels))
    pairs = np.unique(np.stack([identity, label], 1), axis=0)
    problems = []
    for column, name, other in ((0, "identity folder", "label"), (1, "label", "identity folder")):
        values, counts = np.unique(pairs[:, column], return_counts=True)
        if (counts > 1).any():
            problems.append(f"{source}: {name} {some(values[counts > 1])} has more than one {other}, expected one")
    if gaps := sorted(set(range(int(label.max()) + 1)) - set(label.tolist())):
        problems.append(f"{source}: labels run to {label.max()}, but {some(gaps)} is missing")
    fail(problems)


def count_problems(found: Mapping[str, int], published: Mapping[str, int], source: str | os.PathLike) -> list[str]:
    """One line for every named count of source that is not the published one."""
    return [
        f"{source}: {found[name]:,} {name}, the published data set has {number:,}"
        for name, number in published.items()
        if found[name] != number
    ]


def collect(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """function of every item; where some raise DataError, one DataError with all their messages."""
    results, problems = [], []
    for item in items:
        try:
            results.append(function(item))
        except DataError as error:
            problems.append(str(error))
    fail(problems)
    return results


def fail(problems: Iterable[str]) -> None:
    """DataError with one line a problem, if there are any."""
    if lines := list(problems):
        raise DataError("\n".join(lines))


def some(names: Iterable, limit: int = 8) -> str:
    """The first few names, and how many there are if that is not all of them."""
    words = [str(name) for name in names]
    return ", ".join(words[:limit]) + (f", ... ({len(words):,} in all)" if len(words) > limit else "")
