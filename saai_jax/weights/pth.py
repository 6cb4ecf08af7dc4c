"""PyTorch checkpoints without PyTorch: a reader of every torch.save format that runs no code from the file."""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import os
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, ClassVar, NamedTuple

import numpy as np

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # of torch 0.1.7 to 1.5
PYTHONS_OWN: Any = pickle._Unpickler  # the one in C would fill a dictionary before its keys can be looked at
MAX_DIMENSIONS = 64  # numpy's
MAX_OPERATIONS = 1_000_000  # a pickle; about fifty a tensor
ONLY = "only tensors are read; save model.state_dict()"
DTYPES = dict(Double="<f8", Float="<f4", Half="<f2", Long="<i8", Int="<i4", Short="<i2", Char="i1", Byte="u1")
DTYPES |= dict(BFloat16="<u2", Bool="u1")  # numpy has no bfloat16, and a byte above 1 is no bool: converted once read
OPCODES = """PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE
SHORT_BINUNICODE SHORT_BINSTRING EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS SETITEM
SETITEMS BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE NEWOBJ BUILD BINPERSID"""


class WeightsError(Exception):
    """A checkpoint cannot be read or does not fit the model; the message names the symbols and tensors at fault."""


class Storage(NamedTuple):
    """The name and declared length of a tensor's memory, as the pickle has them."""

    kind: str  # of DTYPES
    key: str | int
    length: int


@dataclasses.dataclass(eq=False)
class Tensor:
    """Where a tensor lies in its storage, or the tensor that a Parameter wraps; nothing is trusted before _array."""

    storage: Any = None
    offset: Any = 0
    size: Any = ()
    stride: Any = ()
    requires_grad: Any = False
    hooks: Any = None
    metadata: Any = None  # conjugated or negated when read

    def __setstate__(self, state: Any):
        match state:
            case (Tensor(), _, _, _, _):  # of a Parameter of the first torch versions
                self.storage = state[0]
            case (Storage(), _, _, _):  # of a tensor of theirs
                self.storage, self.offset, self.size, self.stride = state
            case (_, _, _) if self.storage:  # of torch below 0.4: requires_grad, volatile, hooks
                pass
            case _:
                raise WeightsError("refused: an object with a state of its own")


class Names(dict):
    """A dictionary without compound keys, for to hash one can take forever."""

    def __init__(self, pairs: Any = ()):  # of an OrderedDict from Python 2
        for name, value in pairs:
            self[name] = value
        if pairs:
            pairs.clear()  # or a file that names one list a million times would fill the memory

    def __setitem__(self, name: Any, value: Any):
        if not isinstance(name, str | int | float | None):
            raise WeightsError("refused: a dictionary with keys of a compound type")
        super().__setitem__(name, value)

    def __setstate__(self, state: Any):
        """Drops the attributes, _metadata, that torch hangs on an OrderedDict."""


class Score(Names):
    """Stands, empty, for a number or an array of numpy that was saved beside the weights."""

    def __init__(self, *arguments: Any):
        pass


SYMBOLS: dict[str, Any] = {"collections.OrderedDict": Names, "torch.nn.parameter.Parameter": Tensor}
SYMBOLS |= {f"torch._utils._rebuild_{what}": Tensor for what in ("tensor", "tensor_v2", "parameter")}
SYMBOLS |= {f"torch.{package}{kind}Tensor": Tensor for package in ("", "cuda.") for kind in DTYPES}  # of 2016
SYMBOLS |= {f"torch.{kind}Storage": kind for kind in DTYPES}
SYMBOLS |= dict.fromkeys(("numpy.ndarray", "numpy.dtype", "_codecs.encode"), Score)
SYMBOLS |= {f"numpy.{c}.multiarray.{name}": Score for c in ("core", "_core") for name in ("_reconstruct", "scalar")}


def _storage_of(pid: Any) -> Storage:
    """What a persistent id names; views into another storage, which torch below 0.4 could write, are refused."""
    match pid:
        case ("storage", str(kind), str(key), _, int(length)) | ("storage", str(kind), str(key), _, int(length), None):
            return Storage(kind, key, length)
        case ("storage", *_, view) if view is not None:
            raise WeightsError("refused: a view of a storage (view metadata)")
    raise WeightsError(f"refused: a persistent object that is no storage; {ONLY}")


class _Unpickler(PYTHONS_OWN):
    dispatch: ClassVar = {**PYTHONS_OWN.dispatch, pickle.EMPTY_DICT[0]: lambda self: self.append(Names())}

    def find_class(self, module: str, name: str) -> Any:
        if (symbol := f"{module}.{name}") not in SYMBOLS:
            raise WeightsError(f"refused symbol {symbol[:200]!r}: {ONLY}")
        return SYMBOLS[symbol]


def _unpickle(stream: io.BytesIO, persistent: Callable[[Any], Any] = _storage_of) -> Any:
    """The next pickle in the stream, of OPCODES and SYMBOLS; persistent gives what a persistent id names."""
    start, known = stream.tell(), set(OPCODES.split())
    for count, (opcode, _, _) in enumerate(pickletools.genops(stream)):
        if opcode.name not in known:
            raise WeightsError(f"refused pickle opcode {opcode.name}: {ONLY}")
        if count > MAX_OPERATIONS:
            raise WeightsError(f"a pickle of more than {MAX_OPERATIONS} operations")
    stream.seek(start)
    unpickler = _Unpickler(stream, encoding="latin-1")
    unpickler.persistent_load = persistent
    return unpickler.load()


