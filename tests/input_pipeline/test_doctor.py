"""The doctor: nothing to say about a sound set, and every planted fault in one list."""

import io

import numpy as np
import pytest
from PIL import Image

from configs import llcm, market, regdb, sysu
from input_pipeline import doctor
from input_pipeline.index import DataError
from input_pipeline.source import READERS
from modes import training
from modes.building import source_of
from tests.input_pipeline.test_images import noise
from tests.input_pipeline.test_llcm import write_llcm
from tests.input_pipeline.test_market import write_market
from tests.input_pipeline.test_regdb import write_regdb
from tests.input_pipeline.test_sysu import SMALL, write_permutation, write_sysu

CONFIGS = {"sysu": sysu.get_config, "regdb": regdb.get_config, "llcm": llcm.get_config, "market1501": market.get_config}

pytestmark = pytest.mark.usefixtures("in_this_process")


def content(path):
    """Another picture for every path, the same one in every run."""
    return noise(list(path.encode()), path[-3:])


WRITERS = {"sysu": lambda root, **o: write_sysu(root, SMALL, **o), "regdb": write_regdb, "llcm": write_llcm}
WRITERS |= {"market1501": write_market, "dukemtmc": write_market}


@pytest.fixture
def sysu_tree(tmp_path):
    write_sysu(tmp_path, SMALL, content)
    return tmp_path


def examine(root, dataset="sysu", published=False, **options):
    return doctor.examine(dataset, root, published=published, **options)


def each_in_one_line(found, *parts):
    for part in parts:
        assert sum(part in line for line in found) == 1, (part, found)


@pytest.mark.parametrize("dataset", doctor.DATASETS)
def test_a_sound_set_has_no_problems(tmp_path, dataset):
    WRITERS[dataset](tmp_path, content=content)
    assert examine(tmp_path, dataset) == []
    for folder in [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]:
        for name in (".DS_Store", "._0001.jpg", "Thumbs.db", "desktop.ini"):  # as systems leave them behind
            (folder / name).write_bytes(b"x")
    assert examine(tmp_path, dataset) == []


@pytest.mark.parametrize("dataset", doctor.DATASETS)
def test_an_absent_set_is_told_where_to_apply_for(tmp_path, dataset):
    for root in (tmp_path, tmp_path / "absent"):
        (line,) = examine(root, dataset)
        assert str(root) in line
        assert "http" in line
        assert "Expected layout" in line


@pytest.mark.parametrize("dataset", ["sysu", "regdb", "llcm", "market1501"])
def test_a_root_that_is_beside_the_set_is_told_where_it_is(tmp_path, dataset):
    """Absent, one folder too high, one too low, and in other letters; what is right is left to the reader."""
    reader, (first, *others) = READERS[dataset], READERS[dataset].FOLDERS
    for root in (tmp_path, tmp_path / "absent"):
        said = doctor.misplaced(root, reader)
        assert f"{root}: " in said.splitlines()[0]
        assert "--config.data.root=DIR" in said.splitlines()[0]
        assert "--mode=doctor" in said
        assert reader.APPLY in said.splitlines()[1]
    there = tmp_path / "deep" / "set"
    for name in (first, *others):
        (there / name).mkdir(parents=True)
    assert doctor.misplaced(there, reader) == ""
    for root in (tmp_path, there.parent, there / first):
        assert f"{there} looks like it: --config.data.root={there}" in doctor.misplaced(root, reader)
    (there / others[0]).rename(there / others[0].swapcase())
    assert f"{there}: rename {others[0].swapcase()} to {others[0]};" in doctor.misplaced(there, reader)
    config = CONFIGS[dataset]()
    config.data.root = str(there)
    with pytest.raises(DataError, match="rename"):
        source_of(config).read("train")


def test_a_sound_set_is_counted(tmp_path, capsys):
    write_sysu(tmp_path, SMALL, content)
    config = sysu.get_config()
    config.data.root, config.data.published = str(tmp_path), False
    training.doctor(config)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{tmp_path}: nothing wrong was found"
    assert said[1] == "train: 2 identities, 25 visible and 16 infrared images, all of them decoded"
    assert [line.split(":")[0] for line in said[1:]] == ["train", "val", "test", "protocols of test"]
    assert "sysu-official-all, sysu-official-indoor" in said[-1]


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


