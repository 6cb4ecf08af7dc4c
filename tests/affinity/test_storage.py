"""A gallery in a folder: the same after loading, and every damage refused by name."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saai_jax.affinity import Gallery, StorageError
from saai_jax.affinity.storage import ARRAYS, MANIFEST, checksum, load
from tests.affinity.test_gallery import people

QUERY, IMAGES = people(0)


@pytest.fixture(scope="module")
def gallery():
    return Gallery.build(IMAGES, k1=6, k2=3, spare=9)


@pytest.fixture
def folder(gallery, tmp_path):
    gallery.save(tmp_path / "gallery")
    return tmp_path / "gallery"


def test_a_loaded_gallery_is_the_saved_one(gallery, folder):
    loaded = Gallery.load(folder)
    assert isinstance(loaded.embedding, np.memmap)
    assert (loaded.k1, loaded.k2, loaded.variant, loaded.precision) == (6, 3, "released", "highest")
    for a, b in zip(gallery.search(QUERY, 9), loaded.search(QUERY, 9), strict=True):
        np.testing.assert_array_equal(a, b)
    grown, other = loaded.add(QUERY), gallery.add(QUERY)
    np.testing.assert_array_equal(grown.distances(QUERY), other.distances(QUERY))
    np.testing.assert_array_equal(loaded.remove([1, 4]).distances(QUERY), gallery.remove([1, 4]).distances(QUERY))


def test_saving_again_replaces_and_leaves_no_files(gallery, folder):
    loaded = Gallery.load(folder)
    grown = loaded.add(QUERY)
    grown.save(folder)  # into the folder that its arrays are mapped from
    assert len(list(folder.iterdir())) == len(ARRAYS) + 1
    np.testing.assert_array_equal(Gallery.load(folder).distances(QUERY), grown.distances(QUERY))
    np.testing.assert_array_equal(loaded.distances(QUERY), gallery.distances(QUERY))  # what is mapped stays


def test_a_save_that_is_killed_leaves_the_old_gallery_or_the_new(gallery, folder):
    """A process saves two galleries in turn until it is killed."""
    code = (
        "import sys; from saai_jax.affinity import Gallery\n"
        "a = Gallery.load(sys.argv[1]); b = a.remove([0]); print('go', flush=True)\n"
        "while True: b.save(sys.argv[1]); a.save(sys.argv[1])"
    )
    for delay in (0.0, 0.013, 0.05):
        writer = subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE)
        assert writer.stdout.readline() == b"go\n"
        time.sleep(delay)
        assert len(Gallery.load(folder)) in (59, 60)  # while it writes
        writer.kill()
        writer.wait()
        assert len(Gallery.load(folder)) in (59, 60)
        gallery.save(folder)
        assert len(list(folder.iterdir())) == len(ARRAYS) + 1


def test_two_that_save_into_one_folder_at_once_leave_the_gallery_of_one(gallery, tmp_path):
    smaller = gallery.remove([0])
    for attempt in range(12):
        folder = tmp_path / str(attempt)
        with ThreadPoolExecutor() as pool:
            for saving in [pool.submit(which.save, folder) for which in (gallery, smaller)]:
                saving.result()
        assert len(Gallery.load(folder)) in (59, 60)
        assert len(list(folder.iterdir())) == len(ARRAYS) + 1


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from(["flip", "cut", "empty", "missing"]))
def test_damage_is_found(tmp_path_factory, seed, damage):
    random = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("damaged") / "gallery"
    whole = kept(tmp_path_factory)
    shutil.copytree(whole, folder)
    files = sorted(folder.iterdir())
    file = files[random.integers(len(files))]
    content = bytearray(file.read_bytes())
    at = random.integers(len(content))
    if damage == "missing":
        file.unlink()
    else:
        content[at] ^= 1 << random.integers(8)
        file.write_bytes({"flip": content, "cut": content[:at], "empty": b""}[damage])
    if damage == "flip" and file.name == MANIFEST:
        # White space and the like are under no checksum: refused, or the same gallery.
        with contextlib.suppress(StorageError):
            np.testing.assert_array_equal(Gallery.load(folder).embedding, Gallery.load(whole).embedding)
        return
    with pytest.raises(StorageError, match=str(folder)):
        Gallery.load(folder)


def kept(factory, made=[]):  # noqa: B006 (one folder for all examples)
    if not made:
        made.append(factory.mktemp("whole") / "gallery")
        Gallery.build(IMAGES, k1=6, k2=3).save(made[0])
    return made[0]


def changed(folder, **entries):
    file = folder / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def test_foreign_folders_are_refused(gallery, folder, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("all I have")
    with pytest.raises(StorageError, match=r"thesis holds other files and no gallery\.json"):
        gallery.save(tmp_path / "thesis")
    with pytest.raises(StorageError, match=r"thesis/gallery\.json is missing"):
        Gallery.load(tmp_path / "thesis")
    with pytest.raises(StorageError, match="is a file, expected a folder"):
        gallery.save(tmp_path / "thesis" / "chapter1.tex")
    with pytest.raises(StorageError, match="is not readable"):
        Gallery.load(tmp_path / "thesis" / "chapter1.tex")
    with pytest.raises(StorageError, match=r"nothing/gallery\.json is missing"):
        Gallery.load(tmp_path / "nothing")
    for entries, message in (
        ({"version": 2}, "version 2, expected 'saai-jax gallery' version 1"),
        ({"format": "index"}, "is 'index' version 1"),
        ({"about": {"k1": 6}}, "expected k1, k2, variant and precision"),
        ({"about": {"k1": 0, "k2": 3, "variant": "released", "precision": "highest"}}, "expected k1, k2"),
        ({"about": {"k1": 6, "k2": 3, "variant": "new", "precision": "highest"}}, "variant 'new'"),
        ({"arrays": {}}, "does not name exactly the arrays"),
    ):
        good = (folder / MANIFEST).read_text()
        changed(folder, **entries)
        with pytest.raises(StorageError, match=message):
            Gallery.load(folder)
        with pytest.raises(StorageError, match=message):
            gallery.save(folder)
        (folder / MANIFEST).write_text(good)


def test_a_manifest_cannot_name_files_elsewhere(folder):
    secret = folder.parent / "secret.npy"
    np.save(secret, IMAGES)
    arrays = json.loads((folder / MANIFEST).read_text())["arrays"]
    for name in (str(secret), "../secret.npy"):
        changed(folder, arrays=arrays | {"embedding": arrays["embedding"] | {"file": name}})
        with pytest.raises(StorageError, match="names no file of its own for embedding"):
            Gallery.load(folder)


def test_a_stored_object_is_never_unpickled(folder):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(folder / "harmed"),)

    arrays = json.loads((folder / MANIFEST).read_text())["arrays"]
    np.save(folder / arrays["embedding"]["file"], np.array([Harm()]), allow_pickle=True)
    with pytest.raises(StorageError, match="is damaged"):
        Gallery.load(folder)
    assert not (folder / "harmed").exists()


def test_arrays_of_two_galleries_do_not_mix(gallery, folder, tmp_path):
    gallery.remove([5]).save(tmp_path / "other")
    other = json.loads((tmp_path / "other" / MANIFEST).read_text())["arrays"]
    shutil.copy(tmp_path / "other" / other["embedding"]["file"], folder)
    arrays = json.loads((folder / MANIFEST).read_text())["arrays"]
    changed(folder, arrays=arrays | {"embedding": other["embedding"]})
    with pytest.raises(StorageError, match="the arrays do not belong together"):
        Gallery.load(folder)


def replaced(folder, name, array):
    """An array of the gallery, with a checksum and a shape that fit, as who meant harm would write it."""
    arrays = json.loads((folder / MANIFEST).read_text())["arrays"]
    file = folder / arrays[name]["file"]
    np.save(file, array)
    changed(folder, arrays=arrays | {name: arrays[name] | {"crc32": checksum(file), "shape": list(array.shape)}})


def test_what_was_made_up_is_refused_though_its_checksums_fit(folder):
    _, arrays = load(folder)
    begin = np.array(arrays["begin"])
    begin[1:4] = (2**31 - 1, -(2**31), -1)  # as 32-bit numbers wrap round, each is no less than the one before
    endless = {name: np.where(np.arange(arrays[name].size).reshape(arrays[name].shape), arrays[name], np.nan)
               for name in ("embedding", "value", "weight")}  # fmt: skip
    for name, array, message in (
        ("begin", begin, "do not belong together"),
        ("column", np.array(arrays["column"]) + 99, "do not belong together"),
        *((name, array.astype(np.float32), f"{name}-.*numbers that are not finite") for name, array in endless.items()),
    ):
        before = np.array(arrays[name])
        replaced(folder, name, array)
        with pytest.raises(StorageError, match=message):
            load(folder)
        replaced(folder, name, before)
    load(folder)
    whole = (folder / MANIFEST).read_text()
    for text in ("[" * 100_000, whole.replace('"k1": 6', '"k1": 1e999'), whole.replace('"k1": 6', f'"k1": {10**30}')):
        (folder / MANIFEST).write_text(text)
        with pytest.raises(StorageError, match="gallery.json is not readable"):
            load(folder)
