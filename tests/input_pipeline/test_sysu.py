"""SYSU-MM01: reading its folders, its counts, and the official settings."""

import numpy as np
import pytest
import scipy.io

from input_pipeline import sysu
from input_pipeline.index import DataError, Index

pytestmark = pytest.mark.usefixtures("in_this_process")
SMALL = {
    "train": {2: (4, 5, 4, 4, 0, 4), 1: (4, 4, 4, 0, 4, 4)},
    "val": {3: (0, 0, 4, 4, 4, 0)},
    "test": {6: (12, 11, 4, 0, 10, 4), 4: (3, 3, 5, 12, 12, 4), 5: (0, 0, 4, 10, 11, 4)},
}


def write_sysu(root, counts, content=lambda path: b""):
    """A SYSU-MM01 tree with counts[split][identity][camera - 1] images; content(path) gives a file's bytes."""
    identities = {identity: numbers for split in counts.values() for identity, numbers in split.items()}
    for identity, numbers in identities.items():
        for camera, number in enumerate(numbers, 1):
            folder = root / f"cam{camera}/{identity:04d}"
            if number or camera > 3:  # absent identities: no folder at all, or an empty one
                folder.mkdir(parents=True, exist_ok=True)
            for i in range(1, number + 1):
                (folder / f"{i:04d}.jpg").write_bytes(content(f"cam{camera}/{identity:04d}/{i:04d}.jpg"))
    (root / "exp").mkdir()
    for split, members in counts.items():
        (root / f"exp/{split}_id.txt").write_text(",".join(map(str, members)) + "\n")
    write_permutation(root / "exp/rand_perm_cam.mat", identities)


def write_permutation(path, identities, wrap=True):
    """The official file: 6 x 1 cells of n x 1 cells, each (wrapped once more, or not) a matrix of 10 x images."""
    generator = np.random.default_rng(0)
    cameras = np.empty((6, 1), object)
    for camera in range(6):
        cells = np.empty((max(identities), 1), object)
        for i in range(len(cells)):
            number = identities.get(i + 1, (0,) * 6)[camera]
            matrix = np.array([generator.permutation(number) + 1 for _ in range(10)], np.uint8).reshape(10, number)
            cells[i, 0] = matrix
            if wrap:
                cells[i, 0] = np.empty((1, 1), object)
                cells[i, 0][0, 0] = matrix
        cameras[camera, 0] = cells
    scipy.io.savemat(path, {"rand_perm_cam": cameras})


@pytest.fixture
def small(tmp_path):
    write_sysu(tmp_path, SMALL)
    return tmp_path


