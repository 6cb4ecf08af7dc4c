"""The pickles in torch.save's files, read by an interpreter that knows state dicts and nothing else."""

from __future__ import annotations

import dataclasses
import io
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple


class WeightsError(Exception):
    """A checkpoint cannot be read or does not fit the model; the message names the symbols and tensors at fault."""


DTYPES = dict(Double="<f8", Float="<f4", Half="<f2", Long="<i8", Int="<i4", Short="<i2", Char="i1", Byte="u1")
DTYPES |= dict(BFloat16="<u2", Bool="u1")  # numpy has no bfloat16, and a byte above 1 is no bool: converted once read

ONLY = "only tensors are read; save model.state_dict()"
TAKES = dict(APPEND=1, SETITEM=2, TUPLE1=1, TUPLE2=2, TUPLE3=3)  # operands of a pickle opcode
MAX_OPERATIONS = 1_000_000  # a pickle; about fifty a tensor


class Storage(NamedTuple):
    """The name and declared length of a tensor's memory, as the pickle has them."""

    kind: str  # of DTYPES
    key: str | int
    length: int


@dataclasses.dataclass(slots=True, eq=False)
class Tensor:
    """Where a tensor lies in its storage; nothing is trusted before pth._array."""

    storage: Any = None
    offset: Any = 0
    size: Any = ()
    stride: Any = ()


def _tensor(storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None) -> Tensor:
    if metadata:  # conjugated or negated when read
        raise WeightsError("refused: a tensor with metadata of its own")
    return Tensor(storage, offset, size, stride)


def _wrapped(tensor=None, requires_grad=False, hooks=None) -> Tensor:
    return tensor if isinstance(tensor, Tensor) else Tensor()  # without arguments: filled by _set_state


def _ordered_dict(pairs=None) -> dict:
    if pairs is None:
        return {}
    values = _set_items({}, [part for key, value in pairs for part in (key, value)])  # Python 2 writes a list of pairs
    pairs.clear()  # or a file that names one list a million times would fill the memory
    return values


SYMBOLS: dict[str, Any] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _wrapped,
    "torch.nn.parameter.Parameter": _wrapped,
}
SYMBOLS |= {f"torch.{kind}Storage": kind for kind in DTYPES}
SYMBOLS |= {f"torch.{package}{kind}Tensor": _wrapped for package in ("", "cuda.") for kind in DTYPES}  # of 2016


def _set_items(values: Any, items: list) -> dict:
    if type(values) is not dict or not all(isinstance(key, str | int | float | None) for key in items[::2]):
        raise WeightsError("refused: a dictionary with keys of a compound type")  # whose hash can take forever
    values.update(zip(items[::2], items[1::2], strict=True))
    return values


def _set_state(target: Any, state: Any):
    match target, state:
        case dict(), _:  # the attributes, _metadata, that torch hangs on an OrderedDict
            pass
        case Tensor(), (Tensor() as data, _, _, _, _):  # a Parameter of the first torch versions
            _set_state(target, (data.storage, data.offset, data.size, data.stride))
        case Tensor(), (Storage(), _, _, _):  # a tensor of theirs
            target.storage, target.offset, target.size, target.stride = state
        case Tensor(storage=Storage()), (_, _, _):  # of torch below 0.4: requires_grad, volatile, hooks
            pass
        case _:
            raise WeightsError("refused: an object with a state of its own")


def unpickle(stream: io.BytesIO, persistent: Callable[[Any], Any] | None = None) -> Any:
    """The next pickle in the stream; the opcodes and SYMBOLS are those that torch.save writes for a state dict.

    An interpreter of its own: the standard one hashes and allocates whatever it is told to, without an end. Work and
    memory here are linear in the file's size.
    """
    stack, marked, memo = [], [], {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count > MAX_OPERATIONS:
            raise WeightsError(f"a pickle of more than {MAX_OPERATIONS} operations")
        items = []
        if opcode.name in ("TUPLE", "APPENDS", "SETITEMS"):
            items, stack = stack, marked.pop()
        elif opcode.name in TAKES:
            items = [stack.pop() for _ in range(TAKES[opcode.name])][::-1]
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marked.append(stack)
                stack = []
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                memo[len(memo) if argument is None else argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "SHORT_BINSTRING":  # the last by Python 2
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append(dict(NONE=None, NEWTRUE=True, NEWFALSE=False)[opcode.name])
            case "EMPTY_DICT" | "EMPTY_LIST":
                stack.append({} if opcode.name == "EMPTY_DICT" else [])
            case "EMPTY_TUPLE" | "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(items))
            case "APPEND" | "APPENDS" if type(stack[-1]) is list:
                stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                _set_items(stack[-1], items)
            case "GLOBAL" | "STACK_GLOBAL":
                module, name = argument.split(" ", 1) if argument else (stack.pop(-2), stack.pop())
                if (symbol := ".".join([module, name])) not in SYMBOLS:
                    raise WeightsError(f"refused symbol {symbol[:200]!r}: {ONLY}")
                stack.append(SYMBOLS[symbol])
            case "REDUCE" | "NEWOBJ" if type(stack[-1]) is tuple and callable(stack[-2]):
                arguments = stack.pop()
                stack.append(stack.pop()(*arguments))
            case "BUILD":
                state = stack.pop()
                _set_state(stack[-1], state)
            case "BINPERSID" if persistent:
                stack.append(persistent(stack.pop()))
            case _:
                raise WeightsError(f"refused pickle opcode {opcode.name}: {ONLY}")


def storage_of(pid: Any) -> Storage:
    """What a persistent id names; views into another storage, which torch below 0.4 could write, are refused."""
    match pid:
        case ("storage", str(kind), str(key), _, int(length)) | ("storage", str(kind), str(key), _, int(length), None):
            return Storage(kind, key, length)
        case ("storage", *_, view) if view is not None:
            raise WeightsError("refused: a view of a storage (view metadata)")
    raise WeightsError(f"refused: a persistent object that is no storage; {ONLY}")
