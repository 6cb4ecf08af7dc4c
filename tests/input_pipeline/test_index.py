"""The table that every data set is read into."""

import dataclasses

import numpy as np
import pytest

from input_pipeline.index import INFRARED, VISIBLE, Index


def index(identity=(7, 3, 7, 40, 3)):
    n = len(identity)
    return Index([f"a/{i}.jpg" for i in range(n)], identity, [1 + i % 6 for i in range(n)], [i % 2 for i in range(n)])


def columns(value):
    return [getattr(value, field.name).tolist() for field in dataclasses.fields(value)]


def test_columns_are_arrays_of_one_type_however_they_came():
    found = index()
    assert len(found) == 5
    assert found.path.dtype.kind == "U"
    assert {getattr(found, name).dtype for name in ("identity", "camera", "modality")} == {np.dtype(np.int32)}
    assert (VISIBLE, INFRARED) == (0, 1)
    assert len(Index([], [], [], [])) == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.identity = found.camera


@pytest.mark.parametrize("name", ["identity", "camera", "modality"])
def test_columns_of_other_lengths_are_refused(name):
    given = {"path": ["a", "b"], "identity": [1, 2], "camera": [1, 1], "modality": [0, 1], name: [1]}
    with pytest.raises(ValueError, match=rf"Index\.{name} has 1 rows, path has 2"):
        Index(**given)


def test_take_orders_repeats_and_masks():
    found = index()
    assert columns(found.take(np.array([3, 0, 0]))) == [
        ["a/3.jpg", "a/0.jpg", "a/0.jpg"], [40, 7, 7], [4, 1, 1], [1, 0, 0]
    ]  # fmt: skip
    mask = found.identity == 3
    assert columns(found.take(mask)) == columns(found.take(np.array([1, 4])))
    assert len(found.take(mask & False)) == 0


def test_labels_number_the_identities_in_ascending_order():
    assert index().labels().tolist() == [1, 0, 1, 2, 0]
    assert index().labels().dtype == np.int32


def test_hold_out_takes_whole_identities_and_loses_none():
    whole = index(identity=[5, 9, 2, 2, 11, 9, 30, 12, 5, 2])  # ascending: 2, 5, 9, 11, 12, 30
    rest, held = whole.hold_out(3)
    assert sorted(set(held.identity.tolist())) == [9, 30]
    assert sorted(set(rest.identity.tolist())) == [2, 5, 11, 12]
    assert sorted(rest.path.tolist() + held.path.tolist()) == whole.path.tolist()
    assert held.path.tolist() == ["a/1.jpg", "a/5.jpg", "a/6.jpg"]
    everything = whole.hold_out(1)
    assert [len(part) for part in everything] == [0, 10]
