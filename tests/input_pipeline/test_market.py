"""Market-1501's layout: file names, junk and distractors, and the one setting."""

import numpy as np
import pytest
from absl import logging

from configs.market import get_config
from input_pipeline import market
from input_pipeline.index import DataError, Index
from modes.building import COSINE, source_of
from modes.ranking import row

FILES = {
    "bounding_box_train": [
        "0002_c1s1_000451_03.jpg",
        "0002_c4s1_000451_03.jpg",
        "0007_c3s3_077419_03.jpg",
        "0007_c6s3_077419_03.jpg",
        "Thumbs.db",
    ],
    "bounding_box_test": [
        "-1_c1s1_000401_03.jpg",
        "0000_c2s1_000151_01.jpg",
        "0001_c1s1_001051_03.jpg",
        "0001_c4s6_000810_01.jpg",
        "0003_c2s1_000776_02.jpg",
        "Thumbs.db",
    ],
    "query": ["0001_c1s1_001051_00.jpg", "0003_c1s2_000776_00.jpg"],
}


def write_market(root, content=lambda path: b""):
    """FILES below root. content: bytes of an image by its path."""
    for folder, names in FILES.items():
        (root / folder).mkdir(parents=True)
        for name in names:
            (root / folder / name).write_bytes(content(f"{folder}/{name}") if name.endswith(".jpg") else b"x")


@pytest.fixture
def tree(tmp_path):
    write_market(tmp_path)
    return tmp_path


@pytest.fixture
def warned(monkeypatch):
    warnings = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: warnings.append(text % values))
    return warnings


def complete(queries=3368, gallery=15_913):
    """An index with the published numbers of rows, and a match under another camera for every query."""
    side = np.repeat(["query", "bounding_box_test"], [queries, gallery])
    path = np.char.add(np.char.add(side, "/"), np.arange(len(side)).astype(str))
    identity = np.append(np.arange(queries) % 750 + 1, np.arange(gallery) % 750 + 1)
    return Index(path, identity, np.repeat([1, 2], [queries, gallery]), np.zeros(len(side)))


def test_identities_and_cameras_are_those_of_the_names_and_junk_is_left_out(tree):
    index = market.read_index(tree, "test", published=False)
    assert index.path.tolist() == [
        f"{folder}/{name}"
        for folder in ("bounding_box_test", "query")
        for name in FILES[folder]
        if name.endswith(".jpg") and not name.startswith("-1")
    ]
    assert index.identity.tolist() == [0, 1, 1, 3, 1, 3]
    assert index.camera.tolist() == [2, 1, 4, 2, 1, 1]
    assert not index.modality.any()
    assert market.read_index(tree, "train", published=False).identity.tolist() == [2, 2, 7, 7]


def test_names_of_the_other_set_are_read(tree):
    (tree / "bounding_box_train/0012_c8_f0046182.jpg").touch()
    index = market.read_index(tree, "train", dataset="dukemtmc", published=False)
    assert (index.identity[-1], index.camera[-1]) == (12, 8)


def test_faults_of_the_folders_are_named(tree):
    (tree / "query/0003_cam1.jpg").touch()
    (tree / "query/second.png").touch()
    with pytest.raises(DataError, match=r"(?s)query/0003_cam1\.jpg: expected a name like.*query/second\.png"):
        market.read_index(tree, "test", published=False)
    (tree / "query").rename(tree / "queries")
    with pytest.raises(DataError, match="query: cannot be listed"):
        market.read_index(tree, "test", published=False)
    with pytest.raises(DataError, match="no split 'val'"):
        market.read_index(tree, "val")
    with pytest.raises(DataError, match="no data set 'msmt17', expected one of market1501, dukemtmc"):
        market.read_index(tree, "train", dataset="msmt17")
    for file in (tree / "bounding_box_train").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="no images in bounding_box_train, expected"):
        market.read_index(tree, "train", published=False)


def test_published_counts_are_asserted_or_warned_of(tree, warned):
    with pytest.raises(DataError, match=r"(?s)2 identities, .* has 751.*4 bounding_box_train, .* has 12,936"):
        market.read_index(tree, "train")
    with pytest.raises(DataError, match=r"(?s)5 bounding_box_test, .* has 19,732.*2 query, .* has 3,368"):
        market.read_index(tree, "test")
    assert not warned
    market.read_index(tree, "train", dataset="dukemtmc")
    assert [line.split(": ")[1] for line in warned] == [
        "2 identities, the published data set has 702",
        "4 bounding_box_train, the published data set has 16,522",
    ]


