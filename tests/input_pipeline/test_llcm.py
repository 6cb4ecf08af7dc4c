"""LLCM: reading its lists and folders, and both variants of its protocol."""

import random

import numpy as np
import pytest
from absl import logging

from input_pipeline import llcm
from input_pipeline.index import DataError, Index

TRAIN = {1: (1, 6), 12: (2, 3), 2: (9, 1)}  # identity: cameras; listed in this order
TEST = {7: (1, 3), 351: (2, 6), 8: (4, 9)}


def write_llcm(root, train=TRAIN, test=TEST, images=4, content=lambda path: b""):
    """An LLCM tree; infrared pictures are under the same cameras, but for the third, which takes none."""

    def write(folder, identity, camera, kind):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(images):
            path = f"{folder}/{identity:04d}_c{camera:02d}_s200656_f{4830 + i}_{kind}.jpg"
            (root / path).write_bytes(content(path))
            yield path

    (root / "idx").mkdir()
    for kind, cameras in (("vis", range(1, 10)), ("nir", (1, 2, 4, 5, 6, 7, 8, 9))):
        lines = []
        for label, (identity, seen) in enumerate(train.items()):
            for camera in seen:
                lines += [f"{path} {label}\n" for path in write(f"{kind}/{identity:04d}", identity, camera, kind)]
        (root / f"idx/train_{kind}.txt").write_text("".join(lines))
        for camera in cameras:
            (root / f"test_{kind}/cam{camera}").mkdir(parents=True)
        for identity, seen in test.items():
            for camera in set(seen) & set(cameras):
                list(write(f"test_{kind}/cam{camera}/{identity:04d}", identity, camera, kind))
    (root / "idx/test_id.txt").write_text(",".join(map(str, test)))


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "cam1_c02_"  # the root may hold what marks a camera elsewhere
    root.mkdir()
    write_llcm(root)
    return root


@pytest.fixture
def counted(monkeypatch):
    monkeypatch.setattr(llcm, "_IDENTITIES", {"train": 3, "test": 3})


def test_train_rows_stand_in_list_order_with_cameras_of_the_names(tree):
    index = llcm.read_index(tree, "train", published=False)
    assert index.identity.tolist() == ([1] * 8 + [12] * 8 + [2] * 8) * 2
    assert index.camera.tolist() == ([1] * 4 + [6] * 4 + [2] * 4 + [3] * 4 + [9] * 4 + [1] * 4) * 2
    assert index.modality.tolist() == [0] * 24 + [1] * 24
    assert index.path[0] == "vis/0001/0001_c01_s200656_f4830_vis.jpg"


def test_test_rows_are_ordered_by_modality_identity_camera_and_name(tree):
    index = llcm.read_index(tree, "test", published=False)
    columns = (index.modality, index.identity, index.camera, index.path)
    keys = list(zip(*(column.tolist() for column in columns), strict=True))
    assert keys == sorted(keys)
    assert (len(index), int((index.modality == 1).sum())) == (24 + 20, 20)
    assert index.path[-1] == "test_nir/cam6/0351/0351_c06_s200656_f4833_nir.jpg"


def test_identities_are_counted_and_images_only_warned_of(tree, monkeypatch, counted):
    warnings = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: warnings.append(text % values))
    llcm.read_index(tree, "train")
    assert ["24 train images, vis, the published data set has 16,946" in warnings[0], len(warnings)] == [True, 2]
    monkeypatch.undo()
    for split, number in (("train", 713), ("test", 351)):
        with pytest.raises(DataError, match=f"3 {split} identities, the published data set has {number}"):
            llcm.read_index(tree, split)


def test_identities_beside_the_list_are_warned_of(tree, monkeypatch):
    warnings = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: warnings.append(text % values))
    (tree / "test_vis/cam1/0099").mkdir()
    llcm.read_index(tree, "test", published=False)
    assert "0099 not in idx/test_id.txt" in warnings[0]


def test_faults_are_named(tree, counted):
    def message(split, published=False):
        with pytest.raises(DataError) as error:
            llcm.read_index(tree, split, published=published)
        return str(error.value)

    assert "no split 'val'" in message("val")
    (tree / "idx/test_id.txt").write_text("7,351,8,9")
    assert "identities 9 of idx/test_id.txt" in message("test")
    (tree / "idx/test_id.txt").write_text("7,351,8")
    (tree / "test_nir/cam5").rmdir()
    assert "test_nir: folders of cameras 1, 2, 4, 6" in message("test", published=True)
    llcm.read_index(tree, "test", published=False)
    (tree / "test_nir/camera5").mkdir()
    assert "test_nir: camera5 where only folders cam1 to cam9" in message("test")
    (tree / "test_vis").rename(tree / "tests")
    assert "test_vis: no such folder" in message("test")
    listed = tree / "idx/train_vis.txt"
    lines = listed.read_text()
    (tree / "vis/0001/0001.jpg").touch()
    listed.write_text(lines + "vis/0001/0001.jpg 0\n")
    assert "vis/0001/0001.jpg: names no camera" in message("train")
    listed.write_text(lines.replace(" 2\n", " 1\n"))
    assert "label 1 has more than one identity folder" in message("train")
    listed.unlink()
    (tree / "idx/train_nir.txt").unlink()
    assert "train_vis.txt: cannot be read" in message("train")
    assert "train_nir.txt: cannot be read" in message("train")


