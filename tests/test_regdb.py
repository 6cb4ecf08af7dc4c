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
