"""RegDB: reading its lists, and the two directions."""

import numpy as np
import pytest

from input_pipeline import regdb
from input_pipeline.index import DataError, Index

FOLDS = {1: {"train": (1, 10, 2), "test": (3, 11)}, 2: {"train": (3, 11, 1), "test": (2, 10)}}


def write_regdb(root, folds=FOLDS, images=4, content=lambda path: b""):
    """A RegDB tree; identities of a fold are listed, and labelled, in the given order."""
    for fold, splits in folds.items():
        for split, identities in splits.items():
            for folder in ("Visible", "Thermal"):
                lines = []
                for label, identity in enumerate(identities):
                    (root / f"{folder}/{identity}").mkdir(parents=True, exist_ok=True)
                    for i in range(images):
                        path = f"{folder}/{identity}/{folder[0].lower()}_{i}.bmp"
                        if not (root / path).exists():
                            (root / path).write_bytes(content(path))
                        lines.append(f"{path} {label}\n")
                (root / "idx").mkdir(exist_ok=True)
                (root / f"idx/{split}_{folder.lower()}_{fold}.txt").write_text("".join(lines))


@pytest.fixture
def tree(tmp_path):
    write_regdb(tmp_path)
    return tmp_path


def edit(file, old, new):
    file.write_text(file.read_text().replace(old, new))


def test_rows_stand_in_list_order_visible_first(tree):
    index = regdb.read_index(tree, "train", published=False)
    assert index.identity.tolist() == ([1] * 4 + [10] * 4 + [2] * 4) * 2
    assert index.camera.tolist() == [1] * 12 + [2] * 12
    assert index.modality.tolist() == [0] * 12 + [1] * 12
    assert index.path[[0, 12]].tolist() == ["Visible/1/v_0.bmp", "Thermal/1/t_0.bmp"]
    assert set(index.labels()[index.identity == 10].tolist()) == {2}  # as integers, after 2
    other = regdb.read_index(tree, "test", fold=2, published=False)
    assert sorted(set(other.identity.tolist())) == [2, 10]


def test_faults_of_the_lists_are_named(tree):
    def message(split="train", **options):
        with pytest.raises(DataError) as error:
            regdb.read_index(tree, split, **{"published": False} | options)
        return str(error.value)

    assert "3 identities, the published data set has 206" in message(published=True)
    assert "12 thermal images, the published data set has 2,060" in message(published=True)
    assert "no fold 11" in message(fold=11)
    assert "no split 'val'" in message("val")
    assert all(f"test_{name}_3.txt: cannot be read" in message("test", fold=3) for name in ("visible", "thermal"))
    (tree / "Visible/10/v_1.bmp").unlink()
    (tree / "Thermal/2/t_0.bmp").unlink()
    assert "train_visible_1.txt: lists files that are not in" in message()
    assert "Visible/10/v_1.bmp" in message()
    assert "Thermal/2/t_0.bmp" in message()
    edit(tree / "idx/test_visible_1.txt", "Visible/3/v_0.bmp 0", "Visible/3/v_0.bmp 1")
    assert "identity folder 3 has more than one label" in message("test")
    edit(tree / "idx/test_visible_1.txt", "Visible/3/v_0.bmp", "../secret/v_0.bmp")
    edit(tree / "idx/test_thermal_1.txt", "Thermal/3/t_0.bmp", "/Thermal/t_0.bmp")
    assert "test_visible_1.txt:1: path '../secret/v_0.bmp' leaves the data root" in message("test")
    assert "test_thermal_1.txt:1: path '/Thermal/t_0.bmp' leaves the data root" in message("test")
    edit(tree / "idx/test_visible_1.txt", "../secret/v_0.bmp 1", "Thermal/3/t_0.bmp 0")
    assert "expected 'Visible/<identity>/<file> <label>'" in message("test")


def test_labels_are_those_of_one_split_and_identities_are_not(tree):
    train, test = (regdb.read_index(tree, split, published=False) for split in ("train", "test"))
    assert not set(train.identity.tolist()) & set(test.identity.tolist())


