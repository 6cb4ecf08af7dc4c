"""The doctor: nothing to say about a sound set, and every planted fault in one list."""

import io

import numpy as np
import pytest
from PIL import Image
from test_images import noise
from test_llcm import write_llcm
from test_regdb import write_regdb
from test_sysu import SMALL, write_permutation, write_sysu

from input_pipeline import doctor
from input_pipeline.index import DataError


def content(path):
    """Another picture for every path, the same one in every run."""
    return noise(list(path.encode()), path[-3:])


WRITERS = {"sysu": lambda root, **o: write_sysu(root, SMALL, **o), "regdb": write_regdb, "llcm": write_llcm}


@pytest.fixture
def sysu_tree(tmp_path):
    write_sysu(tmp_path, SMALL, content)
    return tmp_path


def examine(root, dataset="sysu", published=False, **options):
    return doctor.examine(dataset, root, published=published, **options)


@pytest.mark.parametrize("dataset", doctor.DATASETS)
def test_a_sound_set_has_no_problems(tmp_path, dataset):
    WRITERS[dataset](tmp_path, content=content)
    assert examine(tmp_path, dataset) == []


@pytest.mark.parametrize("dataset", doctor.DATASETS)
def test_an_absent_set_is_told_where_to_apply_for(tmp_path, dataset):
    for root in (tmp_path, tmp_path / "absent"):
        (line,) = examine(root, dataset)
        assert str(root) in line
        assert "http" in line
        assert "Expected layout" in line


def test_an_unknown_data_set_is_an_error(tmp_path):
    with pytest.raises(DataError, match="expected one of sysu, regdb, llcm"):
        examine(tmp_path, "market")


def test_all_faults_of_one_set_are_listed_together(sysu_tree):
    sixteen = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(sixteen, "PNG")
    (sysu_tree / "cam1/0001/0001.jpg").write_bytes(b"")
    (sysu_tree / "cam1/0001/0002.jpg").write_bytes(noise(0)[:300])
    (sysu_tree / "cam1/0001/0003.jpg").write_bytes(sixteen.getvalue())
    (sysu_tree / "cam4/0003/0001.jpg").write_bytes((sysu_tree / "cam6/0004/0001.jpg").read_bytes())
    (sysu_tree / "cam4/0003/0002.jpg").write_bytes((sysu_tree / "cam4/0003/0003.jpg").read_bytes())  # one identity
    write_permutation(sysu_tree / "exp/rand_perm_cam.mat", SMALL["test"] | {4: (3, 3, 5, 12, 12, 5)})
    found = examine(sysu_tree)
    expected = ("0001/0001.jpg: empty", "0001/0002.jpg: not a readable", "0001/0003.jpg: mode I;16")
    expected += ("camera 6, identity 4: 5 images, but the index has 4", "same content as cam4/0003/0001.jpg")
    for part in expected:
        assert sum(part in line for line in found) == 1, (part, found)
    assert len(found) == len(expected)


def test_modalities_are_counted(tmp_path):
    faulty = {
        "train": {1: (4, 0, 0, 0, 0, 0), 2: (4, 4, 3, 0, 0, 0)},
        "val": {3: (1, 1, 4, 0, 1, 0)},
        "test": {4: (0, 0, 2, 0, 0, 0), 5: (2, 2, 2, 2, 2, 2)},
    }
    write_sysu(tmp_path, faulty, content)
    found = examine(tmp_path)
    assert [line.split(", ")[0] for line in found] == [
        "train: no infrared images of identities 1",
        "warning: train: fewer than 4 infrared images of identities 2",
        "warning: val: fewer than 4 visible images of identities 3",
        "test: no visible images of identities 4",
    ]


def test_missing_files_do_not_hide_other_faults(sysu_tree):
    (sysu_tree / "exp/val_id.txt").unlink()
    (sysu_tree / "exp/test_id.txt").write_text("1,4,5,6")
    (sysu_tree / "exp/rand_perm_cam.mat").unlink()
    (sysu_tree / "cam1/0001/0001.jpg").write_bytes(b"")
    found = "\n".join(examine(sysu_tree, published=True))
    for part in (
        "val_id.txt: no such file",
        "rand_perm_cam.mat: no such file",
        "identities 1 are in train and in test",
    ):
        assert found.count(part) == 1
    for part in ("2 identities in train", "4 identities in test", "published data set has 1,374", "0001.jpg: empty"):
        assert part in found


def test_options_reach_the_reader(sysu_tree, tmp_path):
    (sysu_tree / "exp").rename(sysu_tree / "elsewhere")
    assert examine(sysu_tree, split_dir=sysu_tree / "elsewhere") == []
    assert any("exp/train_id.txt" in line for line in examine(sysu_tree))


def test_faults_of_regdb_lists(tmp_path):
    write_regdb(tmp_path, content=content)
    (tmp_path / "Visible/3/v_0.bmp").unlink()
    file = tmp_path / "idx/train_thermal_1.txt"
    file.write_text(file.read_text().replace(" 2\n", " 3\n"))
    found = "\n".join(examine(tmp_path, "regdb"))
    assert "labels run to 3" not in found  # label 2 is still that of the visible list
    assert "identity folder 2 has more than one label" in found
    assert "Visible/3/v_0.bmp" in found
    visible = tmp_path / "idx/train_visible_1.txt"
    visible.write_text(visible.read_text().replace(" 2\n", " 3\n"))
    assert "labels run to 3, but 2 is missing" in "\n".join(examine(tmp_path, "regdb"))
    assert "lists files that are not in" not in "\n".join(examine(tmp_path, "regdb", fold=2)[1:])


def test_image_counts_of_llcm_are_warnings(tmp_path, monkeypatch):
    write_llcm(tmp_path, content=content)
    monkeypatch.setattr(doctor.llcm, "_IDENTITIES", {"train": 3, "test": 3})
    found = examine(tmp_path, "llcm", published=True)
    assert len(found) == 4
    assert all(line.startswith("warning: ") and "images" in line for line in found)