def _check_end(*streams: io.BytesIO):
    if any(stream.read(1) for stream in streams):
        raise WeightsError("damaged: more bytes follow where the content ends")


def _check_machine(little_endian: Any):
    if little_endian is not True:
        raise WeightsError("damaged, or written on a big-endian machine")


def _read_storage(stream: io.BytesIO, kind: str) -> bytes:
    (length,) = struct.unpack("<q", stream.read(8))
    content = stream.read(size := length * np.dtype(DTYPES[kind]).itemsize)
    if length < 0 or len(content) != size:
        raise WeightsError(f"cut short: {len(content)} bytes of a storage of {length} elements")
    return content


def _open_zip(file: BinaryIO) -> tuple[Any, Callable[[str], bytes]]:
    """What was saved and a function from a storage's key to its bytes; the format since torch 1.6."""
    if not zipfile.is_zipfile(file):
        raise WeightsError("cut short")
    archive = zipfile.ZipFile(file)
    members = archive.infolist()
    # torch stores without compression, so more content than file is a zip bomb or a broken directory
    if sum(info.file_size for info in members) > os.fstat(file.fileno()).st_size:
        raise WeightsError("declares more bytes than the file has (compressed or damaged)")
    if packed := [info.filename for info in members if info.compress_type != zipfile.ZIP_STORED]:
        raise WeightsError(f"{packed[0]} is compressed, which torch.save does not do")
    pickles = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise WeightsError(f"a zip, but not of torch.save: {len(pickles)} data.pkl members in it")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in archive.namelist():
        _check_machine(archive.read(f"{root}byteorder") == b"little")
    state = _unpickle(stream := io.BytesIO(archive.read(pickles[0])))
    _check_end(stream)
    return state, lambda key: archive.read(f"{root}data/{key}")


def _open_legacy(stream: io.BytesIO) -> tuple[Any, Callable[[str], bytes]]:
    """As _open_zip, of torch 0.1.7 to 1.5: five pickles, then the storages."""
    if _unpickle(stream) != MAGIC or _unpickle(stream) != VERSION:
        raise WeightsError(f"a pickle, but not of torch.save: no magic number with version {VERSION}")
    _check_machine(_unpickle(stream).get("little_endian"))
    kinds: dict[str | int, str] = {}

    def persistent(pid: Any) -> Storage:
        storage = _storage_of(pid)
        if kinds.setdefault(storage.key, storage.kind) != storage.kind:
            raise WeightsError(f"storage {storage.key} is of two types")
        return storage

    state, keys = _unpickle(stream, persistent), _unpickle(stream)
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
    if missing := {"sys_info", "storages", "tensors", "pickle"} - members.keys():
        raise WeightsError(f"a tar, but not of torch.save or cut short: no {sorted(missing)} in it")
    system, storages, tensors, pickled = (members[name] for name in ("sys_info", "storages", "tensors", "pickle"))
    _check_machine(_unpickle(system).get("little_endian"))
    found, held = {}, {}
    for _ in range(_unpickle(storages)):
        key, _, kind = _unpickle(storages)
        # A nested tuple would be hashed, and printed, for ever.
        if type(key) not in (int, str) or type(kind) is not str or kind not in DTYPES:
            raise WeightsError("damaged: a storage whose key or type is none")
        held[key] = _read_storage(storages, kind)
        found[key] = Storage(kind, key, len(held[key]) // np.dtype(DTYPES[kind]).itemsize)
    if _unpickle(storages):
        raise WeightsError("refused: a view of a storage")
    for _ in range(_unpickle(tensors)):
        key, root, _ = _unpickle(tensors)
        if type(key) not in (int, str) or type(root) not in (int, str, type(None)):
            raise WeightsError("damaged: a tensor whose key is none")
        (ndim,) = struct.unpack("<i4x", tensors.read(8))
        size, stride = (struct.unpack(f"<{ndim}q", tensors.read(8 * ndim)) for _ in range(2))
        found[key] = Tensor(found.get(root), *struct.unpack("<q", tensors.read(8)), size, stride)
    state = _unpickle(pickled, lambda pid: found[int(pid)])
    _check_end(system, storages, tensors, pickled)
    return state, held.__getitem__


def read_pth(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a torch checkpoint of any age by name, as read-only arrays; bfloat16 becomes float32.

    {'state_dict': ...}, {'model': ...} and {'net': ...} are unwrapped, whatever stands beside them, and a 'module.'
    prefix is dropped. Runs no code from the file. Raises WeightsError for anything else than tensors and any damage.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(512)
            if head.startswith(b"PK\3\4"):
                return _arrays(*_open_zip(file))
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
            state = next((state[k] for k in ("state_dict", "model", "net") if isinstance(state.get(k), dict)), state)
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
    tensor = tensor.storage if isinstance(tensor.storage, Tensor) else tensor
    storage, offset, size, stride = tensor.storage, tensor.offset, tensor.size, tensor.stride
    if not isinstance(storage, Storage) or len(size) > MAX_DIMENSIONS:
        raise WeightsError(f"{name}: no storage, or more than {MAX_DIMENSIONS} dimensions")
    if tensor.metadata or any(type(n) is not int or n < 0 for n in (storage.length, offset, *size, *stride)):
        raise WeightsError(f"{name}: negative or odd size, stride or offset, or metadata of its own")
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
