"""PyTorch checkpoints without PyTorch: a reader of every torch.save format that runs no code from the file."""

from __future__ import annotations

import functools
import io
import math
import os
import struct
import zipfile
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from saai_jax.weights.unpickle import DTYPES, Storage, Tensor, WeightsError, storage_of, unpickle

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # of torch 0.1.7 to 1.5
MAX_DIMENSIONS = 64  # numpy's


def _read_storage(stream: io.BytesIO, kind: str) -> bytes:
    (length,) = struct.unpack("<q", stream.read(8))
    content = stream.read(size := length * np.dtype(DTYPES[kind]).itemsize)
    if length < 0 or len(content) != size:
        raise WeightsError(f"cut short: {len(content)} bytes of a storage of {length} elements")
    return content


def _unpickle_all(stream: io.BytesIO, persistent: Callable[[Any], Any] | None = None) -> Any:
    value = unpickle(stream, persistent)
    _check_end(stream)
    return value


def _check_end(stream: io.BytesIO):
    if stream.read(1):
        raise WeightsError("damaged: more bytes follow where the content ends")


def _check_machine(sys_info: Any):
    if type(sys_info) is not dict or sys_info.get("little_endian") is not True:
        raise WeightsError("damaged, or written on a big-endian machine")


def _open_zip(archive: zipfile.ZipFile, size: int) -> tuple[Any, Callable[[str], bytes]]:
    """What was saved and a function from a storage's key to its bytes; the format since torch 1.6."""
    # torch stores without compression, so more content than file is a zip bomb or a broken directory
    if sum(info.file_size for info in archive.infolist()) > size:
        raise WeightsError("declares more bytes than the file has (compressed or damaged)")
    pickles = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise WeightsError(f"a zip, but not of torch.save: {len(pickles)} data.pkl members in it")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in archive.namelist():
        _check_machine({"little_endian": archive.read(f"{root}byteorder") == b"little"})
    state = _unpickle_all(io.BytesIO(archive.read(pickles[0])), storage_of)
    return state, lambda key: archive.read(f"{root}data/{key}")


def _open_legacy(stream: io.BytesIO) -> tuple[Any, Callable[[str], bytes]]:
    """As _open_zip, of torch 0.1.7 to 1.5: five pickles, then the storages."""
    if unpickle(stream) != MAGIC or unpickle(stream) != VERSION:
        raise WeightsError(f"a pickle, but not of torch.save: no magic number with version {VERSION}")
    _check_machine(unpickle(stream))
    kinds: dict[str | int, str] = {}

    def persistent(pid: Any) -> Storage:
        storage = storage_of(pid)
        if kinds.setdefault(storage.key, storage.kind) != storage.kind:
            raise WeightsError(f"storage {storage.key} is of two types")
        return storage

    state, keys = unpickle(stream, persistent), unpickle(stream)
    if type(keys) is not list or any(type(key) is not str for key in keys) or sorted(keys) != sorted(kinds):
        raise WeightsError("damaged: the storages listed are not those of the tensors")
    held = {key: _read_storage(stream, kinds[key]) for key in keys}
    _check_end(stream)
    return state, held.__getitem__