def test_the_setting_keeps_distractors_and_skips_the_same_camera(tree):
    index = market.read_index(tree, "test", published=False)
    (setting,) = market.settings(index, published=False)
    assert (setting.dataset, setting.protocol, setting.direction) == ("market1501", "market1501", "visible-to-visible")
    assert not setting.unique_identities
    ((query, gallery),) = setting.trials
    assert (query.tolist(), gallery.tolist()) == ([4, 5], [0, 1, 2, 3])
    valid = setting.valid(index.identity[query], index.camera[query], index.identity[gallery], index.camera[gallery])
    assert valid.tolist() == [[True, False, True, True], [True] * 4]


def test_junk_of_a_features_file_is_not_ranked(tree):
    index = market.read_index(tree, "test", published=False)
    identity = np.where(np.arange(len(index)) == 2, -1, index.identity)
    (setting,) = market.settings(Index(index.path, identity, index.camera, index.modality), published=False)
    assert setting.trials[0].gallery.tolist() == [0, 1, 3]


def test_settings_name_what_does_not_fit(warned):
    index = complete()

    def message(**changed):
        columns = {name: getattr(index, name) for name in ("path", "identity", "camera", "modality")}
        with pytest.raises(DataError) as error:
            market.settings(Index(**columns | changed))
        return str(error.value)

    assert "index: root/query/0 not below query/ or bounding_box_test/" in message(
        path=np.append(["root/query/0"], index.path[1:])
    )
    assert "index: query/1 listed more than once" in message(path=np.append(["query/1"], index.path[1:]))
    assert "query/0 of no known identity" in message(identity=np.append([0], index.identity[1:]))
    assert "no images below bounding_box_test/" in message(identity=np.where(index.camera == 2, -1, index.identity))
    assert "15,912 gallery images, the published data set has 15,913" in message(
        identity=np.append(index.identity[:-1], [-1])
    )
    assert not warned


def test_published_sizes_pass_and_a_lost_match_is_warned_of(warned):
    (setting,) = market.settings(complete())
    assert [len(rows) for rows in setting.trials[0]] == [3368, 15_913]
    assert not warned
    index = complete()
    camera = np.where(index.identity == 750, 3, index.camera)  # its images are all under one camera
    market.settings(Index(index.path, index.identity, camera, index.modality))
    assert warned == ["index, market1501: 3,364 queries with a match, the published data set has 3,368"]
    market.settings(complete(2228, 17_661), dataset="dukemtmc")
    assert len(warned) == 1


def test_identities_held_out_are_ranked_by_the_rule_of_the_cameras(tree, warned):
    """Every tenth identity, the last of fewer; the first image of each camera is a query, and never its own match."""
    for name in ("0007_c3s1_000001_00.jpg", "0007_c6s1_000002_00.jpg"):
        (tree / "bounding_box_train" / name).touch()
    c = get_config("dukemtmc,validate")
    c.data.root, c.data.published = str(tree), False
    source = source_of(c)
    train, validation = source.training(c.data.sampler, c.data.images)
    assert train.identity.tolist() == [2, 2]
    setting = source.validation_setting(validation)
    assert (setting.dataset, setting.direction) == ("dukemtmc", "visible-to-visible")
    ((query, gallery),) = setting.trials
    assert validation.path[query].tolist() == [
        f"bounding_box_train/{name}" for name in ("0007_c3s1_000001_00.jpg", "0007_c6s1_000002_00.jpg")
    ]
    assert validation.camera[gallery].tolist() == [3, 3, 6, 6]
    valid = setting.valid(
        *(column[rows] for rows in (query, gallery) for column in (validation.identity, validation.camera))
    )
    assert valid.tolist() == [[False, False, True, True], [True, True, False, False]]
    embedding = np.float32([[1, 0], [0, 1], [1, 0], [0, 1]])  # both cameras' first images, and both second ones
    (tree / "bounding_box_train/0002_c4s1_000451_03.jpg").unlink()
    c.data.validation, c.data.skip_incomplete = False, True
    train, _ = source_of(c).training(c.data.sampler, c.data.images)
    assert (set(train.identity.tolist()), warned) == (
        {7},
        ["1 identities with too little for the sampler cameras are left out: [2]"],
    )
    found = row(setting, validation, embedding, "cosine", COSINE)
    assert (found["queries"], found["rank1"]) == (2, 100.0)
