"""Packs: the pictures of the folder, in the order of the index, noticed when stale, and no TensorFlow."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_images import noise

from input_pipeline import records
from input_pipeline.images import Folder, decode
from input_pipeline.index import DataError, Index

PATHS = ["b/1.jpg", "a/2.bmp", "a/1.png", "b/é 3.jpg", "a/4.jpg"]


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "set"
    for i, path in enumerate(PATHS):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(noise(i, path[-3:], "L" if i % 2 else "RGB"))
    return root, Index(np.array(PATHS), np.array([5, 3, 3, 5, 3]), np.arange(5) + 1, np.arange(5) % 2)


def pack(tree, tmp_path, split="train"):
    root, index = tree
    return records.pack(Folder(root, index), index, tmp_path / "packs", "sysu", split)


def test_packed_pictures_are_those_of_the_folder(tree, tmp_path):
    root, index = tree
    folder = pack(tree, tmp_path)
    assert Path(folder).is_relative_to(tmp_path / "packs")
    assert [path.name for path in (tmp_path / "packs").iterdir()] == [records.VisibleInfrared.name]
    images = Folder(root, index)
    packed = pickle.loads(pickle.dumps(records.Packed(tmp_path / "packs", "sysu", "train", index, root)))
    assert len(packed) == 5
    for i in (3, 0, 4, 1, 2):
        np.testing.assert_array_equal(decode(packed[i], PATHS[i]), decode(images[i], PATHS[i]))
        assert (packed[i] == images[i]) == (not PATHS[i].endswith("bmp"))
    row = packed.source[1]
    assert (row["identity"], row["camera"], row["modality"], row["path"].decode()) == (3, 2, 1, "a/2.bmp")


def test_unreadable_pictures_are_all_named_and_nothing_is_written(tree, tmp_path):
    root, _ = tree
    (root / "b/1.jpg").write_bytes(b"")
    (root / "a/4.jpg").write_bytes(noise(9)[:200])
    (root / "a/1.png").unlink()
    with pytest.raises(DataError) as error:
        pack(tree, tmp_path)
    assert len(str(error.value).splitlines()) == 3
    assert all(path in str(error.value) for path in ("b/1.jpg", "a/4.jpg", "a/1.png"))
    assert not (tmp_path / "packs").exists()


def test_stale_packs_are_refused_and_replaced(tree, tmp_path):
    root, index = tree

    def opened(index):
        return records.Packed(tmp_path / "packs", "sysu", "train", index, root)

    with pytest.raises(DataError, match="no such folder"):
        opened(index)
    pack(tree, tmp_path)
    with pytest.raises(DataError, match="other paths or identities"):
        opened(index.take(np.array([1, 0, 2, 3, 4])))
    with pytest.raises(DataError, match="other paths or identities"):
        opened(Index(index.path, index.identity + 1, index.camera, index.modality))
    other = noise(77, height=30)
    (root / "b/1.jpg").write_bytes(other)
    with pytest.raises(DataError, match="other file sizes"):
        opened(index)
    pack(tree, tmp_path)
    assert opened(index)[0] == other
    (root / "b/1.jpg").unlink()
    with pytest.raises(DataError, match=r"b/1\.jpg"):
        opened(index)


def test_tensorflow_is_never_imported(tree, tmp_path):
    code = """
import sys
import numpy as np
from input_pipeline.images import Folder
from input_pipeline.index import Index
from input_pipeline.records import Packed, pack
root, data_dir = sys.argv[1:]
index = Index(np.array(["b/1.jpg"]), np.ones(1), np.ones(1), np.ones(1))
pack(Folder(root, index), index, data_dir, "sysu", "test")
assert len(Packed(data_dir, "sysu", "test", index, root)[0])
assert "tensorflow" not in sys.modules and "jax" not in sys.modules
"""
    command = [sys.executable, "-c", code, str(tree[0]), str(tmp_path / "packs")]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
