"""Image files, and how what is wrong with a data set is said: everything that more than one of them needs."""

from __future__ import annotations

import dataclasses
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import TypeVar

import numpy as np
from absl import logging
from PIL import Image
from tqdm import tqdm

from input_pipeline.index import DataError, Index
from saai_jax.files import limit

T = TypeVar("T")
R = TypeVar("R")

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
# TIFF is here only so that its 16-bit and float modes are named; anything else (EPS runs a program!) is unreadable.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF")
MAX_PIXELS = 1 << 23  # unless SAAI_JAX_PIXELS says other; a person crop has about 1 << 16, and eight threads decode
MAX_SCANS = 100  # of a progressive JPEG, each of which is decoded; programs write about ten
MAX_PATH = 4096  # characters; one long line of a list would make an array of as many for every image
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")


def decode(data: bytes, name: str) -> Image.Image:
    """The whole picture in an encoded file, as an RGB image; name is the file that errors speak of.

    Alpha is dropped, not blended. DataError: empty, truncated or unreadable bytes, a picture of more than
    MAX_PIXELS or MAX_SCANS, more than 8 bits a channel.
    """
    # EXIF orientation stays unread: the published loaders use Image.open alone, so a rotated picture would
    # not be the one that published figures were measured on.
    if not data:
        raise DataError(f"{name}: empty file (0 bytes), expected an image")
    try:
        image = opened(data, name)
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
        what = str(error).partition(" <_io")[0]  # Pillow names the object that it read
        raise DataError(f"{name}: not a readable image, {len(data)} bytes: {what}") from error


def opened(data: bytes, name: str) -> Image.Image:
    """An encoded picture, not decoded yet. Raises as Pillow; DataError for pixels and scans as in `decode`."""
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if not width or not height:
        raise DataError(f"{name}: {width} x {height} pixels, expected some")
    if width * height > (most := limit("SAAI_JAX_PIXELS", MAX_PIXELS)):
        hint = f"SAAI_JAX_PIXELS={width * height} lets it be read"
        raise DataError(f"{name}: {width} x {height} pixels, expected at most {most}; {hint}")
    if data.startswith(b"\xff\xd8") and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise DataError(f"{name}: a JPEG of {scans} scans, expected at most {MAX_SCANS}; save it again")
    return image


# Both are antialiased. Bilinear is torchvision's Resize on PIL images; Lanczos is what AGW's releases prepare with.
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "lanczos": Image.Resampling.LANCZOS}


@dataclasses.dataclass(frozen=True)
class Size:
    """Height and width in pixels, and by which of FILTERS images get it. Raises ValueError for another filter."""

    height: int
    width: int
    resample: str = "bilinear"

    def __post_init__(self):
        if self.resample not in FILTERS:
            raise ValueError(f"data.resample is {self.resample!r}, expected one of {', '.join(FILTERS)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, 3


def resize(image: Image.Image, size: Size) -> np.ndarray:
    """An RGB image as u8[h w 3]."""
    return np.array(image.resize((size.width, size.height), FILTERS[size.resample]))


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
        self.index, self.paths = index, index.path

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> bytes:
        path = os.path.join(self.root, self.paths[i])
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise DataError(f"{path}: cannot be read, expected an image file: {error.strerror}") from error


def refuse_unreadable(images: Folder, split: str, threads: int, found: dict[int, str] | None = None) -> None:
    """Decodes every picture of a split once. DataError with a line for each that cannot be decoded.

    found: as in `in_threads`.
    """

    def read(i: int) -> None:
        decode(images[i], os.path.join(images.root, images.paths[i]))

    in_threads(read, len(images), threads, f"checking {split}", found)


def in_threads(
    function: Callable[[int], object], number: int, threads: int, what: str, found: dict[int, str] | None = None
) -> None:
    """function of 0 to number - 1, below a bar of progress. One DataError with the messages of all.

    found: takes the messages by number instead.
    """

    def problems(i: int) -> list[str]:
        found: list[str] = []
        gather_errors(function, [i], found)
        return found

    pool = ThreadPoolExecutor(threads)
    try:
        done = tqdm(pool.map(problems, range(number)), what, number, unit="image", disable=None)
        failed = {i: "\n".join(lines) for i, lines in enumerate(done) if lines}
        if found is None:
            raise_all(failed.values())
        else:
            found |= failed
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, what has not begun is not waited for


def refuse_outside(path: str, source: str | os.PathLike) -> None:
    """DataError if a relative path, found in source, would leave the data root, or is none.

    Links below the root are followed wherever they lead: only who owns the root can have made them, a list cannot.
    """
    absolute = PurePosixPath(path).is_absolute() or os.path.isabs(path) or os.path.splitdrive(path)[0]
    if absolute or ".." in re.split(r"[/\\]", path):
        raise DataError(f"{source}: path {path!r} leaves the data root, expected one relative to it")
    if not path or "\0" in path or len(path) > MAX_PATH:
        raise DataError(f"{source}: {path[:100]!r} is no path, expected one of 1 to {MAX_PATH} characters")


def left_behind(name: str) -> bool:
    """Whether a file is none of the user's: .DS_Store and ._0001.jpg of macOS, Thumbs.db and desktop.ini of Windows."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini")


def known_split(split: str, known: Iterable[str], dataset: str) -> None:
    """DataError if the data set has no such split."""
    if split not in known:
        raise DataError(f"{dataset} has no split {split!r}, expected one of {shorten(known)}")


def list_images(folder: str | os.PathLike) -> list[str]:
    """Sorted names of the image files directly in a folder. DataError: no such folder."""
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.name.lower().endswith(SUFFIXES) and e.is_file()]
            return sorted(name for name in names if not left_behind(name))
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed, expected a folder of images: {error.strerror}") from error


def count_problems(found: Mapping[str, int], published: Mapping[str, int], source: str | os.PathLike) -> list[str]:
    """One line for every named count of source that is not the published one."""
    return [
        f"{source}: {found[name]:,} {name}, the published data set has {number:,}"
        for name, number in published.items()
        if found[name] != number
    ]


def gather_errors(function: Callable[[T], R], items: Iterable[T], found: list[str] | None = None) -> list[R]:
    """function of every item; where some raise DataError, one DataError with all their messages, see `raise_all`."""
    results, problems = [], []
    for item in items:
        try:
            results.append(function(item))
        except DataError as error:
            problems.append(str(error))
    raise_all(problems, found)
    return results


def raise_all(problems: Iterable[str], found: list[str] | None = None) -> None:
    """DataError with one line a problem, if there are any.

    found: the lines are added to it instead, and whoever called goes on with what is sound, as the doctor has it.
    """
    lines = [line for problem in problems for line in problem.split("\n")]
    if found is not None:
        found += lines
    elif lines:
        raise DataError("\n".join(lines))


def warn(lines: Iterable[str], found: list[str] | None = None) -> None:
    """Logs each line as a warning. found: takes them instead, behind 'warning: ', as the doctor has it."""
    if found is not None:
        found += [f"warning: {line}" for line in lines]
    else:
        for line in lines:
            logging.warning("%s", line)


def shorten(names: Iterable, limit: int = 8) -> str:
    """The first few names, and how many there are if that is not all of them."""
    words = [str(name) for name in names]
    return ", ".join(words[:limit]) + (f", ... ({len(words):,} in all)" if len(words) > limit else "")
