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
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np


class WeightsError(Exception):
    """A checkpoint cannot be read or does not fit the model; the message names the symbols and tensors at fault."""


LEGACY = """not a zip-format torch file. If PyTorch can read it, convert it once, where torch is installed:
  python -c "import torch; torch.save(torch.load('{0}', map_location='cpu', weights_only=True), '{0}.zip.pth')\""""

DTYPES = dict(Double="<f8", Float="<f4", Half="<f2", Long="<i8", Int="<i4", Short="<i2", Char="i1", Byte="u1")
DTYPES |= dict(BFloat16="<u2", Bool="u1")  # numpy has no bfloat16, and a byte above 1 is no bool: converted once read

# What torch.save writes for a state dict. The rest of the pickle language only serves other objects and attacks:
# some opcodes allocate whatever size they are told.
OPCODES = """
    PROTO FRAME STOP MARK MEMOIZE BINPUT BINGET LONG_BINPUT LONG_BINGET GLOBAL STACK_GLOBAL BINPERSID REDUCE NEWOBJ
    BUILD EMPTY_DICT SETITEM SETITEMS EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE
"""
MAX_TUPLES = 20_000  # four a tensor; hashing tuples nested 300,000 deep overflows the C stack and kills the process


class _Dict(dict):
    """collections.OrderedDict, without the attributes (_metadata) that torch hangs on it."""

    __slots__ = ()

    def __setstate__(self, state):
        pass


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
        if module == "torch" and name.removesuffix("Storage") in DTYPES:
            return name.removesuffix("Storage")
        raise WeightsError(f"refused symbol {f'{module}.{name}'!r}: only tensors are read; save model.state_dict()")

    def persistent_load(self, pid):
        return pid  # ('storage', type, key, device, length), looked at in _array


