"""Pickles written to exhaust or to mislead the interpreter; what torch writes is read in test_pth.py."""

import io

import pytest

from saai_jax.weights import unpickle
from saai_jax.weights.pth import read_pth
from saai_jax.weights.unpickle import WeightsError
from tests.pth_files import DATA, MAGIC, SYSTEM, VERSION, Global, dumps, tensor, write_legacy, write_zip


def doubled(times: int) -> bytes:
    """A tuple that holds the last one twice, so many times over; to hash, compare or print it takes forever."""
    return b"K\x01q\x00" + b"".join(b"h\x00h\x00\x86q\x00" for _ in range(times))


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"\x80\x02}r\xff\xff\xff\xff.", "no state dict|storages listed"),  # the standard one would allocate 64 GB
        (b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".", "damaged|refused"),  # a bytearray of 1 TB
        (b"\x80\x02})" + b"\x85" * 300_000 + b"K\x01s.", "compound"),  # would overflow the stack when hashed
        (b"\x80\x02}q\x01" + doubled(100) + b"h\x01h\x00K\x01s.", "compound"),
        (b"\x80\x02X\x01\x00\x00\x00w" + doubled(100) + b"\x93.", "damaged"),
        (b"\x80\x02" + doubled(100) + b"Q.", "no storage"),
        (b"\x80\x02" + b"]" * 1_100_000 + b".", "more than 1000000 operations"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x04\x00\x00\x00sizeNs\x86b.", "state of its own"),
        (b"\x80\x02}X\x01\x00\x00\x00wctorch\nFloatStorage\n}bs.", "state of its own"),
        (b"\x80\x02X\x02\x00\x00\x00os)R.", "refused pickle opcode REDUCE"),  # a call of a string
        (b"\x80\x02]}e.", "damaged"),  # no mark
        (b"\x80\x02\x85.", "damaged"),  # nothing to take
        (b"\x80\x02]K\x01K\x02s.", "compound"),  # an item set in a list
        (b"\x80\x02}(X\x01\x00\x00\x00wu.", "damaged"),  # a key without a value
        (b"\x80\x02cbuiltins\ngetattr\n.", "refused symbol 'builtins.getattr'"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "refused symbol 'os.system'"),
        (b"\x80\x02(ios\nsystem\n.", "refused pickle opcode INST"),
        (b"", "damaged"),
    ],
)
def test_hostile_pickles(tmp_path, pickled, message, write):
    write(tmp_path / "a.pth", pickled)
    with pytest.raises(WeightsError, match=message) as error:
        read_pth(tmp_path / "a.pth")
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("place", range(5))
def test_each_pickle_of_a_legacy_file_is_restricted(tmp_path, place):
    pickles = [dumps(value, True) for value in (MAGIC, VERSION, SYSTEM, {"w": tensor((6,), (1,))}, ["0"])]
    pickles[place] = dumps(Global("os.system", f"touch {tmp_path}/never"))
    (tmp_path / "a.pth").write_bytes(b"".join(pickles) + b"\6" + bytes(7) + DATA)
    with pytest.raises(WeightsError, match="a.pth: refused symbol 'os.system'"):
        read_pth(tmp_path / "a.pth")
    assert not (tmp_path / "never").exists()


def test_a_dictionary_in_itself_is_no_state_dict(tmp_path):
    write_zip(tmp_path / "a.pth", b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.")
    with pytest.raises(WeightsError, match="no named tensors: 'model'"):
        read_pth(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "nested",
    [
        b")" + b"\x85" * 300_000,
        b"ctorch._utils\n_rebuild_tensor\nq\x01N" + b"q\x02h\x01(h\x02K\x00))tR" * 100_000,  # as each other's storage
    ],
)
def test_deep_nesting_is_freed(nested):
    assert unpickle.unpickle(io.BytesIO(nested + b".")) is not None


def test_a_list_of_pairs_is_used_up():
    pairs = Global("collections.OrderedDict", [["a", 1], ["b", 2]])
    assert unpickle.unpickle(io.BytesIO(dumps(pairs))) == {"a": 1, "b": 2}
    again = b"ccollections\nOrderedDict\nq\x00]q\x01]K\x01aK\x02aa\x85Rh\x00h\x01\x85R\x86."
    assert unpickle.unpickle(io.BytesIO(again)) == ({1: 2}, {})
