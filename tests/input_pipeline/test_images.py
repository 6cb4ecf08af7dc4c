"""Decoding every kind of picture a data set may hold, refusing what would be read wrongly, and reading lists."""

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from input_pipeline import images, lists, pictures
from input_pipeline.index import DataError, Index


def noise(seed, suffix="jpg", mode="RGB", height=12, width=6):
    """An encoded picture of random pixels, small, another one for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return encode(Image.fromarray(pixels).convert(mode), {"jpg": "JPEG", "png": "PNG", "bmp": "BMP"}[suffix])


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width, height, depth, rows):
    """A PNG of RGB pixels by hand: Pillow writes no 16-bit colour and no picture that is too large to hold."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("kind", "modes"),
    [
        ("PNG", ["1", "L", "LA", "P", "RGB", "RGBA"]),
        ("JPEG", ["L", "RGB", "CMYK"]),
        ("BMP", ["1", "L", "P", "RGB"]),
        ("TIFF", ["YCbCr"]),
    ],
)
def test_decode_converts_every_eight_bit_mode(kind, modes):
    for mode in modes:
        grey = mode in ("1", "L", "LA")
        picture = Image.new("RGB", (4, 6), (255, 255, 255) if grey else (254, 0, 0))
        image = images.decode(encode(picture.convert(mode), kind), "a")
        assert (image.mode, image.size) == ("RGB", (4, 6))
        np.testing.assert_allclose(np.array(image), np.array(picture), atol=8, err_msg=f"{mode} {kind}")


def test_decode_drops_alpha_without_blending():
    rgba = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert images.decode(encode(rgba, "PNG"), "a").getpixel((0, 0)) == (10, 20, 30)
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert images.decode(encode(palette, "PNG", transparency=b"\xff\x00"), "a").getpixel((0, 0)) == (10, 20, 30)


def test_decode_leaves_exif_orientation_alone():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert images.decode(encode(Image.new("RGB", (4, 8)), "JPEG", exif=exif), "a").size == (4, 8)


@pytest.mark.parametrize(
    "data",
    [
        encode(Image.fromarray(np.zeros((4, 4), np.uint16)), "PNG"),
        encode(Image.new("I", (4, 4)), "TIFF"),
        encode(Image.new("F", (4, 4)), "TIFF"),
        png(1, 1, 16, bytes(7)),
    ],
)
def test_decode_refuses_more_than_eight_bits_by_name(data):
    with pytest.raises(DataError, match=r"cam3/0001\.png: mode .*8 bits"):
        images.decode(data, "cam3/0001.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp"])
def test_decode_refuses_damaged_files_by_name(suffix):
    whole = noise(0, suffix, height=40, width=40)
    images.decode(whole, "a")
    for data in (whole[: len(whole) // 2], whole[:20], b"", b"GIF89a" + whole, bytes(100)):
        with pytest.raises(DataError, match=r"cam3/0001"):
            images.decode(data, f"cam3/0001.{suffix}")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [2900, 8200, 10_000, 30_000])
def test_decode_refuses_decompression_bombs(side):
    with pytest.raises(DataError, match=r"a\.png: .*pixels"):
        images.decode(png(side, side, 8, b""), "a.png")


def test_what_a_picture_may_be_can_be_raised(monkeypatch):
    large = encode(Image.new("L", (3000, 2800)), "PNG")
    with pytest.raises(DataError, match=r"a\.png: 3000 x 2800 pixels, .*; SAAI_JAX_PIXELS=8400000 lets it be read"):
        images.decode(large, "a.png")
    monkeypatch.setenv("SAAI_JAX_PIXELS", "8400000")
    assert images.decode(large, "a.png").size == (3000, 2800)


def test_decode_refuses_a_jpeg_of_endless_scans():
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = encode(Image.new("RGB", (16, 16)), "JPEG", progressive=True, exif=exif)
    assert images.decode(whole, "a.jpg").size == (16, 16)
    assert pictures.upright(whole) != whole
    endless = whole[:-2] + 2000 * whole[whole.rindex(b"\xff\xda") : -2] + whole[-2:]
    with pytest.raises(DataError, match=r"a\.jpg: a JPEG of 2\d{3} scans, expected at most 100"):
        images.decode(endless, "a.jpg")
    assert pictures.upright(endless) is endless  # not decoded to be turned


def test_resize_is_antialiased_bilinear():
    board = np.kron(np.indices((32, 16)).sum(0) % 2, np.ones((2, 2)))[..., None] * np.array([255, 255, 255])
    small = images.resize(Image.fromarray(board.astype(np.uint8)), images.Size(8, 4))
    assert small.shape == (8, 4, 3)
    assert small.dtype == np.uint8
    assert abs(small.astype(int) - 128).max() < 8  # point sampling would give 0 and 255
    ramp = Image.fromarray(np.tile(np.array([[0, 100]], np.uint8), (2, 1))).convert("RGB")
    np.testing.assert_array_equal(images.resize(ramp, images.Size(1, 4))[0, :, 0], [0, 25, 75, 100])


def test_lanczos_is_pillows_and_another_word_is_refused():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 12, 3), np.uint8))
    found = [images.resize(image, images.Size(8, 5, name)) for name in images.FILTERS]
    np.testing.assert_array_equal(found[1], image.resize((5, 8), Image.Resampling.LANCZOS))
    assert (found[0] != found[1]).any()
    with pytest.raises(ValueError, match="data.resample is 'lancsoz', expected one of bilinear, lanczos"):
        images.Size(8, 5, "lancsoz")


