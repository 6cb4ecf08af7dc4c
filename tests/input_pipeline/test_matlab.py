"""MATLAB's files, as SciPy writes them and reads them too, and damage that would end SciPy's reader."""

import json

import numpy as np
import pytest
import scipy.io

from input_pipeline import matlab
from input_pipeline.index import DataError
from saai_jax import foreign
from tests import foreign_files


def same(one, other):
    if other.dtype == object:
        assert isinstance(one, list)
        for a, b in zip(one, other.ravel(), strict=True):
            same(a, b)
    else:
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def cells(*values):
    array = np.empty((len(values), 1), object)
    for i, value in enumerate(values):
        array[i, 0] = value
    return array


ARRAYS = {kind: np.arange(6).reshape(2, 3).astype(kind) for kind in ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4")}
ARRAYS |= {
    "i8": np.array([[-(2**40)]]),
    "u8": np.array([[2**63]], np.uint64),
    "cube": np.linspace(0, 1, 24).reshape(2, 3, 4),
}
ARRAYS |= {"none": np.zeros((10, 0)), "small": np.array([[7]], np.uint8)}
ARRAYS["cells"] = cells(ARRAYS["u1"], cells(ARRAYS["f8"], cells(np.ones((1, 9)))), np.zeros((0, 0)))


@pytest.mark.parametrize("packed", [False, True])
def test_what_scipy_wrote_is_read_as_scipy_reads_it(tmp_path, packed):
    scipy.io.savemat(tmp_path / "a.mat", {"text": "other", **ARRAYS, "of": {"a": 1}}, do_compression=packed)
    found = foreign.read_arrays(tmp_path / "a.mat", [*ARRAYS, "none such"])
    assert set(found) == set(ARRAYS)
    for name, array in scipy.io.loadmat(tmp_path / "a.mat", variable_names=ARRAYS, mat_dtype=True).items():
        if name in ARRAYS:
            same(found[name], array)
    same(matlab.read_mat(tmp_path / "a.mat", "i8"), ARRAYS["i8"])


@pytest.mark.usefixtures("in_this_process")
def test_the_other_order_of_bytes(tmp_path):
    def element(kind, content):
        return np.array([kind, len(content)], ">u4").tobytes() + content + bytes(-len(content) % 8)

    parts = element(6, np.array([6, 0], ">u4").tobytes()) + element(5, np.array([1, 2], ">i4").tobytes())
    parts += element(1, b"id") + element(9, np.array([258.0, 3.0], ">f8").tobytes())
    (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0".ljust(124) + b"\1\0MI" + element(14, parts))
    same(matlab.read_mat(tmp_path / "a.mat", "id"), np.array([[258.0, 3.0]]))


@pytest.mark.usefixtures("in_this_process")
def test_what_is_no_such_file_is_named(tmp_path):
    def refuse(message, name="a", file="a.mat"):
        with pytest.raises(DataError, match=rf"{file}: .*{message}"):
            matlab.read_mat(tmp_path / file, name)

    refuse("cannot be read, expected a MATLAB file with 'a': No such file", file="none.mat")
    scipy.io.savemat(tmp_path / "a.mat", {"s": "text", "c": np.array([[1j]]), "st": {"a": 1}, "z": np.eye(4)})
    refuse("holds no variable 'a'")
    refuse("'s' is neither real numbers nor cells of them", "s")
    refuse("expected a MATLAB file with 'st': st: not a plain array of numbers", "st")
    refuse("expected a MATLAB file with 'c': damaged, or not a .mat of plain arrays: .*complex", "c")
    whole = (tmp_path / "a.mat").read_bytes()
    for length in range(0, len(whole), 9):
        (tmp_path / "a.mat").write_bytes(whole[:length])
        refuse("cannot be read|no variable", "z")
    scipy.io.savemat(tmp_path / "a.mat", {"a": np.eye(4)}, format="4")
    same(matlab.read_mat(tmp_path / "a.mat", "a"), np.eye(4))
    foreign_files.mat73(tmp_path / "a.mat", {"a": np.eye(4, dtype="f4"), "t": np.array(["b", "c"])})
    same(matlab.read_mat(tmp_path / "a.mat", "a"), np.eye(4, dtype="f4"))
    refuse("'t' is neither real numbers nor cells of them", "t")
    for odd in (cells("b", "c"), cells(np.eye(2), cells("b"))):
        scipy.io.savemat(tmp_path / "a.mat", {"a": odd})
        refuse("'a' is neither real numbers nor cells of them")
    scipy.io.savemat(tmp_path / "a.mat", {"a": cells("b", np.eye(2))})
    refuse("cell 1 of a is not one string")
    nested = np.ones((1, 1))
    for _ in range(20):
        nested = cells(nested)
    scipy.io.savemat(tmp_path / "a.mat", {"a": nested})
    refuse("cells in 9 cells")


@pytest.mark.usefixtures("in_this_process")
def test_claims_are_held_against_the_bytes_that_are_there(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"a": np.ones((3, 4))})
    whole = (tmp_path / "a.mat").read_bytes()
    at = whole.index(np.array([3, 4], "<i4").tobytes())
    for shape in ((2**31 - 1, 2**31 - 1), (-3, -4), (3, 5), (0, 4)):
        (tmp_path / "a.mat").write_bytes(whole[:at] + np.array(shape, "<i4").tobytes() + whole[at + 8 :])
        with pytest.raises(DataError, match=r"a\.mat: cannot be read, .*'a': damaged"):
            matlab.read_mat(tmp_path / "a.mat", "a")


def test_what_unpacks_to_more_than_plain_numbers_do_is_refused(tmp_path, monkeypatch, capsys):
    scipy.io.savemat(tmp_path / "a.mat", {"a": np.zeros((1000, 1000))}, do_compression=True)
    command = str(tmp_path / "a.mat"), str(tmp_path / "a.npz"), "a"
    assert foreign.main(*command) == 0
    assert json.loads(capsys.readouterr().out) == {"a": 0}
    monkeypatch.setenv("SAAI_JAX_ROOM", str(1 << 20))
    assert foreign.main(*command) == foreign.REFUSED
    most = (1 << 20) + 20 * (tmp_path / "a.mat").stat().st_size
    assert json.loads(capsys.readouterr().out) == (
        f"holds 8000000 bytes, expected at most {most}; SAAI_JAX_ROOM=8000000 lets it be read"
    )


def test_a_small_file_cannot_fill_the_memory(tmp_path, monkeypatch):
    """225 MB of zeros in 220 kB: the process that reads them has less for everything."""
    scipy.io.savemat(tmp_path / "a.mat", {"a": np.zeros((15_000, 15_000), np.uint8)}, do_compression=True)
    monkeypatch.setenv("SAAI_JAX_ROOM", "0")
    with pytest.raises(DataError, match=r"a\.mat: .*takes more memory than a file of its size may; SAAI_JAX_ROOM="):
        matlab.read_mat(tmp_path / "a.mat", "a")
    monkeypatch.setenv("SAAI_JAX_ROOM", "1 GB")
    with pytest.raises(DataError, match=r"SAAI_JAX_ROOM='1 GB' in the environment, expected a number"):
        matlab.read_mat(tmp_path / "a.mat", "a")