def _open_tar(data: bytes) -> tuple[Any, Callable[[int], bytes]]:
    """As _open_zip, of torch before 0.1.7, and of torchvision's first ResNets: a tar of four members."""
    members, at = {}, 0
    while data[at : at + 1].strip(b"\0"):  # tarfile itself would follow sparse and endless members
        size = int(data[at + 124 : at + 136].strip(b"\0 "), 8)
        if not 0 <= size <= len(data) - at - 512:
            raise WeightsError("cut short, or a damaged tar")
        members[data[at : at + 100].rstrip(b"\0").decode()] = io.BytesIO(data[at + 512 : at + 512 + size])
        at += 512 + -(-size // 512) * 512
    if data[at:].strip(b"\0"):
        raise WeightsError("damaged: more bytes follow where the tar ends")
    if missing := {"sys_info", "pickle", "tensors", "storages"} - set(members):
        raise WeightsError(f"a tar, but not of torch.save or cut short: no {sorted(missing)} in it")
    _check_machine(_unpickle_all(members["sys_info"]))
    found: dict[int | None, Storage | Tensor] = {}
    held: dict[int, bytes] = {}
    for _ in range(unpickle(stream := members["storages"])):
        match unpickle(stream):
            case (int(key), _, str(kind)):
                held[key] = _read_storage(stream, kind)
                found[key] = Storage(kind, key, len(held[key]) // np.dtype(DTYPES[kind]).itemsize)
            case _:
                raise WeightsError("damaged: a storage without a key and a type")
    if unpickle(stream) != []:
        raise WeightsError("refused: a view of a storage")
    _check_end(stream)
    for _ in range(unpickle(stream := members["tensors"])):
        match unpickle(stream):
            case (int(key), int(root) | (None as root), _):
                (ndim,) = struct.unpack("<i4x", stream.read(8))
                size, stride = (struct.unpack(f"<{ndim}q", stream.read(8 * ndim)) for _ in range(2))
                found[key] = Tensor(found.get(root), *struct.unpack("<q", stream.read(8)), size, stride)
            case _:
                raise WeightsError("damaged: a tensor without a key and a storage")
    _check_end(stream)
    return _unpickle_all(members["pickle"], lambda pid: found[int(pid)]), held.__getitem__


def read_pth(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a torch checkpoint of any age by name, as read-only arrays; bfloat16 becomes float32.

    {'state_dict': ...} and {'model': ...} are unwrapped, a 'module.' prefix is dropped. Runs no code from the file.
    Raises WeightsError for anything else than tensors and for any damage.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(512)
            if head.startswith(b"PK\3\4"):
                if not zipfile.is_zipfile(file):
                    raise WeightsError("cut short")
                with zipfile.ZipFile(file) as archive:
                    return _arrays(*_open_zip(archive, os.path.getsize(path)))
            if head[257:262] == b"ustar":
                return _arrays(*_open_tar(head + file.read()))
            if head.startswith(b"\x80"):
                return _arrays(*_open_legacy(io.BytesIO(head + file.read())))
            raise WeightsError("not a file of torch.save: neither a zip, nor a pickle, nor a tar")
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file") from error
    except Exception as error:  # damaged input raises nearly every type
        raise WeightsError(f"{path}: damaged: {type(error).__name__}: {error}") from error


def _arrays(state: Any, read: Callable[[Any], bytes]) -> dict[str, np.ndarray]:
    for _ in range(3):  # a dictionary can hold itself
        if isinstance(state, dict):
            state = next((state[k] for k in ("state_dict", "model") if isinstance(state.get(k), dict)), state)
    if not isinstance(state, dict) or not state:
        raise WeightsError("holds no state dict")
    if other := [name for name, value in state.items() if not isinstance(name, str) or not isinstance(value, Tensor)]:
        raise WeightsError(f"not a state dict: these entries are no named tensors: {listed(map(repr, other))}")
    if len({name.removeprefix("module.") for name in state}) < len(state):
        raise WeightsError("the same name with and without 'module.'")

    @functools.cache
    def load(kind: str, key: str | int) -> np.ndarray:
        values = np.frombuffer(read(key), DTYPES[kind])
        if kind == "BFloat16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values != 0 if kind == "Bool" else values

    return {name.removeprefix("module."): _array(name, tensor, load) for name, tensor in state.items()}


def _array(name: str, tensor: Tensor, load: Callable[[str, str | int], np.ndarray]) -> np.ndarray:
    storage, offset, size, stride = tensor.storage, tensor.offset, tensor.size, tensor.stride
    if not isinstance(storage, Storage) or len(size) > MAX_DIMENSIONS:
        raise WeightsError(f"{name}: no storage, or more than {MAX_DIMENSIONS} dimensions")
    if any(type(number) is not int or number < 0 for number in (storage.length, offset, *size, *stride)):
        raise WeightsError(f"{name}: negative or odd size, stride or offset")
    values = load(storage.kind, storage.key)
    if len(values) < storage.length:
        raise WeightsError(f"{name}: its storage has {len(values)} elements of the {storage.length} declared")
    last = offset + sum((number - 1) * step for number, step in zip(size, stride, strict=True))
    if math.prod(size) > len(values) or (math.prod(size) and last >= len(values)):
        raise WeightsError(f"{name}: {size} from element {offset}, stride {stride}, is not in {len(values)} elements")
    # A view, never a copy: a file that names one storage a million times costs no memory.
    steps = [step * values.itemsize if math.prod(size) else 0 for step in stride]
    return np.lib.stride_tricks.as_strided(values[offset:], size, steps, writeable=False)


def listed(names: Iterable[str]) -> str:
    """The first forty names in a line, and how many more there are."""
    names = list(names)
    return ", ".join(names[:40]) + (f" and {len(names) - 40} more" if len(names) > 40 else "")
