"""golden/torch_2_13.pth: torch.save({'state_dict': {'module.' + name: tensor}, 'epoch': 3}) by torch 2.13.0, on CPU."""

import io
import pathlib
import pickle
import zipfile
from collections import OrderedDict
from typing import ClassVar

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saai_jax.torch_weights import WeightsError, from_torch, read_pth, to_torch_names

GOLDEN = pathlib.Path(__file__).parent / "golden" / "torch_2_13.pth"


def test_reads_what_torch_wrote():
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = {
        "float": base,
        "transposed": base.T,
        "slice": base[1:3, 2:5],
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "half": np.array([0.5, -1.25], np.float16),
        "double": np.array([1e300]),
        "bfloat16": np.array([1.5, -3.0, 0.0078125], np.float32),
        "long": np.array([-5, 2**40]),
        "bool": np.array([True, False, True]),
        "int8": np.array([-7], np.int8),
        "uint8": np.array([200], np.uint8),
        "int32": np.array([-(2**31)], np.int32),
        "int16": np.array([-300], np.int16),
        "parameter": np.array([[1, 2]], np.float32),
    }
    arrays = read_pth(GOLDEN)
    assert list(arrays) == list(expected)
    for name, array in expected.items():
        assert arrays[name].dtype == array.dtype, name
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


class _Global:
    """Pickles as the bare symbol module.name, called with the arguments."""

    def __init__(self, symbol, *arguments):
        self.symbol, self.arguments = symbol, arguments


class _Writer(pickle._Pickler):  # the Python one: it can be taught to write symbols that cannot be imported here
    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def _global(self, value):
        module, name = value.symbol.rsplit(".", 1)
        self.write(f"c{module}\n{name}\n".encode())
        if value.arguments is not None and value.arguments != ():
            self.save(tuple(value.arguments))
            self.write(pickle.REDUCE)

    dispatch[_Global] = _global

    def persistent_id(self, obj):
        return obj[1:] if isinstance(obj, tuple) and obj[:1] == ("pid",) else None


def storage(kind="FloatStorage", key="0", length=6):
    return ("pid", "storage", _Global(f"torch.{kind}"), key, "cpu", length)


def tensor(size, stride, offset=0, store=None):
    arguments = (store or storage(), offset, size, stride, False, OrderedDict())
    return _Global("torch._utils._rebuild_tensor_v2", *arguments)


def write(path, state, byteorder=b"little"):
    stream = io.BytesIO()
    _Writer(stream, 2).dump(state)
    write_raw(path, stream.getvalue(), np.arange(6, dtype="<f4").tobytes(), byteorder)
    return path


def write_raw(path, pickled, data=b"", byteorder=b"little", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/byteorder", byteorder)
        archive.writestr("a/data/0", data)


def test_unwraps_and_strips(tmp_path):
    for state in ({"model": {"module.w": tensor((2, 3), (3, 1))}, "epoch": 1}, {"w": tensor((2, 3), (3, 1))}):
        arrays = read_pth(write(tmp_path / "a.pth", state))
        np.testing.assert_array_equal(arrays["w"], np.arange(6).reshape(2, 3))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"w": _Global("os.system", "touch /tmp/never")}, r"refused symbol 'os.system'"),
        ({"w": _Global("builtins.eval", "1")}, r"refused symbol 'builtins.eval'"),
        ({"w": _Global("torch.ComplexFloatStorage")}, "ComplexFloatStorage"),
        ({"w": tensor((7,), (1,))}, "is not in 6 elements"),
        ({"w": tensor((2,), (1,), offset=5)}, "is not in 6 elements"),
        ({"w": tensor((2,), (-1,), offset=3)}, "negative"),
        ({"w": tensor((2,), (1,), offset=-1)}, "negative"),
        ({"w": tensor((-2,), (1,))}, "negative"),
        ({"w": tensor((2**40, 2**40), (0, 0))}, "is not in 6 elements"),
        ({"w": tensor((2**70,), (1,))}, "is not in 6 elements"),
        ({"w": tensor((0, 2**70), (1, 1))}, "damaged"),
        ({"w": tensor((2,), (1, 1))}, "damaged"),
        ({"w": tensor((6,), (1,), store=storage(length=7))}, "6 elements of the 7 declared"),
        ({"w": tensor((6,), (1,), store=storage(length=2**60))}, "declared"),
        ({"w": tensor((6,), (1,), store=storage(key="9"))}, "damaged"),
        ({"w": tensor((1,), (1,), store=storage("DoubleStorage", length=4))}, "3 elements of the 4"),
        ({"w": 1.5, "v": tensor((6,), (1,))}, "no named tensors: 'w'"),
        ({"w": tensor((6,), (1,)), "module.w": tensor((6,), (1,))}, "with and without"),
        ({}, "no state dict"),
        ([1], "no state dict"),
    ],
)
def test_refuses(tmp_path, state, message):
    with pytest.raises(WeightsError, match=message) as error:
        read_pth(write(tmp_path / "a.pth", state))
    assert "a.pth" in str(error.value)


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"\x80\x02}r\xff\xff\xff\xff.", "memo"),  # would allocate 64 GB
        (b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".", "damaged|refused"),  # a bytearray of 1 TB
        (b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s.", "tuples"),  # would overflow the stack when hashed
        (
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x04\x00\x00\x00sizeNs\x86b.",
            "damaged",
        ),  # setattr on a class
        (b"\x80\x02}X\x01\x00\x00\x00wctorch\nFloatStorage\n}bs.", "damaged"),  # setstate on a symbol
        (b"", "damaged"),
    ],
)
def test_hostile_pickles(tmp_path, pickled, message):
    write_raw(tmp_path / "a.pth", pickled)
    with pytest.raises(WeightsError, match=message):
        read_pth(tmp_path / "a.pth")


