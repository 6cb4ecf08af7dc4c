"""The synthetic set: the same bytes on any number of processes, exact layouts, honest infrared, look-alike families."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat

from input_pipeline import market, synthetic
from input_pipeline.index import INFRARED, VISIBLE, DataError
from input_pipeline.people import FAMILY_SIZE, person
from input_pipeline.scenes import CAMERAS
from input_pipeline.synthetic_layouts import SIZES, sysu

TINY = SIZES["tiny"]
IDENTITIES = TINY.train + TINY.val + TINY.test


@pytest.fixture(scope="module")
def sysu_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("sysu") / "set"
    synthetic.write(root, layout="sysu", size="tiny", processes=1)
    return root


@pytest.fixture
def blank_pictures(monkeypatch):
    """For tests of lists and folders alone: drawing takes most of the time."""
    blank = np.zeros((TINY.height, TINY.width, 3), np.uint8)
    monkeypatch.setattr(synthetic, "_draw", lambda *work: blank)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def numbers(path: Path) -> list[int]:
    return [int(word) for word in path.read_text().strip().split(",")]


def test_the_bytes_do_not_depend_on_the_number_of_processes(sysu_root, tmp_path):
    synthetic.write(tmp_path / "again", layout="sysu", size="tiny", processes=2)
    assert contents(tmp_path / "again") == contents(sysu_root)


def test_another_seed_draws_other_people():
    assert not np.array_equal(synthetic.draw(0, 1, 1, 1, 48, 24), synthetic.draw(1, 1, 1, 1, 48, 24))


def test_draw_gives_what_write_stores(sysu_root):
    path = next(sysu_root.glob("cam6/*/0001.jpg"))
    drawn = synthetic.draw(0, int(path.parent.name), 6, 1, TINY.height, TINY.width)
    stored = np.asarray(Image.open(path).convert("RGB"), dtype=float)
    assert stored.shape == (TINY.height, TINY.width, 3)
    assert np.abs(stored - drawn).mean() < 6


@pytest.mark.parametrize("camera", CAMERAS)
def test_infrared_loses_colour_and_visible_keeps_it(camera):
    image = synthetic.draw(0, 1, camera, 1, 96, 48)
    assert image.shape == (96, 48, 3)
    assert image.dtype == np.uint8
    grey = bool((image == image[..., :1]).all())
    assert grey == (CAMERAS[camera].modality == INFRARED)


def test_sysu_lists_partition_the_identities(sysu_root):
    lists = {name: numbers(sysu_root / f"exp/{name}_id.txt") for name in ("available", "train", "val", "test")}
    assert [len(lists[name]) for name in ("train", "val", "test")] == [TINY.train, TINY.val, TINY.test]
    assert sorted(lists["train"] + lists["val"] + lists["test"]) == lists["available"]
    assert lists["available"] == list(range(1, IDENTITIES + 1))


def test_sysu_folders_hold_consecutive_images_and_enough_for_a_batch(sysu_root):
    seen = {identity: {VISIBLE: 0, INFRARED: 0} for identity in range(1, IDENTITIES + 1)}
    for folder in sysu_root.glob("cam*/*"):
        names = sorted(path.name for path in folder.iterdir())
        assert names == [f"{shot:04d}.jpg" for shot in range(1, len(names) + 1)]
        seen[int(folder.name)][CAMERAS[int(folder.parent.name[3:])].modality] += len(names)
    assert min(count for counts in seen.values() for count in counts.values()) >= 4


@pytest.mark.parametrize("size", ["tiny", "small", "large"])
def test_sysu_cameras_1_and_2_hold_the_same_identities_and_no_modality_is_missing(size):
    seen = {camera: set() for camera in CAMERAS}
    for picture in sysu(SIZES[size], 0).pictures:
        seen[picture.camera.number].add(picture.identity)
    everyone = set(range(1, sum(SIZES[size][:3]) + 1))
    assert seen[1] == seen[2] < everyone
    assert seen[4] | seen[5] == seen[3] | seen[6] == everyone


def test_the_permutation_file_orders_every_folder_ten_times(sysu_root):
    stored = loadmat(sysu_root / "exp/rand_perm_cam.mat")["rand_perm_cam"]
    assert stored.shape == (6, 1)
    for camera in CAMERAS:
        cells = stored[camera - 1, 0]
        assert cells.shape == (IDENTITIES, 1)
        for identity in range(1, IDENTITIES + 1):
            count = len(list(sysu_root.glob(f"cam{camera}/{identity:04d}/*.jpg")))
            orders = cells[identity - 1, 0]
            assert orders.shape == (10, count)
            assert (np.sort(orders, axis=1) == np.arange(1, count + 1)).all()


def listed(path: Path) -> tuple[list[str], list[int]]:
    rows = [line.split(" ") for line in path.read_text().splitlines()]
    return [row[0] for row in rows], [int(row[1]) for row in rows]


@pytest.mark.usefixtures("blank_pictures")
def test_regdb_layout(tmp_path):
    root = tmp_path / "regdb"
    synthetic.write(root, layout="regdb", size="tiny", processes=1)
    half = (TINY.train + TINY.test) // 2
    splits = set()
    for trial in range(1, 11):
        folders = {}
        for part in ("train", "test"):
            for name, top in (("visible", "Visible"), ("thermal", "Thermal")):
                paths, labels = listed(root / f"idx/{part}_{name}_{trial}.txt")
                assert labels == [label for label in range(half) for _ in range(10)]
                assert all(re.fullmatch(rf"{top}/\d+/[^/]+\.bmp", path) and (root / path).is_file() for path in paths)
                folders[part, name] = {path.split("/")[1] for path in paths}
            assert folders[part, "visible"] == folders[part, "thermal"]
        assert not folders["train", "visible"] & folders["test", "visible"]
        splits.add(frozenset(folders["train", "visible"]))
    assert len(splits) > 1
    assert len(list(root.glob("*/*/*.bmp"))) == 20 * 2 * half


@pytest.mark.usefixtures("blank_pictures")
def test_llcm_layout(tmp_path):
    root = tmp_path / "llcm"
    synthetic.write(root, layout="llcm", size="tiny", processes=1)
    everything = set()
    for part, count in (("train", TINY.train), ("test", TINY.test)):
        for name in ("vis", "nir"):
            top = name if part == "train" else rf"test_{name}/cam(\d)"
            paths, labels = listed(root / f"idx/{part}_{name}.txt")
            assert set(labels) == set(range(count))
            for path in paths:
                match = re.fullmatch(rf"{top}/(\d{{4}})/(\d{{4}})_c0(\d)_s\d{{6}}_f\d{{4}}_{name}\.jpg", path)
                *camera, folder, identity, number = match.groups()
                assert folder == identity
                assert camera in ([], [number])
                assert (name, number) != ("nir", "3")
            everything.update(paths)
    assert everything == {str(path.relative_to(root)) for path in root.rglob("*.jpg")}
    tests = {int(path.name) for path in root.glob("test_vis/cam*/*")}
    assert sorted(tests) == numbers(root / "idx/test_id.txt")


@pytest.mark.usefixtures("blank_pictures")
def test_market_layout(tmp_path):
    """As the reader has it: people of at least two visible cameras, a query for each of them, distractors and junk."""
    root = tmp_path / "market"
    synthetic.write(root, layout="market1501", size="tiny", processes=1)
    train, test = (market.read_index(root, split, published=False) for split in ("train", "test"))
    assert {*train.camera, *test.camera} == {number for number, of in CAMERAS.items() if of.modality == VISIBLE}
    ((query, gallery),) = market.settings(test, published=False)[0].trials
    people, asked = set(train.identity.tolist()), set(test.identity[query].tolist())
    assert (len(people), len(asked)) == (TINY.train, TINY.test)
    assert not people & asked
    assert set(test.identity[gallery].tolist()) == asked | {0}
    for index, rows in ((train, slice(None)), (test, query), (test, gallery)):
        seen = np.unique(np.stack([index.identity[rows], index.camera[rows]], 1), axis=0)
        assert np.bincount(seen[:, 0])[sorted({*index.identity[rows]})].min() >= 2
    cells = set(zip(test.identity[query].tolist(), test.camera[query].tolist(), strict=True))
    assert len(cells) == len(query)
    assert {cell for cell in zip(test.identity.tolist(), test.camera.tolist(), strict=True) if cell[0]} == cells
    junk = list(root.glob("bounding_box_test/-1_*.jpg"))
    assert junk
    assert len(list(root.rglob("*.jpg"))) == len(train) + len(test) + len(junk)


def test_a_family_shares_its_wardrobe_and_no_two_members_look_the_same():
    for family in range(20):
        members = [person(0, family * FAMILY_SIZE + number) for number in range(1, FAMILY_SIZE + 1)]
        first, swapped, permuted, twisted = members
        assert (swapped.upper, swapped.lower, swapped.extra) == (first.lower, first.upper, first.extra)
        assert (permuted.upper, permuted.lower, permuted.extra) == (first.lower, first.extra, first.upper)
        body = {"leg", "breadth", "head", "gait"}
        changed = [
            name for name in first._fields if name not in body and getattr(first, name) != getattr(twisted, name)
        ]
        assert len(changed) == 1


def test_the_same_set_is_left_alone_and_anything_else_is_refused(sysu_root, tmp_path):
    before = (sysu_root / "synthetic.json").stat().st_mtime_ns
    synthetic.write(sysu_root, layout="sysu", size="tiny", processes=1)
    assert (sysu_root / "synthetic.json").stat().st_mtime_ns == before
    with pytest.raises(DataError, match=rf"{re.escape(str(sysu_root))}.*seed is 0, not 1"):
        synthetic.write(sysu_root, layout="sysu", size="tiny", seed=1)
    with pytest.raises(DataError, match="layout"):
        synthetic.write(sysu_root, layout="regdb", size="tiny")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        synthetic.write(tmp_path, layout="sysu", size="tiny")
    with pytest.raises(ValueError, match="market"):
        synthetic.write(tmp_path / "new", layout="market", size="tiny")


def test_the_description_names_the_set(sysu_root):
    description = json.loads((sysu_root / "synthetic.json").read_text())
    images = len(list(sysu_root.rglob("*.jpg")))
    version = synthetic.VERSION
    assert description == {"layout": "sysu", "size": "tiny", "seed": 0, "version": version, "images": images}


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    drawn = []

    def interrupted(*work):
        drawn.append(work)
        if len(drawn) == 5:
            raise KeyboardInterrupt
        return np.zeros((TINY.height, TINY.width, 3), np.uint8)

    monkeypatch.setattr(synthetic, "_draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthetic.write(tmp_path / "set", layout="sysu", size="tiny", processes=1)
    assert list(tmp_path.iterdir()) == []