def picture(mode="RGB", kind="PNG", seed=1, **options):
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 6, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture(kind="JPEG", exif=exif)


def test_pictures_of_odd_modes_are_warned_of(sysu_tree):
    plain = examine(sysu_tree)
    odd = {
        "without colours": picture("L"),
        "of two levels": picture("1", seed=2),
        "with transparency, which is dropped": picture("RGBA"),
        "with a palette": picture("P"),
        "of four inks (CMYK)": picture("CMYK", "JPEG"),
        "turned by an EXIF tag, which is not applied": turned(),
    }
    for number, content in enumerate(odd.values(), 1):
        (sysu_tree / f"cam1/0006/{number:04d}.jpg").write_bytes(content)
    (sysu_tree / "cam1/0006/0007.jpg").write_bytes(picture("L", seed=3))
    (sysu_tree / "cam3/0006/0001.jpg").write_bytes(picture("L", seed=4))  # as infrared cameras write it
    found = examine(sysu_tree)
    assert plain == []
    assert all(line.startswith("warning: test: visible images ") for line in found)
    for number, remark in enumerate(odd, 1):
        (line,) = [line for line in found if remark in line]
        assert f"cam1/0006/{number:04d}.jpg" in line
    assert len(found) == len(odd)
    assert any(
        line.endswith("without colours: cam1/0006/0001.jpg, cam1/0006/0002.jpg, cam1/0006/0007.jpg") for line in found
    )


def test_the_same_picture_as_visible_and_infrared_is_warned_of(sysu_tree):
    (sysu_tree / "cam3/0006/0001.jpg").write_bytes((sysu_tree / "cam1/0006/0001.jpg").read_bytes())
    (line,) = examine(sysu_tree)
    assert line == "warning: cam3/0006/0001.jpg: same content as cam1/0006/0001.jpg, though of another modality"


def test_pictures_that_no_split_has_are_warned_of(sysu_tree):
    (sysu_tree / "cam2/0009").mkdir()
    (sysu_tree / "cam2/0009/0001.jpg").write_bytes(b"")  # of nobody that is trained or tested on
    assert examine(sysu_tree) == [f"warning: {sysu_tree}: images that no split has: cam2/0009/0001.jpg"]


def test_a_fault_of_one_kind_hides_none_of_another(sysu_tree):
    """In one pass: of the lists, the folders, the permutations and the pictures, of one split."""
    write_permutation(sysu_tree / "exp/rand_perm_cam.mat", SMALL["test"] | {4: (3, 3, 5, 12, 12, 5)})
    (sysu_tree / "exp/test_id.txt").write_text("4,5,6,7,x,6")
    (sysu_tree / "exp/train_id.txt").write_text("0")
    (sysu_tree / "cam4/0006").mkdir(exist_ok=True)
    (sysu_tree / "cam5/0004/0003.png").write_bytes(picture())
    (sysu_tree / "cam5/0006/0001.jpg").write_bytes(b"")
    (sysu_tree / "cam1/0001/0002.jpg").write_bytes(noise(0)[:300])  # its list is what is at fault
    (sysu_tree / "cam1/0002/0002.jpg").write_bytes((sysu_tree / "cam1/0001/0001.jpg").read_bytes())
    found = examine(sysu_tree)
    each_in_one_line(
        found,
        "test_id.txt: x where positive identity numbers",
        "test_id.txt: 6 listed more than once",
        "no images in any cam*/0007",
        "train_id.txt: 0 where positive identity numbers",
        "cam5/0004/0003.png where only .jpg",
        "camera 6, identity 4: 5 images, but the index has 4",
        "0006/0001.jpg: empty file",
        "0001/0002.jpg: not a readable image",
        "cam1/0002/0002.jpg: same content as cam1/0001/0001.jpg, though of another identity",
    )