def test_settings_are_one_trial_in_each_direction(tree):
    index = regdb.read_index(tree, "test", published=False)
    forth, back = regdb.settings(index, published=False)
    assert (forth.dataset, forth.protocol, forth.shots, forth.unique_identities) == ("regdb", "regdb", "-", False)
    assert (forth.direction, back.direction) == ("visible-to-infrared", "infrared-to-visible")
    assert [len(setting.trials) for setting in (forth, back)] == [1, 1]
    np.testing.assert_array_equal(forth.trials[0].query, np.flatnonzero(index.modality == 0))
    np.testing.assert_array_equal(forth.trials[0].gallery, np.flatnonzero(index.modality == 1))
    np.testing.assert_array_equal(back.trials[0].query, forth.trials[0].gallery)
    # The same camera number on both sides, as some features files have it, must drop nothing.
    assert forth.valid(np.array([1, 2]), np.array([1, 1]), np.array([1, 2, 3]), np.array([1, 1, 1])).all()


def test_settings_refuse_other_sizes_and_one_modality(tree):
    index = regdb.read_index(tree, "test", published=False)
    with pytest.raises(DataError, match="2 identities, the published data set has 206"):
        regdb.settings(index)
    with pytest.raises(DataError, match="no images of one modality"):
        regdb.settings(index.take(index.modality == 0), published=False)


def test_published_sizes_pass():
    identity, modality = np.tile(np.repeat(np.arange(1, 413, 2), 10), 2), np.repeat([0, 1], 2060)
    index = Index(np.arange(4120).astype(str), identity, modality + 1, modality)
    assert [len(setting.trials[0].gallery) for setting in regdb.settings(index)] == [2060, 2060]


def ten(identities=2, images=2):
    """Ten folds of different identities, one after the other, as the rows of ten features files are."""
    rows = [
        (f"{'VT'[modality]}/{identity}/{i}.bmp", identity, modality + 1, modality)
        for fold in range(10)
        for modality in (0, 1)
        for identity in range(fold, fold + identities)  # folds share identities, as the published ones do
        for i in range(images)
    ]
    return Index(*map(np.array, zip(*rows, strict=True)))


def test_ten_folds_are_ten_trials_each_within_its_fold():
    index = ten()
    forth, back = regdb.ten_folds(index, published=False)
    assert (forth.protocol, forth.direction, forth.shots) == ("regdb-ten-folds", "visible-to-infrared", "-")
    assert (back.direction, len(back.trials)) == ("infrared-to-visible", 10)
    for t, (query, gallery) in enumerate(forth.trials):
        part = np.arange(8 * t, 8 * t + 8)
        (alone, _) = regdb.settings(index.take(part), published=False)
        np.testing.assert_array_equal(query, part[alone.trials[0].query])
        np.testing.assert_array_equal(gallery, part[alone.trials[0].gallery])
        np.testing.assert_array_equal(back.trials[t].query, gallery)


def test_ten_folds_are_refused_unless_they_are_ten_different_ones():
    index = ten()
    twice = np.arange(80)
    twice[72:] = np.arange(16, 24)
    for rows, published, message in (
        (np.arange(79), False, "79 rows, expected those of ten equally large folds"),
        (np.arange(0), False, "0 rows, expected"),
        (twice, False, "folds 3 and 10 have the same images"),
        (np.arange(80), True, "fold 10: index: 2 identities, the published data set has 206"),
    ):
        with pytest.raises(DataError, match=message):
            regdb.ten_folds(index.take(rows), published=published)
    with pytest.raises(DataError, match=r"^fold 4: index: no images of one modality"):
        regdb.ten_folds(
            Index(index.path, index.identity, index.camera, np.where(np.arange(80) // 8 == 3, 0, index.modality)),
            published=False,
        )


def test_ten_published_folds_pass():
    (forth, back) = regdb.ten_folds(ten(206, 10))
    assert {(len(q), len(g)) for s in (forth, back) for q, g in s.trials} == {(2060, 2060)}


def test_a_query_without_a_match_is_refused():
    visible, thermal = np.repeat(np.arange(206), 10), np.repeat(np.arange(206), 10)
    visible[:10] = 1  # identity 0 is in thermal only
    index = Index(
        np.arange(4120).astype(str), np.append(visible, thermal), np.repeat([1, 2], 2060), np.repeat([0, 1], 2060)
    )
    with pytest.raises(DataError, match="infrared-to-visible, shots -, trial 0: 2,050 queries with a match"):
        regdb.settings(index)