def spread(total, identities):
    """Numbers that differ by one at most and sum to total."""
    number, more = divmod(total, len(identities))
    return {identity: number + (i < more) for i, identity in enumerate(identities)}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A tree of empty files with all published numbers of the test split: images, identities, valid queries."""
    root = tmp_path_factory.mktemp("published")
    indoor, outdoor, everyone = range(1, 57), range(57, 97), range(1, 97)
    cameras = [
        spread(1374, indoor),
        spread(1565, indoor),
        spread(1088, indoor[2:]) | spread(1883 - 1088, outdoor[1:]),
        spread(1918, everyone[2:]),
        spread(1918, everyone[1:]),
        spread(1920, everyone),
    ]
    write_sysu(root, {"test": {i: tuple(camera.get(i, 0) for camera in cameras) for i in everyone}})
    return root


def test_rows_are_ordered_by_identity_camera_and_name(small):
    index = sysu.read_index(small, "trainval", published=False)
    assert len(index) == 21 + 20 + 12
    keys = list(zip(index.identity.tolist(), index.camera.tolist(), index.path.tolist(), strict=True))
    assert keys == sorted(keys)
    assert keys[0] == (1, 1, "cam1/0001/0001.jpg")
    assert set(index.camera[index.modality == 1].tolist()) == {3, 6}
    assert set(sysu.read_index(small, "test", published=False).identity.tolist()) == {4, 5, 6}


def test_identities_come_from_mat_files_where_there_is_no_text(small):
    before = sysu.read_index(small, "train", published=False)
    (small / "exp/train_id.txt").unlink()
    with pytest.raises(DataError, match=r"train_id\.txt: no such file, and no train_id\.mat"):
        sysu.read_index(small, "train", published=False)
    (small / "official").mkdir()
    scipy.io.savemat(small / "official/train_id.mat", {"id": np.array([[1, 2]], np.uint16)})
    after = sysu.read_index(small, "train", published=False, split_dir=small / "official")
    assert after.path.tolist() == before.path.tolist()
    for wrong in ([[1.0, np.nan]], [[1.5, 2]], [[0, 1]], [[-1, 1]], [[2.0**40, 1]], np.array([[1, "a"]], object), [[]]):
        scipy.io.savemat(small / "official/train_id.mat", {"id": np.array(wrong)})
        with pytest.raises(DataError, match=r"train_id\.mat: ('id' holds something else|cannot be read)"):
            sysu.read_index(small, "train", published=False, split_dir=small / "official")


def test_only_the_camera_folders_are_listed(small):
    before = len(sysu.read_index(small, "train", published=False))
    (small / "cam1_video_train/0001").mkdir(parents=True)
    (small / "cam1_video_train/0001/0001.jpg").touch()
    (small / "cam1/0001/video").mkdir()
    (small / "cam1/0001/video/0001.jpg").touch()
    assert len(sysu.read_index(small, "train", published=False)) == before


def test_faults_of_the_folders_are_named(small):
    (small / "cam1/0001/0009.png").touch()
    with pytest.raises(DataError, match=r"cam1/0001/0009\.png .*only \.jpg"):
        sysu.read_index(small, "train", published=False)
    (small / "exp/train_id.txt").write_text("1,2,8,9")
    with pytest.raises(DataError, match=r"(?s)0001/0009\.png.*cam\*/0008.*cam\*/0009"):
        sysu.read_index(small, "train", published=False)
    (small / "exp/val_id.txt").write_text("2,3")
    with pytest.raises(DataError, match="train and val: 2 listed more than once"):
        sysu.read_index(small, "trainval", published=False)
    (small / "cam6").rename(small / "camera6")
    with pytest.raises(DataError, match="cam6: no such folder"):
        sysu.read_index(small, "test", published=False)
    with pytest.raises(DataError, match="no split 'query'"):
        sysu.read_index(small, "query")


def test_published_counts_are_asserted(small):
    with pytest.raises(DataError) as error:
        sysu.read_index(small, "train")
    assert len(str(error.value).splitlines()) == 7
    assert "2 identities in train, the published data set has 296" in str(error.value)


def test_published_counts_sum_to_those_of_the_papers():
    visible, infrared = (
        {split: sum(images[c - 1] for c in cameras) for split, (_, images) in sysu._PUBLISHED.items()}
        for cameras in ((1, 2, 4, 5), (3, 6))
    )
    assert (visible["train"], infrared["train"]) == (20_284, 9_929)
    assert (visible["trainval"], infrared["trainval"]) == (22_258, 11_909)
    assert infrared["test"] == 3_803
    assert [visible["train"] + visible["val"], infrared["train"] + infrared["val"]] == [22_258, 11_909]


def test_the_published_test_split_passes_and_one_missing_file_is_named(published):
    index = sysu.read_index(published, "test")
    settings = sysu.settings(index, published / "exp")
    assert [len(setting.trials[9].gallery) for setting in settings] == [301, 3010, 112, 1120]
    assert {len(trial.query) for setting in settings for trial in setting.trials} == {3803}
    removed = published / "cam5/0033/0020.jpg"
    removed.unlink()
    try:
        with pytest.raises(DataError, match=r"cam5: 1,917 images of the test identities, the published .* 1,918"):
            sysu.read_index(published, "test")
        with pytest.raises(DataError, match=r"rand_perm_cam\.mat: camera 5, identity 33: 20 images.* has 19"):
            sysu.settings(sysu.read_index(published, "test", published=False), published / "exp")
    finally:
        removed.touch()


def test_settings_draw_the_first_entries_of_row_t(small):
    index = sysu.read_index(small, "test", published=False)
    settings = sysu.settings(index, small / "exp", published=False)
    assert [(s.protocol, s.shots, len(s.trials)) for s in settings] == [
        ("sysu-official-all", "single", 10),
        ("sysu-official-all", "multi", 10),
        ("sysu-official-indoor", "single", 10),
        ("sysu-official-indoor", "multi", 10),
    ]
    assert {(s.dataset, s.direction, s.unique_identities) for s in settings} == {("sysu", "infrared-to-visible", True)}
    cells = scipy.io.loadmat(small / "exp/rand_perm_cam.mat")["rand_perm_cam"]
    for setting, cameras, shots in zip(settings, [(1, 2, 4, 5)] * 2 + [(1, 2)] * 2, [1, 10, 1, 10], strict=True):
        for t, trial in enumerate(setting.trials):
            expected = []
            for identity in (4, 5, 6):
                for camera in cameras:
                    order = cells[camera - 1, 0][identity - 1, 0][0, 0]
                    expected += [f"cam{camera}/{identity:04d}/{number:04d}.jpg" for number in order[t, :shots]]
            assert index.path[trial.gallery].tolist() == expected
            np.testing.assert_array_equal(trial.query, np.flatnonzero(index.modality == 1))


def test_settings_take_an_index_in_any_order(small):
    index = sysu.read_index(small, "test", published=False)
    order = np.random.default_rng(1).permutation(len(index))
    shuffled = index.take(order)
    write_permutation(small / "exp/rand_perm_cam.mat", SMALL["test"], wrap=False)
    for one, other in zip(
        sysu.settings(index, small / "exp", published=False),
        sysu.settings(shuffled, small / "exp", published=False),
        strict=True,
    ):
        assert index.path[one.trials[3].gallery].tolist() == shuffled.path[other.trials[3].gallery].tolist()


def test_settings_name_what_does_not_fit(small):
    index = sysu.read_index(small, "test", published=False)
    path = small / "exp/rand_perm_cam.mat"

    def message(index, published=False):
        with pytest.raises(DataError) as error:
            sysu.settings(index, small / "exp", published=published)
        return str(error.value)

    unnumbered = Index(
        np.char.replace(index.path, "0003.jpg", "0033.jpg"), index.identity, index.camera, index.modality
    )
    assert "cam1/0004: files are not numbered 1 to 3" in message(unnumbered)
    named = Index(np.char.replace(index.path, "0003.jpg", "three.jpg"), index.identity, index.camera, index.modality)
    assert "expected a file number" in message(named)
    assert "expected to be infrared" in message(Index(index.path, index.identity, index.camera, 1 - index.modality))
    assert "test identities 5 of" in message(index.take(index.identity != 5), published=True)
    renamed = Index(index.path, np.where(index.identity == 5, 50, index.identity), index.camera, index.modality)
    assert "identities 50 are not test identities" in message(renamed, published=True)
    assert "identity 50: no cell, but the index has 4 images" in message(renamed)

    write_permutation(path, SMALL["test"] | {4: (3, 3, 5, 12, 12, 5)})
    assert "camera 6, identity 4: 5 images, but the index has 4" in message(index)
    write_permutation(path, SMALL["test"])
    cells = scipy.io.loadmat(path)
    cells["rand_perm_cam"][0, 0][3, 0][0, 0][7, 1] = 9
    scipy.io.savemat(path, {"rand_perm_cam": cells["rand_perm_cam"]})
    assert "camera 1, identity 4: the rows are not permutations of 1 to 3" in message(index)
    for number in (0, 1.5, np.nan, 2.0**40):
        matrix = np.where(cells["rand_perm_cam"][0, 0][3, 0][0, 0] == 9, number, 1.0)
        cells["rand_perm_cam"][0, 0][3, 0][0, 0] = matrix
        scipy.io.savemat(path, {"rand_perm_cam": cells["rand_perm_cam"]})
        assert "camera 1, identity 4: other numbers than 1, 2, ..." in message(index)
        matrix[7, 1] = 9
    scipy.io.savemat(path, {"other": 1})
    assert "no variable 'rand_perm_cam'" in message(index)
    scipy.io.savemat(path, {"rand_perm_cam": np.zeros((6, 1))})
    assert "expected 6 cells" in message(index)
    path.write_bytes(path.read_bytes()[:150])
    assert "cannot be read" in message(index)
    path.unlink()
    assert "rand_perm_cam.mat: no such file" in message(index)
    assert "github.com/wuancong" in message(index)


def test_valid_drops_the_room_of_camera_three():
    query, gallery = np.array([3, 6]), np.array([1, 2, 4, 5])
    valid = sysu.valid(np.array([7, 7]), query, np.array([7, 8, 7, 7]), gallery)
    np.testing.assert_array_equal(valid, [[True, False, True, True], [True] * 4])
    np.testing.assert_array_equal(query, [3, 6])