def test_a_fault_of_one_list_hides_none_of_another(tmp_path):
    write_regdb(tmp_path, content=content)
    visible, thermal = (tmp_path / f"idx/train_{name}_1.txt" for name in ("visible", "thermal"))
    visible.write_text(visible.read_text() + "Visible/1/v_0.bmp\n/etc/hosts 0\nVisible/1/v_1.bmp 0\n")
    thermal.write_text(thermal.read_text().replace(" 2\n", " 7\n"))
    (tmp_path / "Thermal/1/t_0.bmp").unlink()
    (tmp_path / "Thermal/10/t_0.bmp").write_bytes(b"")
    (tmp_path / "idx/test_visible_1.txt").unlink()
    (tmp_path / "Visible/3/v_0.bmp").write_bytes(b"BM")
    found = examine(tmp_path, "regdb")
    each_in_one_line(
        found,
        "train_visible_1.txt:13: 'Visible/1/v_0.bmp', expected",
        "train_visible_1.txt:14: path '/etc/hosts' leaves the data root",
        "train_visible_1.txt: Visible/1/v_1.bmp listed more than once",
        "labels run to 7, but 3, 4, 5, 6 is missing",
        "identity folder 2 has more than one label",
        f"lists files that are not in {tmp_path}: Thermal/1/t_0.bmp",
        "test_visible_1.txt: cannot be read",
        "test: no visible images of identities 3, 11",
        "Thermal/10/t_0.bmp: empty file",
        "Visible/3/v_0.bmp: not a readable image",
    )


def test_faults_of_llcm(tmp_path):
    write_llcm(tmp_path, content=content)
    nir = tmp_path / "idx/train_nir.txt"
    nir.write_text("".join(line for line in nir.read_text().splitlines(True) if not line.startswith("nir/0012")))
    (tmp_path / "test_vis/cam1/0007").rename(tmp_path / "test_vis/cam1/seven")
    (tmp_path / "test_vis/cam3/0007").rename(tmp_path / "test_vis/cam3/0070")
    (tmp_path / "test_nir/cam5").rmdir()
    (tmp_path / "test_nir/cam5").write_bytes(b"")
    found = examine(tmp_path, "llcm")
    each_in_one_line(
        found,
        "train: no infrared images of identities 12",
        "test: no visible images of identities 7",
        "test_nir: cam5 where only folders",
        f"warning: {tmp_path / 'test_vis'}: 0070, seven not in idx/test_id.txt",
    )


def test_faults_of_market(tmp_path):
    """Each in one line: of the names, the folders, the identities and the pictures; junk is nobody's fault."""
    write_market(tmp_path, content=content)
    (tmp_path / "bounding_box_train/0002_c4s1_000451_03.jpg").unlink()
    for name in ("0003_c1s1_000002_00.jpg", "0003_c2s1_000003_00.jpg", "someone.jpg"):
        (tmp_path / "bounding_box_train" / name).write_bytes(content(name))
    (tmp_path / "bounding_box_test/0000_c2s1_000151_01.jpg").write_bytes(b"")
    copied = tmp_path / "bounding_box_test/0001_c1s1_001051_03.jpg"
    copied.write_bytes((tmp_path / "query/0003_c1s2_000776_00.jpg").read_bytes())
    found = examine(tmp_path, "market1501")
    parts = (
        "bounding_box_train/someone.jpg: expected a name like",
        "warning: train: identities 2 are seen by one camera only, which the sampler cameras drops or refuses",
        "identities 3 are in train and in test",
        "bounding_box_test/0000_c2s1_000151_01.jpg: empty file",
        "query/0003_c1s2_000776_00.jpg: same content as bounding_box_test/0001_c1s1_001051_03.jpg, though of another",
    )
    each_in_one_line(found, *parts)
    assert len(found) == len(parts)
    (tmp_path / "query").rename(tmp_path / "queries")
    found = "\n".join(examine(tmp_path, "dukemtmc", published=True))
    assert "query: cannot be listed" in found
    assert "warning: " in found
    assert "identities, the published data set has 702" in found


def test_names_that_are_no_utf8_can_be_printed(sysu_tree):
    name = b"0001\xff.jpg"
    with open(bytes(sysu_tree / "cam1/0001") + b"/" + name, "wb") as stream:
        stream.write(b"")
    found = "\n".join(examine(sysu_tree))
    assert "0001\\udcff.jpg: empty file" in found.encode().decode()
