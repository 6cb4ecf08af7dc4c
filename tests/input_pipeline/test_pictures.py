"""Folders of one's own pictures, made with Pillow."""

import io
import os

import numpy as np
import pytest
from absl import logging
from PIL import Image

from input_pipeline.batches import eval_batches
from input_pipeline.images import Size, decode, refuse_unreadable
from input_pipeline.index import DataError, Index
from input_pipeline.pictures import UNKNOWN, Pictures, decoded, read_folder, upright
from saai_jax.features.store import Features, load, save


def write(file, shape=(8, 6, 3), value=None, **how):
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(0).randint(0, 256, shape) if value is None else np.full(shape, value)
    Image.fromarray(pixels.astype(np.uint8)).save(file, **how)
    return file


def encoded(pixels: np.ndarray, orientation: int | None, kind="JPEG") -> bytes:
    stream, exif = io.BytesIO(), Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(stream, kind, exif=exif, **({"quality": 100} if kind == "JPEG" else {}))
    return stream.getvalue()


def test_every_picture_below_the_folder_by_path(tmp_path):
    for name in ("b.png", "a/2.JPG", "a/10.jpeg", "a/deep/1.bmp", ".hidden/1.png", ".ds.png"):
        write(tmp_path / name, format={"j": "JPEG", "J": "JPEG", "p": "PNG", "b": "BMP"}[name.rpartition(".")[2][0]])
    index = read_folder(tmp_path, "infrared")
    assert index.path.tolist() == ["a/10.jpeg", "a/2.JPG", "a/deep/1.bmp", "b.png"]
    assert set(index.identity) == {UNKNOWN}
    assert set(index.camera) == {2}
    assert set(index.modality) == {1}
    assert set(read_folder(tmp_path, "visible").modality) == {0}
    assert set(read_folder(tmp_path, "visible").camera) == {1}


def test_identities_are_the_folders_names_only_if_asked_for(tmp_path):
    write(tmp_path / "0007" / "1.png")
    write(tmp_path / "12" / "deep" / "1.png")
    assert read_folder(tmp_path, "visible", identities=True).identity.tolist() == [7, 12]
    assert read_folder(tmp_path, "visible").identity.tolist() == [UNKNOWN] * 2
    write(tmp_path / "1.png")
    write(tmp_path / "anna" / "1.png")
    write(tmp_path / str(2**31) / "1.png")
    with pytest.raises(DataError) as error:
        read_folder(tmp_path, "visible", identities=True)
    assert [line.split(": ")[0] for line in str(error.value).splitlines()] == [
        str(tmp_path / name) for name in ("1.png", f"{2**31}/1.png", "anna/1.png")
    ]


def test_grey_and_colour_pictures_become_batches_of_one_size(tmp_path):
    write(tmp_path / "1.png", (9, 5), 100)
    write(tmp_path / "2.png", (20, 30, 3), 50)
    index = read_folder(tmp_path, "visible")
    (batch,) = eval_batches(Pictures(tmp_path, index), index, size=Size(4, 2), batch=8, threads=1)
    np.testing.assert_array_equal(batch["image"], np.array([100, 50]).reshape(2, 1, 1, 1) * np.ones((2, 4, 2, 3)))
    assert batch["modality"].tolist() == [0, 0]
    some = decoded(tmp_path, index, np.array([[1, 0], [1, 1]]), Size(4, 2))
    assert some.shape == (2, 2, 4, 2, 3)
    assert some[..., 0, 0, 0].tolist() == [[50, 100], [50, 50]]


@pytest.mark.parametrize(
    ("orientation", "undone"),
    [
        (None, lambda x: x),
        (1, lambda x: x),
        (2, lambda x: x[:, ::-1]),
        (3, lambda x: x[::-1, ::-1]),
        (4, lambda x: x[::-1]),
        (5, lambda x: x.swapaxes(0, 1)),
        (6, lambda x: np.rot90(x, -1)),
        (7, lambda x: np.rot90(x, 2).swapaxes(0, 1)),
        (8, lambda x: np.rot90(x, 1)),
        (9, lambda x: x),
    ],
)
def test_a_camera_held_upright(orientation, undone):
    pixels = np.kron(np.arange(6).reshape(2, 3) * 40, np.ones((8, 8))).astype(np.uint8)
    data = encoded(np.stack([pixels] * 3, -1), orientation)
    expected = undone(np.asarray(decode(data, "it")))
    np.testing.assert_array_equal(np.asarray(decode(upright(data), "it")), expected)
    grey = encoded(pixels, orientation)
    assert np.asarray(decode(upright(grey), "it")).shape == expected.shape


