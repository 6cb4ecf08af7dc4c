"""One's own pictures: a folder of images of one modality, without any data set's layout."""

from __future__ import annotations

import io
import os

import numpy as np
from absl import logging
from PIL import Image

from input_pipeline import batches
from input_pipeline.images import SUFFIXES, Folder, Size, decode, gather_errors, left_behind, opened, resize, shorten
from input_pipeline.index import INFRARED, VISIBLE, DataError, Index

UNKNOWN = -1  # the identity of a picture that nobody has named
MODALITIES = {"visible": VISIBLE, "infrared": INFRARED}
ORIENTATION = 0x0112  # the EXIF tag, and what undoes each of its values; 1 is upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_folder(root: str | os.PathLike, modality: str, *, identities: bool = False) -> Index:
    """Every .jpg, .jpeg, .png and .bmp below a folder, by path; modality: visible or infrared, of all of them.

    Identities are UNKNOWN or, if asked for, the numbers that name the folders directly below root; the camera is 1
    for visible and 2 for infrared pictures. What systems leave behind is left out (`images.left_behind`), other files
    with a warning that names them. Nothing is decoded. ValueError: another modality. DataError: no such folder, none of
    its files is a picture, a pipe or device, a name that is no UTF-8, a picture outside of a folder that is a number if
    identities are asked for. Links to files are followed, those to folders are not.
    """
    if modality not in MODALITIES:
        raise ValueError(f"modality is {modality!r}, expected {' or '.join(MODALITIES)}")
    files = _files(root)
    gather_errors(lambda path: _refuse_odd(os.path.join(root, path)), files)
    paths = [path for path in files if path.lower().endswith(SUFFIXES)]
    if not paths:
        found = f"holds {shorten(files)}" if files else "is empty"
        raise DataError(f"{root}: {found}, expected pictures: files that end in {', '.join(SUFFIXES)}")
    if others := sorted(set(files) - set(paths)):
        logging.warning("%s: left out what does not end in %s: %s", root, ", ".join(SUFFIXES), shorten(others))

    def identity(path: str) -> int:
        folder, below, _ = path.partition("/")
        if not (below and folder.isascii() and folder.isdecimal() and int(folder) <= np.iinfo(np.int32).max):
            raise DataError(f"{os.path.join(root, path)}: expected in a folder named by the identity's number")
        return int(folder)

    numbers = gather_errors(identity, paths) if identities else np.full(len(paths), UNKNOWN)
    kind = MODALITIES[modality]
    return Index(np.array(paths), np.array(numbers), np.full(len(paths), kind + 1), np.full(len(paths), kind))


def _refuse_odd(path: str) -> None:
    """What would wait forever when it is read, and names that no features file could keep."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise DataError(f"{path}: a pipe or a device, expected files")
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{path!a}: the name is no UTF-8, rename it") from error


def _files(root: str | os.PathLike) -> list[str]:
    """Sorted paths, relative to root and with slashes, of the files below it."""

    def stop(error: OSError):
        raise DataError(f"{error.filename}: cannot be listed, expected a folder of pictures: {error.strerror}")

    found = []
    for folder, below, names in os.walk(root, onerror=stop):
        below[:] = [name for name in below if not left_behind(name)]
        inside = os.path.relpath(folder, root)
        found += [os.path.normpath(os.path.join(inside, name)) for name in names if not left_behind(name)]
    return sorted(path.replace(os.sep, "/") for path in found)


class Pictures(Folder):
    """The encoded pictures of `read_folder`, turned upright where their EXIF orientation says that they are not.

    The data sets' own readers leave that tag unread, as the published ones do; a camera held upright writes it.
    """

    def __getitem__(self, i: int) -> bytes:
        return upright(super().__getitem__(i))


def upright(data: bytes) -> bytes:
    """An encoded JPEG as it is or, where its EXIF orientation is not the usual one, turned, as PNG.

    Other formats, and what cannot be read, are returned as they are: `images.decode` is what complains.
    """
    try:
        image = opened(data, "")
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1)) if image.format == "JPEG" else None
        if turn is None:
            return data
        turned = io.BytesIO()
        image.convert("RGB").transpose(turn).save(turned, "PNG")
        return turned.getvalue()
    except Exception:  # on bad bytes Pillow raises OSError, SyntaxError, ValueError, struct.error, ...
        return data


def decoded(root: str | os.PathLike, index: Index, rows: np.ndarray, size: Size) -> np.ndarray:
    """u8[* h w 3], the pictures of rows i32[*]. Raises DataError as `images.decode`."""
    return batches.decoded(Pictures(root, index), index, rows, size)


def read(path: str | os.PathLike, size: Size) -> np.ndarray:
    """u8[h w 3], one picture anywhere on disk. DataError: no such file, and as `images.decode`."""
    if not os.path.isfile(path):  # a pipe would wait forever
        raise DataError(f"{path}: no such file, expected a picture")
    with open(path, "rb") as file:
        return resize(decode(upright(file.read()), os.fspath(path)), size)