def read_pth(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a zip-format torch checkpoint by name, as read-only arrays; bfloat16 becomes float32.

    {'state_dict': ...} and {'model': ...} are unwrapped, a 'module.' prefix is dropped. Runs no code from the file.
    Raises WeightsError for anything else than tensors, any damage, and files older than torch 1.6's zip format.
    """
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
        values = np.frombuffer(archive.read(f"{root}data/{key}"), DTYPES[kind])
        if kind == "BFloat16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values != 0 if kind == "Bool" else values

    return {name.removeprefix("module."): _array(name, tensor, load) for name, tensor in state.items()}


def _check_opcodes(data: bytes):
    operations = [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(data)]
    if odd := {name for name, _ in operations} - set(OPCODES.split()):
        raise WeightsError(f"refused pickle opcodes {sorted(odd)}: only tensors are read; save model.state_dict()")
    # the memo is allocated up to its largest entry
    if any(name == "LONG_BINPUT" and int(argument or 0) > len(operations) for name, argument in operations):
        raise WeightsError("a memo entry beyond the number of operations")
    if sum(name.startswith("TUPLE") for name, _ in operations) > MAX_TUPLES:
        raise WeightsError(f"more than {MAX_TUPLES} tuples")


def _array(name: str, tensor: _Tensor, load: Callable[[str, str], np.ndarray]) -> np.ndarray:
    offset, size, stride = tensor.offset, tensor.size, tensor.stride
    _, kind, key, _, length = tensor.storage
    if any(type(number) is not int or number < 0 for number in (length, offset, *size, *stride)):
        raise WeightsError(f"{name}: negative or odd size {size}, stride {stride}, offset {offset}")
    values = load(kind, key)
    if len(values) < length:
        raise WeightsError(f"{name}: its storage has {len(values)} elements of the {length} declared")
    last = offset + sum((number - 1) * step for number, step in zip(size, stride, strict=True))
    if math.prod(size) > len(values) or (math.prod(size) and last >= len(values)):
        raise WeightsError(f"{name}: {size} from element {offset}, stride {stride}, is not in {len(values)} elements")
    # A view, never a copy: a file that names one storage a million times costs no memory.
    steps = [step * values.itemsize if math.prod(size) else 0 for step in stride]
    return np.lib.stride_tricks.as_strided(values[offset:], size, steps, writeable=False)


# Our modules and torch's. The neck's rows and the EMA classifiers are written as modules of their own, see _slots.
TABLE = [
    (r"backbone/((?:conv|bn)1)", r"backbone.\1"),
    (r"backbone/layer(\d)_(\d+)/((?:conv|bn)\d)", r"backbone.layer\1.\2.\3"),
    (r"backbone/layer(\d)_(\d+)/downsample_conv", r"backbone.layer\1.\2.downsample.0"),
    (r"backbone/layer(\d)_(\d+)/downsample_bn", r"backbone.layer\1.\2.downsample.1"),
    (r"backbone/mam(\d)/squeeze", r"backbone.MAM\1.channel_attention.0"),
    (r"backbone/mam(\d)/excite", r"backbone.MAM\1.channel_attention.2"),
    (r"safl", r"attn_pool"),
    (r"neck/0", r"bn_neck.bn_neck_v"),
    (r"neck/1", r"bn_neck.bn_neck_i"),
    (r"shared_classifier", r"classifier"),
    (r"(visible|infrared)_classifier", r"\1_classifier"),
    (r"teacher/(visible|infrared)", r"\1_classifier_"),
]
LEAVES = dict(kernel="weight", scale="weight", bias="bias", mean="running_mean", var="running_var")
LEAVES |= dict(prototypes="part_tokens", position="pos_embeding")  # the release's spelling
TORCH_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}  # of a kernel: HWIO -> OIHW, [d n] -> [n d]
FROZEN = ("bn_neck.bn_neck_v.bias", "bn_neck.bn_neck_i.bias")  # zero in every release; our neck has no bias


class Loaded(NamedTuple):
    """variables: as given, filled; teacher: the EMA classifiers {'visible': f[d n], 'infrared': f[d n]}, or None."""

    variables: dict[str, Any]
    teacher: dict[str, np.ndarray] | None


def _slots(variables: Mapping, teacher: Mapping | None) -> dict[str, np.ndarray]:
    """Every array under torch's name, as a view with torch's axes: writing to it writes to `variables`."""
    tree = {**variables, "teacher": {f"teacher/{modality}": {"kernel": w} for modality, w in (teacher or {}).items()}}
    slots = {}
    for keys, array in jax.tree.leaves_with_path(tree):
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        module, leaf = path.split("/", 1)[1].rsplit("/", 1)
        for place, part in [("neck/0", array[0]), ("neck/1", array[1])] if module == "neck" else [(module, array)]:
            names = [match.expand(torch) for ours, torch in TABLE if (match := re.fullmatch(ours, place))]
            if not names or leaf not in LEAVES:
                raise WeightsError(f"no torch name is known for {path}")
            axes = TORCH_AXES[part.ndim] if leaf == "kernel" else range(part.ndim)
            slots[f"{names[0]}.{LEAVES[leaf]}"] = part.transpose(axes)
    return slots


def to_torch_names(variables: Mapping, teacher: Mapping | None = None) -> dict[str, np.ndarray]:
    """The arrays of `variables` (or of gradients, as {'params': ...}) by torch's names, with torch's axes.

    teacher: as in Loaded. Raises WeightsError for an array that torch's model does not have.
    """
    return _slots(jax.tree.map(np.asarray, dict(variables)), jax.tree.map(np.asarray, teacher))


def from_torch(state_dict: Mapping[str, np.ndarray], variables: Mapping, *, partial: bool = False) -> Loaded:
    """A copy of `variables` ({'params': ..., 'batch_stats': ...}) filled from a released SAAI state dict, as numpy.

    partial: from torchvision's ImageNet ResNet: its fc is ignored; heads, MAM and neck keep their values.
    Raises WeightsError naming at once every tensor unknown to the model, missing in the file, or of another shape.
    """
    if partial:
        state_dict = {f"backbone.{name}": a for name, a in state_dict.items() if not name.startswith("fc.")}
    filled = jax.tree.map(np.array, dict(variables))
    teacher = None
    if any(name.endswith("_classifier_.weight") for name in state_dict) and "visible_classifier" in filled["params"]:
        teacher = {m: np.empty_like(filled["params"][f"{m}_classifier"]["kernel"]) for m in ("visible", "infrared")}
    slots = _slots(filled, teacher)
    unknown, shapes, frozen = [], [], []
    missing = {n for n in slots if not partial or (n.startswith("backbone.") and not n.startswith("backbone.MAM"))}
    for name, array in state_dict.items():
        missing.discard(name)
        if name in FROZEN:
            frozen += [name] if np.any(array) else []
        elif name.endswith(".num_batches_tracked"):
            continue
        elif name not in slots:
            unknown.append(name)
        elif array.shape != slots[name].shape or array.dtype.kind != "f":
            shapes.append(f"{name} (file {array.dtype} {array.shape}, model {slots[name].shape})")
        else:
            slots[name][...] = array
    problems = {"not in the model": unknown, "missing in the file": sorted(missing), "of another shape or type": shapes}
    problems["not zero, but frozen at zero in every release"] = frozen
    if any(problems.values()):
        raise WeightsError("\n".join(f"{len(n)} {what}: {_listed(n)}" for what, n in problems.items() if n))
    return Loaded(filled, teacher)


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:40]) + (f" and {len(names) - 40} more" if len(names) > 40 else "")