def test_what_is_upright_or_no_jpeg_keeps_its_bytes():
    pixels = np.zeros((4, 6, 3), np.uint8)
    for data in (encoded(pixels, 1), encoded(pixels, None), encoded(pixels, 6, "PNG"), b"", b"no picture"):
        assert upright(data) == data
    cut = encoded(np.random.RandomState(0).randint(0, 255, (64, 64, 3)).astype(np.uint8), 6)[:-900]
    assert upright(cut) == cut


def test_errors_name_the_file_or_the_folder(tmp_path):
    with pytest.raises(DataError, match="none: cannot be listed, expected a folder of pictures: No such file"):
        read_folder(tmp_path / "none", "visible")
    with pytest.raises(DataError, match=r"is empty, expected pictures: files that end in \.jpg"):
        read_folder(tmp_path, "visible")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"holds notes\.txt, expected pictures"):
        read_folder(tmp_path, "visible")
    with pytest.raises(DataError, match=r"notes\.txt: cannot be listed, .*: Not a directory"):
        read_folder(tmp_path / "notes.txt", "visible")
    with pytest.raises(ValueError, match="modality is 'thermal', expected visible or infrared"):
        read_folder(tmp_path, "thermal")
    (tmp_path / "a.jpg").write_text("no picture")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "b.png")
    write(tmp_path / "c.png")
    index = read_folder(tmp_path, "visible")
    with pytest.raises(DataError, match=r"(?s)a\.jpg: not a readable image, 10 bytes.*b\.png: mode I;16 with more"):
        refuse_unreadable(Pictures(tmp_path, index), "pictures", 2)


def test_other_files_are_left_out_aloud(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(logging, "warning", lambda message, *values: said.append(message % values))
    write(tmp_path / "1.png")
    read_folder(tmp_path, "visible")
    assert not said
    (tmp_path / "2.webp").write_text("x")
    assert len(read_folder(tmp_path, "visible")) == 1
    assert said == [f"{tmp_path}: left out what does not end in .jpg, .jpeg, .png, .bmp: 2.webp"]


def test_pipes_and_names_that_are_no_text_are_refused(tmp_path):
    write(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.jpg")
    (tmp_path / "c\udcff.png").write_bytes((tmp_path / "a.png").read_bytes())
    with pytest.raises(DataError) as error:
        read_folder(tmp_path, "visible")
    pipe, name = str(error.value).splitlines()
    assert pipe == f"{tmp_path / 'b.jpg'}: a pipe or a device, expected files"
    assert name.encode().endswith(b"c\\udcff.png': the name is no UTF-8, rename it")


def test_paths_of_a_features_file_are_not_read_outside_of_the_folder(tmp_path):
    write(tmp_path / "secret.png")
    write(tmp_path / "own" / "a.png")
    (tmp_path / "own" / "link.png").symlink_to(tmp_path / "secret.png")  # whoever owns the folder made it
    one = np.ones(1, np.int32)
    for path in ("../secret.png", str(tmp_path / "secret.png"), "a/../../secret.png", "a\0.png", ""):
        save(tmp_path / "f.npz", Features(np.ones((1, 2), np.float32), one, one, one, np.array([path])))
        found = load(tmp_path / "f.npz")
        index = Index(found.path, found.identity, found.camera, found.modality)
        with pytest.raises(DataError, match="leaves the data root|no path"):
            decoded(tmp_path / "own", index, np.array([0]), Size(4, 2))
    index = read_folder(tmp_path / "own", "visible")
    assert index.path.tolist() == ["a.png", "link.png"]
    assert decoded(tmp_path / "own", index, np.arange(2), Size(4, 2)).shape == (2, 4, 2, 3)
