"""MATLAB's files of version 5 to 7, as far as data sets use them: numbers, and cells of cells of them.

SciPy's reader ends the whole process on some damaged files, and this one cannot: every length is checked against the
bytes that are there, and nothing is larger than the file can hold.
"""

from __future__ import annotations

import math
import os
import zlib
from pathlib import Path

import numpy as np

from input_pipeline.index import DataError

# By the numbers that the format gives them: how elements are stored, and the classes of matrices.
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
MATRIX, COMPRESSED = 14, 15
CELL, CLASSES = 1, {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
COMPLEX = 0x800
MOST = 1 << 28  # bytes of one unpacked variable; the permutations of SYSU-MM01 are a few hundred kB
DEPTH = 8  # cells in cells


class Damaged(Exception):
    """The bytes are not those of such a file."""


def read_mat(path: str | os.PathLike, name: str) -> np.ndarray:
    """The variable of that name: an array of numbers, or one of objects, a cell each.

    DataError: missing, damaged, of another version, without such a variable, or with one of another kind.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read, expected a MATLAB file with {name!r}: {error.strerror}") from error
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None or int(np.frombuffer(data[124:126], f"{order}u2")[0]) != 0x0100:
        raise DataError(f"{path}: cannot be read, expected a MATLAB file (version 5 to 7, not 7.3) with {name!r}")
    try:
        for kind, content in _elements(data[128:], order):
            unpacked = _unpacked(content) if kind == COMPRESSED else None
            for inner, body in _elements(unpacked, order) if unpacked is not None else [(kind, content)]:
                if inner == MATRIX and (found := _matrix(body, order, name)) is not None:
                    return found
    except Damaged as error:
        raise DataError(f"{path}: cannot be read, damaged or not of plain numbers: {error}") from error
    raise DataError(f"{path}: holds no variable {name!r}")


def _elements(data: bytes, order: str) -> list[tuple[int, bytes]]:
    """Kind and content of the elements that stand one after the other."""
    found, at = [], 0
    while at < len(data):
        if len(data) - at < 8:
            raise Damaged("cut short")
        kind, size = map(int, np.frombuffer(data, f"{order}u4", 2, at))
        if kind >> 16:  # up to four bytes stand in the header itself
            kind, size, begin, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
            if size > 4:
                raise Damaged(f"{size} bytes where four fit")
        else:
            begin = at + 8
            end = begin + (size if kind == COMPRESSED else -(-size // 8) * 8)
        if begin + size > len(data):
            raise Damaged("cut short")
        found.append((kind, data[begin : begin + size]))
        at = end
    return found


def _unpacked(content: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(content, MOST)
    except zlib.error as error:
        raise Damaged(str(error)) from error
    if not stream.eof:
        raise Damaged(f"a compressed variable that is cut short, or of more than {MOST} bytes")
    return data


def _matrix(body: bytes, order: str, name: str | None, depth: int = 0) -> np.ndarray | None:
    """The array of a matrix element; None if its name is another one. name: None for a cell's content."""
    if not body:  # how MATLAB writes an empty cell; as a variable it has no name
        return np.zeros((0, 0)) if name is None else None
    # The name first: what else a file holds may be of any kind.
    parts = _elements(body, order)
    if len(parts) < 3:
        raise Damaged("a variable without flags, shape and name")
    (_, flags), (_, shape), (_, called), *values = parts
    if name is not None and called != name.encode():
        return None
    if len(flags) != 8 or not 8 <= len(shape) <= 128 or len(shape) % 4:
        raise Damaged("a variable without flags and shape")
    flag = int(np.frombuffer(flags, f"{order}u4", 1)[0])
    sizes = [int(size) for size in np.frombuffer(shape, f"{order}i4")]
    number, kind = math.prod(sizes), flag & 0xFF
    if min(sizes) < 0 or depth > DEPTH:
        raise Damaged(f"shape {sizes}, cells in {depth} cells")
    if kind == CELL:
        if len(values) != number or any(stored != MATRIX for stored, _ in values):
            raise Damaged(f"{len(values)} cells of the {number} declared")
        array = np.empty(number, object)
        for i, (_, content) in enumerate(values):
            array[i] = _matrix(content, order, None, depth + 1)
    elif kind in CLASSES and not flag & COMPLEX:
        stored, content = values[0] if values else (2, b"")
        if len(values) > 1 or stored not in STORED or len(content) != number * np.dtype(STORED[stored]).itemsize:
            raise Damaged(f"{len(content)} bytes of numbers for shape {sizes}")
        with np.errstate(invalid="ignore"):  # whole doubles are stored as small integers, never the other way
            array = np.frombuffer(content, order + STORED[stored]).astype(CLASSES[kind])
    else:
        raise Damaged(f"a matrix of class {kind}, neither real numbers nor cells")
    try:
        return array.reshape(sizes, order="F")
    except ValueError as error:  # of no elements, and more in another direction than numpy can count
        raise Damaged(f"shape {sizes}") from error
