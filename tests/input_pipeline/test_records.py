"""Packs and resized pictures: those of the folder, in the order of the index, noticed when stale; no TensorFlow."""

import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from input_pipeline import records
from input_pipeline.images import Folder, Size, decode, resize
from input_pipeline.index import DataError, Index
from saai_jax.files import locked
from tests.input_pipeline.test_images import noise

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


HEIGHT, WIDTH = 14, 7


def test_nothing_is_left_in_tmpdir_or_by_one_that_was_killed(tree, tmp_path, monkeypatch):
    """What another process is writing stays."""
    for name in ("tmp", "packs/incomplete-dead/part", "packs/incomplete-alive"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with locked(tmp_path / "packs/incomplete-alive"):
        pack(tree, tmp_path)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert {path.name for path in (tmp_path / "packs").iterdir()} == {records.VisibleInfrared.name, "incomplete-alive"}
    store_resized(tree, tmp_path)
    assert not list((tmp_path / "packs").glob("incomplete-*"))


SIZE = Size(HEIGHT, WIDTH)


def store_resized(tree, tmp_path, size=SIZE):
    root, index = tree
    return records.store_resized(Folder(root, index), index, tmp_path / "packs", "sysu", "train", size)


def opened_resized(tree, tmp_path, size=SIZE, index=None):
    root, own = tree
    return records.Resized(tmp_path / "packs", "sysu", "train", own if index is None else index, root, size)


def test_resized_pictures_are_those_of_the_folder_bit_for_bit(tree, tmp_path):
    root, index = tree
    folder = store_resized(tree, tmp_path)
    assert Path(folder).is_relative_to(tmp_path / "packs")
    assert [path.name for path in (tmp_path / "packs").iterdir()] == ["resized"]
    images, resized = Folder(root, index), opened_resized(tree, tmp_path)
    sent = pickle.dumps(resized)
    assert len(sent) < HEIGHT * WIDTH * 3  # not even one picture
    for reader in (resized, pickle.loads(sent)):
        assert len(reader) == 5
        for i in (3, 0, 4, 1, 2):
            assert type(reader[i]) is np.ndarray
            assert reader[i].dtype == np.uint8
            np.testing.assert_array_equal(reader[i], resize(decode(images[i], PATHS[i]), SIZE))


def test_every_size_is_resized_on_its_own(tree, tmp_path):
    root, index = tree
    sizes = SIZE, Size(28, WIDTH), Size(28, WIDTH, "lanczos")
    for size in sizes:
        missing = f"sysu train at {size.height} x 7, {size.resample}; prepare them first"
        with pytest.raises(DataError, match=missing):
            opened_resized(tree, tmp_path, size)
        store_resized(tree, tmp_path, size)
    picture = decode(Folder(root, index)[0], PATHS[0])
    found = [opened_resized(tree, tmp_path, size)[0] for size in sizes]
    for pixels, size in zip(found, sizes, strict=True):
        np.testing.assert_array_equal(pixels, resize(picture, size))
    assert (found[1] != found[2]).any()


def test_unreadable_pictures_are_all_named_and_none_is_resized(tree, tmp_path):
    root, _ = tree
    (root / "b/1.jpg").write_bytes(b"")
    (root / "a/4.jpg").write_bytes(noise(9)[:200])
    with pytest.raises(DataError) as error:
        store_resized(tree, tmp_path)
    assert len(str(error.value).splitlines()) == 2
    assert all(path in str(error.value) for path in ("b/1.jpg", "a/4.jpg"))
    assert not list((tmp_path / "packs").iterdir())


def test_stale_or_damaged_resized_pictures_are_refused_and_replaced(tree, tmp_path):
    root, index = tree
    folder = Path(store_resized(tree, tmp_path))
    with pytest.raises(DataError, match="other paths or identities"):
        opened_resized(tree, tmp_path, index=index.take(np.array([1, 0, 2, 3, 4])))
    other = noise(77, height=30)
    (root / "b/1.jpg").write_bytes(other)
    with pytest.raises(DataError, match="other file sizes"):
        opened_resized(tree, tmp_path)
    store_resized(tree, tmp_path)
    wanted = resize(decode(other, "b/1.jpg"), SIZE)
    np.testing.assert_array_equal(opened_resized(tree, tmp_path)[0], wanted)
    (file,) = folder.glob("*.npy")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match="prepare the split again"):
        opened_resized(tree, tmp_path)
    file.unlink()
    with pytest.raises(DataError, match="prepare the split again"):
        opened_resized(tree, tmp_path)


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
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_pack_is_noticed_to_be_of_other_files_or_other_labels(tree, tmp_path):
    """A file added, removed, of another size; another identity, camera or modality for the same file."""
    root, index = tree
    pack(tree, tmp_path)

    def opened(index):
        return records.Packed(tmp_path / "packs", "sysu", "train", index, root)

    (root / "b/9.jpg").write_bytes(noise(9))
    added = Index(np.append(index.path, "b/9.jpg"), *(np.append(c, 1) for c in (index.identity, index.camera)), [0] * 6)
    one = np.arange(5) == 2
    for changed in (
        added,
        index.take(np.arange(4)),
        Index(index.path, np.where(one, 5, index.identity), index.camera, index.modality),
        Index(index.path, index.identity, np.where(one, 9, index.camera), index.modality),
        Index(index.path, index.identity, index.camera, np.where(one, 1, index.modality)),
    ):
        with pytest.raises(DataError, match="sysu-train.*other paths or identities than the index"):
            opened(changed)
    assert len(opened(index)) == 5
    with open(root / "a/2.bmp", "ab") as stream:
        stream.write(b"\0")
    with pytest.raises(DataError, match="other file sizes"):
        opened(index)


def test_a_damaged_pack_is_an_error_that_names_it(tree, tmp_path):
    root, index = tree
    folder = Path(pack(tree, tmp_path))
    whole = {file: file.read_bytes() for file in folder.iterdir()}
    (shard,) = (file for file in whole if "array_record" in file.name)

    def read():
        packed = records.Packed(tmp_path / "packs", "sysu", "train", index, root)
        return [packed[i] for i in range(len(packed))]

    expected = read()
    for file, content in whole.items():
        for damaged in (b"", content[: len(content) // 2]):
            file.write_bytes(damaged)
            with pytest.raises(DataError, match=r"sysu-train.*(damaged|made with other).*prepare the split again"):
                read()
        file.unlink()
        with pytest.raises(DataError, match=r"sysu-train.*(damaged|made with other).*prepare the split again"):
            read()
        file.write_bytes(content)
    content = bytearray(whole[shard])
    at = content.index(expected[0][20:60])
    content[at] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"sysu-train/1.0.0: record 0 is damaged, prepare the split again"):
        read()
    shard.write_bytes(whole[shard])
    assert read() == expected
