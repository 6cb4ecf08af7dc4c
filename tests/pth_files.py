"""Writers of torch.save's formats without torch, for states that torch itself would never write."""

import io
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from typing import ClassVar

import numpy as np

MAGIC, VERSION, SYSTEM = 0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}
DATA = np.arange(6, dtype="<f4").tobytes()


class Global:
    """Pickles as the bare symbol module.name, called with the arguments if there are any, then given the state."""

    def __init__(self, symbol, *arguments, state=None, opcode=pickle.REDUCE):
        self.symbol, self.arguments, self.state, self.opcode = symbol, arguments, state, opcode


class _Writer(pickle._Pickler):  # the Python one: it can be taught to write symbols that cannot be imported here
    dispatch: ClassVar = dict(pickle._Pickler.dispatch)
    legacy = False

    def _global(self, value):
        module, name = value.symbol.rsplit(".", 1)
        self.write(f"c{module}\n{name}\n".encode())
        if value.arguments or value.state is not None:
            self.save(tuple(value.arguments))
            self.write(value.opcode)
        if value.state is not None:
            self.save(value.state)
            self.write(pickle.BUILD)

    dispatch[Global] = _global

    def persistent_id(self, obj):
        if isinstance(obj, tuple) and obj[:1] == ("pid",):
            return obj[1] if len(obj) == 2 else (*obj[1:], None)[: 6 if self.legacy else 5]
        return None


def storage(kind="FloatStorage", key="0", length=6):
    return ("pid", "storage", Global(f"torch.{kind}"), key, "cpu", length)


def tensor(size, stride, offset=0, store=None):
    arguments = (store or storage(), offset, size, stride, False, OrderedDict())
    return Global("torch._utils._rebuild_tensor_v2", *arguments)


def dumps(value, legacy=False):
    stream = io.BytesIO()
    writer = _Writer(stream, 2)
    writer.legacy = legacy
    writer.dump(value)
    return stream.getvalue()


def write_zip(path, pickled, data=DATA, byteorder=b"little", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/byteorder", byteorder)
        archive.writestr("a/data/0", data)


def write_legacy(path, pickled, data=DATA, keys=("0",), header=(MAGIC, VERSION, SYSTEM)):
    head = b"".join(dumps(value) for value in header)
    path.write_bytes(head + pickled + dumps(list(keys)) + struct.pack("<q", 6) + data)


def write(path, state, form="zip"):
    """The state with one storage, '0', of the floats 0 to 5."""
    dict(zip=write_zip, legacy=write_legacy)[form](path, dumps(state, form == "legacy"))
    return path


def write_state(path, arrays, wrap=lambda state: state):
    """A state dict of float32 arrays in one storage, and num_batches_tracked as torch has them: wrap puts it away."""
    content = np.concatenate([array.ravel() for array in arrays.values()]).astype("<f4")
    content = np.append(content, content[: len(content) % 2])  # so that whole long integers can be read from it too
    store, state, offset = storage(length=len(content)), {}, 0
    for name, array in arrays.items():
        strides = tuple(step // array.itemsize for step in np.ascontiguousarray(array).strides)
        state[name], offset = tensor(array.shape, strides, offset, store), offset + array.size
        if name.endswith("running_mean"):
            counted = name.replace("running_mean", "num_batches_tracked")
            state[counted] = tensor((), (), 0, storage("LongStorage", length=1))
    write_zip(path, dumps(wrap(state)), content.tobytes())
    return path


def write_tar(path, state, views=(), **replaced):
    """As torch 0.1.6: ('pid', '7') in the state is the tensor [[0, 2, 4], [1, 3, 5]]; replaced: whole members."""
    members = {
        "sys_info": dumps(SYSTEM),
        "pickle": dumps(state),
        "tensors": dumps(1) + dumps((7, 3, Global("torch.FloatTensor"))) + struct.pack("<i4x5q", 2, 2, 3, 1, 2, 0),
        "storages": dumps(1) + dumps((3, "cpu", Global("torch.FloatStorage"))) + struct.pack("<q", 6) + DATA,
    }
    members["storages"] += dumps(list(views))
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
        for name, content in {**members, **replaced}.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1.5  # a fraction makes an extended header, as Python 3 did
            archive.addfile(info, io.BytesIO(content))
    return path
