"""PyTorch checkpoints without PyTorch: a reader that runs no code, and the map between torch's names and ours."""

from __future__ import annotations

import functools
import io
import math
import os
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict


class WeightsError(Exception):
    """A checkpoint cannot be read, or does not fit the model; the message names every file, symbol or tensor at fault."""


# --- reading ---

LEGACY = """not a zip-format torch file. If PyTorch can read it, convert it once, where torch is installed:
  python -c "import torch; torch.save(torch.load('{0}', map_location='cpu', weights_only=True), '{0}.zip.pth')\""""

DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",  # numpy has no bfloat16: widened to float32 below
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|u1",
}

# What torch.save writes for a state dict. The rest of the pickle language only serves other objects and attacks:
# some opcodes allocate whatever size they are told.
OPCODES = frozenset(
    "PROTO FRAME STOP MARK MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET GLOBAL STACK_GLOBAL BINPERSID REDUCE BUILD "
    "EMPTY_DICT SETITEM SETITEMS EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE".split()
)
MAX_TUPLES = 20_000  # four a tensor; hashing tuples nested 300,000 deep overflows the C stack and kills the process


class _Dict(dict):
    """collections.OrderedDict, without the attributes (_metadata) that torch hangs on it."""

    __slots__ = ()

    def __setstate__(self, state):
        pass


class _Storage(NamedTuple):
    kind: Any
    key: Any
    length: Any


class _Tensor:
    """Where a tensor lies in its storage; nothing is trusted before _array."""

    __slots__ = ("offset", "size", "storage", "stride")

    def __init__(self, storage, offset, size, stride, *_):
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def __setstate__(self, state):  # also shuts the way to setattr on the class itself
        raise WeightsError("refused: a tensor with a state of its own")


class _Parameter(_Tensor):
    def __new__(cls, tensor, *_):
        return tensor


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) == ("collections", "OrderedDict"):
            return _Dict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _Parameter
        if module == "torch" and name in DTYPES:
            return name
        raise WeightsError(f"refused symbol {f'{module}.{name}'!r}: only tensors are read; save model.state_dict()")

    def persistent_load(self, pid):
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"):
            raise WeightsError("refused persistent id: not a storage")
        return _Storage(pid[1], pid[2], pid[4])