def index_of(*paths):
    return Index(np.array(paths), np.ones(len(paths)), np.ones(len(paths)), np.zeros(len(paths)))


def test_folder_reads_bytes_and_pickles(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.jpg").write_bytes(b"one")
    folder = pickle.loads(pickle.dumps(images.Folder(tmp_path, index_of("a/1.jpg", "a/2.jpg"))))
    assert len(folder) == 2
    assert folder[np.int64(0)] == b"one"
    with pytest.raises(DataError, match=r"2\.jpg"):
        folder[1]


@pytest.mark.parametrize("path", ["/etc/hosts", "../1.jpg", "a/../../1.jpg", "a\\..\\..\\1.jpg"])
def test_folder_refuses_paths_outside_the_root(tmp_path, path):
    with pytest.raises(DataError, match="leaves the data root"):
        images.Folder(tmp_path, index_of(path))


def test_folder_needs_its_root(tmp_path):
    with pytest.raises(DataError, match="absent"):
        images.Folder(tmp_path / "absent", index_of("a.jpg"))


def test_list_images_sorts_and_does_not_descend(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "folder.jpg/deep.jpg").touch()
    for name in ("b.JPG", "a.jpg", "c.bmp", "Thumbs.db", "notes.txt"):
        (tmp_path / name).touch()
    assert images.list_images(tmp_path) == ["a.jpg", "b.JPG", "c.bmp"]
    with pytest.raises(DataError, match="absent"):
        images.list_images(tmp_path / "absent")


def test_read_ids(tmp_path):
    file = tmp_path / "ids.txt"
    file.write_text("\ufeff6,10, 17\r\n", encoding="utf-8")
    assert lists.read_ids(file) == [6, 10, 17]
    for text, message in (("6,x,7", "x where"), ("0,1", "0 where"), ("6,7,6", "6 listed more"), (" \n", "empty")):
        file.write_text(text)
        with pytest.raises(DataError, match=rf"ids\.txt: {message}"):
            lists.read_ids(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"ids\.txt: cannot be read"):
        lists.read_ids(file)


def test_read_list_names_every_bad_line(tmp_path):
    (tmp_path / "vis/7").mkdir(parents=True)
    (tmp_path / "vis/7/a b.jpg").touch()
    file = tmp_path / "list.txt"
    file.write_text("vis/7/a b.jpg 0\n\n")
    assert lists.read_list(tmp_path, "list.txt", "vis") == [("vis/7/a b.jpg", 7, 0)]
    file.write_text("vis/7/a b.jpg\nnir/7/a.jpg 0\nvis/../7/a.jpg 0\nvis/x/a.jpg 0\nvis/7/a b.jpg 0\n")
    with pytest.raises(DataError) as error:
        lists.read_list(tmp_path, "list.txt", "vis")
    assert [line.split("list.txt:")[1][0] for line in str(error.value).splitlines()] == ["1", "2", "3", "4"]
    for text, message in (("vis/7/a b.jpg 0\n" * 2, "more than once"), ("vis/7/c.jpg 0", r"not in .*vis/7/c\.jpg")):
        file.write_text(text)
        with pytest.raises(DataError, match=rf"list\.txt.*{message}"):
            lists.read_list(tmp_path, "list.txt", "vis")


def test_refuse_mixed_labels():
    lists.refuse_mixed_labels([7, 7, 3], [0, 0, 1], "lists")
    for identities, labels, message in (
        ([7, 7, 3], [0, 1, 1], "identity folder 7 has more than one label"),
        ([7, 3, 5], [0, 0, 1], "label 0 has more than one identity folder"),
        ([7, 3], [0, 2], "labels run to 2, but 1 is missing"),
    ):
        with pytest.raises(DataError, match=message):
            lists.refuse_mixed_labels(identities, labels, "lists")


def test_paths_and_numbers_that_are_none(tmp_path):
    """Of a list that somebody else wrote: what leaves the root, fills memory or wraps round is named with its line."""
    (tmp_path / "vis/7").mkdir(parents=True)
    (tmp_path / "vis/7/a.jpg").touch()
    (tmp_path / "vis/8").symlink_to(tmp_path / "vis/7")  # made by who owns the root
    file = tmp_path / "list.txt"
    file.write_text("vis/7/a.jpg 0\nvis/8/a.jpg 1\n")
    assert [row[1:] for row in lists.read_list(tmp_path, "list.txt", "vis")] == [(7, 0), (8, 1)]
    for line, message in (
        ("/etc/hosts 0", "leaves the data root"),
        ("../vis/7/a.jpg 0", "leaves the data root"),
        ("vis/7/..\\a.jpg 0", "leaves the data root"),
        ("vis/7/a\0.jpg 0", "is no path"),
        (f"vis/7/{'a' * 5000}.jpg 0", "is no path, expected one of 1 to 4096"),
        ("vis/4294967297/a.jpg 0", "expected 'vis/<identity>"),
        ("vis/7/a.jpg 99999999999999999999", "expected 'vis/<identity>"),
    ):
        file.write_text(f"vis/7/a.jpg 0\n{line}\n")
        with pytest.raises(DataError, match=rf"list\.txt:2: .*{message}") as error:
            lists.read_list(tmp_path, "list.txt", "vis")
        assert len(str(error.value)) < 500
    for text in (",", "4294967297", "9" * 5000, "-1", "1.0"):
        file.write_text(text)
        with pytest.raises(DataError, match=r"list\.txt: .*where positive identity numbers"):
            lists.read_ids(file)
    with pytest.raises(DataError, match="labels run to 999999999, but 1, 2, 3, 4, 5, 6, 7, 8"):
        lists.refuse_mixed_labels([1, 2], [0, 999_999_999], "lists")
    with pytest.raises(DataError, match=r"a\.jpg: identity 4294967297 does not fit 32 bits"):
        Index(np.array(["a.jpg"]), np.array([2**32 + 1]), np.ones(1), np.ones(1))


def test_faults_are_raised_or_collected_beside_what_is_sound(tmp_path):
    for name in ("vis/7/a.jpg", "vis/7/b.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "list.txt").write_text("vis/7/a.jpg 0\nvis/7/c.jpg 0\nnonsense\nvis/7/b.jpg 0\nvis/7/a.jpg 0\n")
    found = []
    assert lists.read_list(tmp_path, "list.txt", "vis", found) == [("vis/7/a.jpg", 7, 0), ("vis/7/b.jpg", 7, 0)]
    assert len(found) == 3
    (tmp_path / "ids.txt").write_text("3,x,4,3")
    assert lists.read_ids(tmp_path / "ids.txt", found) == [3, 4]
    assert len(found) == 5