def test_settings_draw_as_the_released_loader(tree):
    index = llcm.read_index(tree, "test", published=False)
    order = np.random.default_rng(0).permutation(len(index))
    for rows in (index, index.take(order)):
        a, b = llcm.settings(rows, published=False)
        assert (a.dataset, a.protocol, a.direction, a.shots) == ("llcm", "llcm-A", "infrared-to-visible", "single")
        assert (b.protocol, b.direction, b.unique_identities) == ("llcm-B", "visible-to-infrared", True)
        for setting, query, gallery, cameras in ((a, 1, "test_vis", range(1, 10)), (b, 0, "test_nir", range(1, 10))):
            assert len(setting.trials) == 10
            for seed, trial in enumerate(setting.trials):
                random.seed(seed)
                expected = []
                for identity in sorted(TEST):
                    for camera in cameras:
                        folder = tree / f"{gallery}/cam{camera}/{identity:04d}"
                        if folder.is_dir():
                            expected.append(str(random.choice(sorted(folder.iterdir())).relative_to(tree)))
                assert rows.path[trial.gallery].tolist() == expected
                np.testing.assert_array_equal(trial.query, np.flatnonzero(rows.modality == query))


def test_settings_refuse_other_sizes_and_one_modality(tree):
    index = llcm.read_index(tree, "test", published=False)
    with pytest.raises(DataError, match="3 test identities, the published data set has 351"):
        llcm.settings(index)
    with pytest.raises(DataError, match="no images of one modality"):
        llcm.settings(index.take(index.modality == 1), published=False)
    identity, modality = np.tile(np.arange(1, 352), 2), np.repeat([0, 1], 351)
    complete = Index(np.arange(702).astype(str), identity, np.ones(702), modality)
    assert [len(trial.gallery) for setting in llcm.settings(complete) for trial in setting.trials] == [351] * 20


def test_variants_c_and_d(tree):
    index = llcm.read_index(tree, "test", published=False)
    (b,) = llcm.settings(index, published=False, variants="B")
    c, forth, back = llcm.settings(index, published=False, variants="CD")
    assert (c.protocol, c.direction, c.shots, len(c.trials)) == ("llcm-C", "infrared-to-visible", "-", 10)
    assert c.valid is llcm.valid
    for trial, mirrored in zip(c.trials, b.trials, strict=True):
        np.testing.assert_array_equal(trial.query, mirrored.gallery)
        np.testing.assert_array_equal(trial.gallery, mirrored.query)
    assert [(s.protocol, s.direction) for s in (forth, back)] == [
        ("llcm-D", "infrared-to-visible"),
        ("llcm-D", "visible-to-infrared"),
    ]
    infrared, visible = np.flatnonzero(index.modality == 1), np.flatnonzero(index.modality == 0)
    for setting, query, gallery in ((forth, infrared, visible), (back, visible, infrared)):
        ((q, g),) = setting.trials
        np.testing.assert_array_equal(q, query)
        np.testing.assert_array_equal(g, gallery)
        assert setting.valid(np.array([7]), np.array([1]), np.array([7]), np.array([1])).all()
    with pytest.raises(ValueError, match="no variant E, expected any of A, B, C, D"):
        llcm.settings(index, published=False, variants="AE")


def test_each_modality_has_all_identities_and_each_image_is_there_once(monkeypatch):
    warnings = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: warnings.append(text % values))
    identity, modality = np.tile(np.arange(1, 352), 2), np.repeat([0, 1], 351)
    short = Index(np.arange(701).astype(str), identity[:701], np.ones(701), modality[:701])
    with pytest.raises(DataError, match="index, test_nir: 350 test identities"):
        llcm.settings(short)
    assert not warnings
    path = np.arange(702).astype(str)
    path[400] = path[401]
    with pytest.raises(DataError, match="index: 401 listed more than once"):
        llcm.settings(Index(path, identity, np.ones(702), modality), variants="B")
    assert "index: 351 test images, vis, the published data set has 8,680" in warnings


def test_valid_drops_the_same_person_under_the_same_camera():
    valid = llcm.valid(np.array([7, 8]), np.array([1, 2]), np.array([7, 7, 8]), np.array([1, 2, 1]))
    np.testing.assert_array_equal(valid, [[False, True, True], [True, True, True]])