def test_damaged_files(tmp_path):
    path, content = tmp_path / "a.pth", GOLDEN.read_bytes()
    for damaged, message in [
        (content[: len(content) // 2], "cut short"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", r"torch\.save\(torch\.load\(.*a\.pth"),  # the legacy magic number
        (b"", "not a zip-format"),
    ]:
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=message):
            read_pth(path)
    write(path, {"w": tensor((6,), (1,))}, byteorder=b"big")
    with pytest.raises(WeightsError, match="big-endian"):
        read_pth(path)
    write(path, {"w": tensor((6,), (1,))})
    at = path.read_bytes().index(np.arange(6, dtype="<f4").tobytes())
    flipped = bytearray(path.read_bytes())
    flipped[at + 5] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(WeightsError, match="CRC"):
        read_pth(path)
    write_raw(path, b"\x80\x02}.", bytes(10**6), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="declares more bytes"):
        read_pth(path)
    with pytest.raises(WeightsError, match="no such file"):
        read_pth(tmp_path / "none.pth")


edits = st.lists(st.tuples(st.integers(0, 2**16), st.sampled_from("=+-"), st.integers(0, 255)), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(edits, st.booleans())
def test_mutated_bytes_give_weights_error_or_arrays(tmp_path_factory, edits, inside):
    """inside: the pickle is changed and zipped anew, so that no CRC protects the unpickler."""
    with zipfile.ZipFile(GOLDEN) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))
    content = bytearray(members[pickled] if inside else GOLDEN.read_bytes())
    for position, edit, byte in edits:
        position %= len(content)
        content[position : position + (edit != "+")] = b"" if edit == "-" else bytes([byte])
    path = tmp_path_factory.getbasetemp() / "mutated.pth"
    if inside:
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in {**members, pickled: bytes(content)}.items():
                archive.writestr(name, data)
    else:
        path.write_bytes(content)
    try:
        arrays = read_pth(path)
    except WeightsError:
        return
    assert all(isinstance(name, str) and isinstance(array, np.ndarray) for name, array in arrays.items())
    for array in arrays.values():
        array.copy()


def norm(width):
    return {"scale": np.zeros(width), "bias": np.zeros(width)}, {"mean": np.zeros(width), "var": np.zeros(width)}


def model(mam=True):
    """Zeros in the names and axes of saai_jax.models, narrow: d 6, n 5 identities, c 4, r 2."""
    stem, stem_stats = norm(3)
    block, block_stats = norm(4)
    backbone = {
        "conv1": {"kernel": np.zeros((7, 7, 3, 3))},
        "bn1": stem,
        "layer1_0": {
            "conv2": {"kernel": np.zeros((3, 3, 2, 4))},
            "bn2": block,
            "downsample_conv": {"kernel": np.zeros((1, 1, 3, 4))},
            "downsample_bn": block,
        },
    }
    if mam:
        backbone["mam4"] = {"squeeze": {"kernel": np.zeros((1, 1, 4, 2))}, "excite": {"kernel": np.zeros((1, 1, 2, 4))}}
    heads = {f"{name}_classifier": {"kernel": np.zeros((6, 5))} for name in ("shared", "visible", "infrared")}
    safl = {"prototypes": np.zeros((2, 4)), "position": np.zeros((9, 4))}
    layer_stats = {"bn2": block_stats, "downsample_bn": block_stats}
    variables = {
        "params": {"backbone": backbone, "safl": safl, "neck": {"scale": np.zeros((2, 6))}, **heads},
        "batch_stats": {
            "backbone": {"bn1": stem_stats, "layer1_0": layer_stats},
            "neck": {"mean": np.zeros((2, 6)), "var": np.zeros((2, 6))},
        },
    }
    return jax.tree.map(lambda x: np.asarray(x, np.float32), variables)