def read_pth(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a zip-format torch checkpoint by name, as read-only arrays; bfloat16 becomes float32.

    {'state_dict': ...} and {'model': ...} are unwrapped, a 'module.' prefix is dropped. Runs no code from the file.
    Raises WeightsError for anything else than tensors, any damage, and files older than torch 1.6's zip format.
    """
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                file.seek(0)
                raise WeightsError("cut short" if file.read(4) == b"PK\3\4" else LEGACY.format(path))
            with zipfile.ZipFile(file) as archive:
                return _state_dict(archive, os.path.getsize(path))
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file") from error
    except Exception as error:  # pickle and zipfile raise nearly every type on damaged input
        raise WeightsError(f"{path}: damaged: {type(error).__name__}: {error}") from error


def _state_dict(archive: zipfile.ZipFile, size: int) -> dict[str, np.ndarray]:
    # torch stores without compression, so more content than file is a zip bomb or a broken directory
    if sum(info.file_size for info in archive.infolist()) > size:
        raise WeightsError("declares more bytes than the file has (compressed or damaged)")
    pickles = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise WeightsError(f"a zip, but not of torch.save: {len(pickles)} data.pkl members in it")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
        raise WeightsError("written on a big-endian machine")
    data = archive.read(pickles[0])
    _check_opcodes(data)
    state = _Unpickler(io.BytesIO(data)).load()
    while isinstance(state, dict) and (inner := [k for k in ("state_dict", "model") if isinstance(state.get(k), dict)]):
        state = state[inner[0]]
    if not isinstance(state, dict) or not state:
        raise WeightsError("holds no state dict")
    if other := [name for name, value in state.items() if not isinstance(name, str) or not isinstance(value, _Tensor)]:
        raise WeightsError(f"not a state dict: these entries are no named tensors: {_listed(map(repr, other))}")
    if len({name.removeprefix("module.") for name in state}) < len(state):
        raise WeightsError("the same name with and without 'module.'")

    @functools.cache
    def load(kind: str, key: str) -> np.ndarray:
        return np.frombuffer(archive.read(f"{root}data/{key}"), DTYPES[kind])

    return {name.removeprefix("module."): _array(name, tensor, load) for name, tensor in state.items()}


def _check_opcodes(data: bytes):
    operations = list(pickletools.genops(data))
    for opcode, argument, _ in operations:
        if opcode.name not in OPCODES:
            raise WeightsError(f"refused pickle opcode {opcode.name}: only tensors are read; save model.state_dict()")
        if opcode.name == "LONG_BINPUT" and argument > len(operations):  # the memo would be allocated to that length
            raise WeightsError(f"damaged: memo entry {argument} among {len(operations)} operations")
    if sum(opcode.name.startswith("TUPLE") for opcode, _, _ in operations) > MAX_TUPLES:
        raise WeightsError(f"refused: more than {MAX_TUPLES} tuples")


def _array(name: str, tensor: _Tensor, load: Callable[[str, str], np.ndarray]) -> np.ndarray:
    storage, offset, size, stride = tensor.storage, tensor.offset, tensor.size, tensor.stride
    if not (isinstance(storage, _Storage) and isinstance(storage.kind, str) and isinstance(storage.key, str)):
        raise WeightsError(f"{name}: has no storage")
    if not (isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride)):
        raise WeightsError(f"{name}: size and stride do not match")
    if any(type(number) is not int or number < 0 for number in (storage.length, offset, *size, *stride)):
        raise WeightsError(f"{name}: negative or odd size {size}, stride {stride}, offset {offset}")
    values = load(storage.kind, storage.key)
    if len(values) < storage.length:
        raise WeightsError(f"{name}: its storage has {len(values)} elements of the {storage.length} declared")
    last = offset + sum((number - 1) * step for number, step in zip(size, stride, strict=True))
    if math.prod(size) > len(values) or (math.prod(size) and last >= len(values)):
        raise WeightsError(f"{name}: {size} from element {offset}, stride {stride}, is not in {len(values)} elements")
    # A view, never a copy: a file that names one storage a million times costs no memory.
    steps = [step * values.itemsize if math.prod(size) else 0 for step in stride]
    view = np.lib.stride_tricks.as_strided(values[offset:], size, steps, writeable=False)
    if storage.kind == "BFloat16Storage":
        return (view.astype(np.uint32) << 16).view(np.float32)
    return view != 0 if storage.kind == "BoolStorage" else view


# --- naming ---

CONV, LINEAR, SAME = (2, 3, 1, 0), (1, 0), None  # torch axes in our order: OIHW -> HWIO, [n d] -> [d n]


def _norm(torch: str, ours: str) -> list[tuple[str, str, None]]:
    return [
        (f"{torch}.weight", f"params/{ours}/scale", SAME),
        (f"{torch}.bias", f"params/{ours}/bias", SAME),
        (f"{torch}.running_mean", f"batch_stats/{ours}/mean", SAME),
        (f"{torch}.running_var", f"batch_stats/{ours}/var", SAME),
    ]


# (torch's name, our path, axes). {x} stands for a number, the same on both sides; a path that ends in /0 or /1 is a row.
TABLE = [
    ("backbone.conv1.weight", "params/backbone/conv1/kernel", CONV),
    *_norm("backbone.bn1", "backbone/bn1"),
    ("backbone.layer{s}.{j}.conv{i}.weight", "params/backbone/layer{s}_{j}/conv{i}/kernel", CONV),
    *_norm("backbone.layer{s}.{j}.bn{i}", "backbone/layer{s}_{j}/bn{i}"),
    ("backbone.layer{s}.{j}.downsample.0.weight", "params/backbone/layer{s}_{j}/downsample_conv/kernel", CONV),
    *_norm("backbone.layer{s}.{j}.downsample.1", "backbone/layer{s}_{j}/downsample_bn"),
    ("backbone.MAM{s}.channel_attention.0.weight", "params/backbone/mam{s}/squeeze/kernel", CONV),
    ("backbone.MAM{s}.channel_attention.2.weight", "params/backbone/mam{s}/excite/kernel", CONV),
    ("attn_pool.part_tokens", "params/safl/prototypes", SAME),
    ("attn_pool.pos_embeding", "params/safl/position", SAME),
    ("bn_neck.bn_neck_v.weight", "params/neck/scale/0", SAME),
    ("bn_neck.bn_neck_i.weight", "params/neck/scale/1", SAME),
    ("bn_neck.bn_neck_v.running_mean", "batch_stats/neck/mean/0", SAME),
    ("bn_neck.bn_neck_i.running_mean", "batch_stats/neck/mean/1", SAME),
    ("bn_neck.bn_neck_v.running_var", "batch_stats/neck/var/0", SAME),
    ("bn_neck.bn_neck_i.running_var", "batch_stats/neck/var/1", SAME),
    ("classifier.weight", "params/shared_classifier/kernel", LINEAR),
    ("visible_classifier.weight", "params/visible_classifier/kernel", LINEAR),
    ("infrared_classifier.weight", "params/infrared_classifier/kernel", LINEAR),
    ("visible_classifier_.weight", "teacher/visible", LINEAR),
    ("infrared_classifier_.weight", "teacher/infrared", LINEAR),
]
FROZEN = ("bn_neck.bn_neck_v.bias", "bn_neck.bn_neck_i.bias")  # zero in every release; our neck has no bias


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w)\\\}", r"(?P<\1>[0-9]+)", re.escape(template)))


_TO_OURS = [(_pattern(torch), ours, axes) for torch, ours, axes in TABLE]
_TO_TORCH = [(_pattern(ours), torch, axes) for torch, ours, axes in TABLE]


def _rename(name: str, rows: list) -> tuple[str, tuple[int, ...] | None] | None:
    for pattern, template, axes in rows:
        if match := pattern.fullmatch(name):
            return template.format(**match.groupdict()), axes
    return None


def _slots(variables: Mapping, teacher: Mapping | None) -> dict[str, np.ndarray]:
    """Views of every array that has a torch tensor of its own, by our path, with torch's axes."""
    slots = {}
    for path, array in flatten_dict({**variables, "teacher": teacher or {}}, sep="/").items():
        rows = enumerate(array) if "/neck/" in path else ()
        for slot, part in ((f"{path}/{row}", part) for row, part in rows) if "/neck/" in path else ((path, array),):
            ...
    return slots
