import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saai_jax.features.store import Features, FeaturesError, load, save


def features(n=5, d=3):
    random = np.random.RandomState(0)
    numbers = [np.arange(n, dtype=np.int32) for _ in range(2)]
    paths = np.array([f"cam1/{i:04d}/0001.jpg" for i in range(n)])
    return Features(
        random.standard_normal((n, d)).astype(np.float32), *numbers, np.arange(n, dtype=np.int32) % 2, paths
    )


def test_round_trip(tmp_path):
    file = tmp_path / "new" / "features.npz"
    save(file, features())
    loaded = load(file)
    for key, array in features()._asdict().items():
        np.testing.assert_array_equal(getattr(loaded, key), array)
        assert getattr(loaded, key).dtype == array.dtype
    assert [path.name for path in file.parent.iterdir()] == ["features.npz"]


def test_takes_other_widths_of_numbers(tmp_path):
    wide = features()._asdict()
    wide = {key: a.astype({"f": "f8", "i": "i8", "U": a.dtype}[a.dtype.kind]) for key, a in wide.items()}
    np.savez_compressed(tmp_path / "f.npz", **wide, extra=np.zeros(2))
    loaded = load(tmp_path / "f.npz")
    assert [array.dtype.str[1:] for array in loaded[:4]] == ["f4", "i4", "i4", "i4"]


def with_value(key, row, value):
    array = getattr(features(), key).copy()
    array[row] = value
    return array


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"camera": None, "path": None}, "has no camera, path"),
        ({"camera": np.arange(4)}, "camera has 4 rows, embedding has 5"),
        ({"identity": np.zeros((5, 1), np.int32)}, r"identity has shape \(5, 1\), not \[n\]"),
        ({"identity": np.arange(5.0)}, "identity is float64, not whole numbers"),
        ({"path": np.arange(5)}, "path is int64, not strings"),
        ({"embedding": np.zeros((5, 3), np.int32)}, "embedding is int32, not floats"),
        ({"embedding": np.float32(1)}, r"embedding has shape \(\)"),
        (
            {"embedding": with_value("embedding", (3, 1), np.nan)},
            r"embedding of row 3 \(cam1/0003/0001.jpg\) is not finite",
        ),
        ({"embedding": with_value("embedding", (2, 0), -np.inf)}, "embedding of row 2 .* is not finite"),
        ({"embedding": np.full((5, 3), 1e200)}, "embedding of row 0 .* is not finite; 5 such rows"),
        ({"embedding": with_value("embedding", [1, 4], 0)}, "embedding of row 1 .* is zero everywhere; 2 such rows"),
        ({"modality": with_value("modality", 4, 2)}, "modality of row 4 .* is neither 0"),
        ({"modality": np.array([0, 1, -1, 0, 1])}, "modality of row 2"),
        ({"identity": np.array([1, 2, 3, 2**40, 5])}, "identity of row 3 .* does not fit"),
        ({"path": np.array(["a"] * 5, dtype=object)}, "damaged, or not a .npz of plain arrays"),
        ({**features(0)._asdict(), "path": np.array([], np.str_)}, "embedding has no rows"),
    ],
)
def test_load_names_the_fault(tmp_path, changes, message):
    arrays = {key: array for key, array in {**features()._asdict(), **changes}.items() if array is not None}
    np.savez(tmp_path / "f.npz", **arrays)
    with pytest.raises(FeaturesError, match=message) as error:
        load(tmp_path / "f.npz")
    assert "f.npz" in str(error.value)


def test_save_refuses_what_load_would(tmp_path):
    bad = features()._replace(modality=np.full(5, 3))
    with pytest.raises(FeaturesError, match="modality of row 0"):
        save(tmp_path / "f.npz", bad)
    assert not list(tmp_path.iterdir())


def test_other_files(tmp_path):
    with pytest.raises(FeaturesError, match="no such file"):
        load(tmp_path / "none.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(FeaturesError, match="one array"):
        load(tmp_path / "one.npy")


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 1, exclude_max=True), position=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_damaged_files_are_features_errors(tmp_path_factory, cut, position, byte):
    file = tmp_path_factory.getbasetemp() / "features.npz"
    save(file, features())
    whole = file.read_bytes()
    file.write_bytes(whole[: int(cut * len(whole))])
    with pytest.raises(FeaturesError):
        load(file)
    damaged = bytearray(whole)
    damaged[int(position * len(whole))] = byte
    file.write_bytes(damaged)
    try:
        loaded = load(file)
    except FeaturesError:
        return
    np.testing.assert_array_equal(loaded.embedding, features().embedding)  # a byte that nobody reads