def checkpoint(mam=True):
    shapes = {
        "backbone.conv1.weight": (3, 3, 7, 7),
        "backbone.layer1.0.conv2.weight": (4, 2, 3, 3),
        "backbone.layer1.0.downsample.0.weight": (4, 3, 1, 1),
        "attn_pool.part_tokens": (2, 4),
        "attn_pool.pos_embeding": (9, 4),
    }
    norms = {"backbone.bn1": 3, "backbone.layer1.0.bn2": 4, "backbone.layer1.0.downsample.1": 4}
    norms |= {"bn_neck.bn_neck_v": 6, "bn_neck.bn_neck_i": 6}
    for name, width in norms.items():
        shapes |= {f"{name}.{leaf}": (width,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    if mam:
        shapes["backbone.MAM4.channel_attention.0.weight"] = (2, 4, 1, 1)
        shapes["backbone.MAM4.channel_attention.2.weight"] = (4, 2, 1, 1)
    for name in ("", "visible_", "infrared_"):
        shapes[f"{name}classifier.weight"] = (5, 6)
    shapes |= {f"{m}_classifier_.weight": (5, 6) for m in ("visible", "infrared")}
    random = np.random.RandomState(0)
    state = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    state |= {f"bn_neck.bn_neck_{m}.bias": np.zeros(6, np.float32) for m in "vi"}
    return state | {f"{name}.num_batches_tracked": np.array(7) for name in norms}


@pytest.mark.parametrize("mam", [True, False])
def test_from_torch_and_back(mam):
    state, variables = checkpoint(mam), model(mam)
    loaded = from_torch(state, variables)
    params, stats = loaded.variables["params"], loaded.variables["batch_stats"]
    assert jax.tree.structure(loaded.variables) == jax.tree.structure(variables)
    assert not any(x.any() for x in jax.tree.leaves(variables)), "the given variables were written to"
    conv = state["backbone.layer1.0.conv2.weight"]
    np.testing.assert_array_equal(params["backbone"]["layer1_0"]["conv2"]["kernel"][2, 1, 1, 3], conv[3, 1, 2, 1])
    np.testing.assert_array_equal(params["neck"]["scale"][1], state["bn_neck.bn_neck_i.weight"])
    np.testing.assert_array_equal(stats["neck"]["var"][0], state["bn_neck.bn_neck_v.running_var"])
    np.testing.assert_array_equal(params["shared_classifier"]["kernel"], state["classifier.weight"].T)
    assert loaded.teacher is not None
    np.testing.assert_array_equal(loaded.teacher["infrared"], state["infrared_classifier_.weight"].T)
    back = to_torch_names(*loaded)
    assert set(back) == {n for n in state if "tracked" not in n and not (n.startswith("bn_neck") and "bias" in n)}
    for name, array in back.items():
        np.testing.assert_array_equal(array, state[name], err_msg=name)


def test_from_torch_reports_everything_at_once():
    state = checkpoint()
    state["backbone.surprise.weight"] = np.zeros(3, np.float32)
    state["bn_neck.bn_neck_v.bias"] = np.full(6, 0.1, np.float32)
    state["classifier.weight"] = state["classifier.weight"][:4]
    del state["attn_pool.part_tokens"], state["visible_classifier_.weight"]
    with pytest.raises(WeightsError) as error:
        from_torch(state, model())
    for line in (
        "1 not in the model: backbone.surprise.weight",
        "2 missing in the file: attn_pool.part_tokens, visible_classifier_.weight",
        "1 of another shape or type: classifier.weight (file float32 (4, 6), model (5, 6))",
        "1 not zero, but frozen at zero in every release: bn_neck.bn_neck_v.bias",
    ):
        assert line in str(error.value)
    with pytest.raises(WeightsError, match=r"not in the model: backbone\.MAM4"):
        from_torch(checkpoint(), model(mam=False))


def test_without_ema_classifiers_there_is_no_teacher():
    state = {name: array for name, array in checkpoint().items() if not name.endswith("_classifier_.weight")}
    assert from_torch(state, model()).teacher is None


def test_partial_fills_the_backbone_alone():
    state = {n.removeprefix("backbone."): a for n, a in checkpoint(mam=False).items() if n.startswith("backbone.")}
    state |= {"fc.weight": np.zeros((1000, 8), np.float32), "fc.bias": np.zeros(1000, np.float32)}
    variables = jax.tree.map(lambda x: x + 5, model())
    filled, teacher = from_torch(state, variables, partial=True)
    assert teacher is None
    np.testing.assert_array_equal(filled["params"]["backbone"]["bn1"]["scale"], state["bn1.weight"])
    for untouched in ("mam4", "safl", "neck"):
        tree = filled["params"]["backbone"] if untouched == "mam4" else filled["params"]
        assert all((x == 5).all() for x in jax.tree.leaves(tree[untouched]))
    del state["layer1.0.bn2.running_var"]
    with pytest.raises(WeightsError, match=r"1 missing in the file: backbone\.layer1\.0\.bn2\.running_var"):
        from_torch(state, variables, partial=True)


def test_to_torch_names_refuses_unknown_arrays():
    with pytest.raises(WeightsError, match="params/extra/kernel"):
        to_torch_names({"params": {"extra": {"kernel": np.zeros((2, 2))}}})
