"""One split of a data set prepared: its files packed into array_record by TensorFlow Datasets, without TensorFlow, or
its pictures resized.

A pack spares the file system one small file for every image. It keeps the encoded bytes, so that images read
from it are those of the folder. Resized pictures also spare every epoch the decoding, and are their pixels in one file,
which is larger. Both keep fingerprints of the folder's listing, so that a stale one is noticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from input_pipeline.images import Folder, Size, decode, gather_errors, in_threads, refuse_unreadable, resize
from input_pipeline.index import DataError, Index
from saai_jax.files import locked

_VERSION = "1.0.0"
_PIXELS, _LISTING = "pixels.npy", "listing.json"
_LOSSLESS_COPY = (b"\xff\xd8", b"\x89PNG")  # first bytes of files that are stored as they are


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Nothing: TFDS would leave an empty folder in TMPDIR for what others have published of the data set."""


class VisibleInfrared(tfds.core.GeneratorBasedBuilder):
    """Row i of an index becomes record i: image (encoded), identity, camera, modality, path."""

    VERSION = tfds.core.Version(_VERSION)
    # TFDS looks beside this file for checksums of downloads, of which there are none, and for that search needs
    # importlib_resources, which it does not declare. None is what it has for classes without a file.
    code_path = None

    def __init__(self, images: Folder, index: Index, split: str, fingerprints: dict[str, str], **options):
        self._images, self._index, self._split, self._fingerprints = images, index, split, fingerprints
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"image": tfds.features.Image(shape=(None, None, 3)), "path": tfds.features.Text()}
        features |= dict.fromkeys(("identity", "camera", "modality"), np.int32)
        return _Info(
            builder=self,
            disable_shuffling=True,  # or records are stored by hash of their key, and record i is not row i
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(self._fingerprints),
        )

    def _split_generators(self, dl_manager):
        return {self._split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
        index = self._index
        for i, path in enumerate(tqdm(index.path.tolist(), f"packing {self._split}", unit="image", disable=None)):
            row = {name: getattr(index, name)[i] for name in ("identity", "camera", "modality")}
            yield i, {**row, "image": _stored(self._images[i], path), "path": path}


def pack(images: Folder, index: Index, data_dir: str | os.PathLike, name: str, split: str) -> str:
    """Writes the images of an index below data_dir and gives the folder written; an older pack is replaced.

    JPEG and PNG files are stored byte for byte, others (BMP) as PNG. name tells data sets, and folds, apart.
    DataError: files that cannot be decoded, all listed, before anything is written.
    """
    refuse_unreadable(images, split, threads=8)
    sizes = [_file_size(images.root, path) for path in index.path]
    folder = _folder(data_dir, name, split)
    # TFDS would take the old pack's metadata for the new one, so the new one is made elsewhere and then moved.
    with _scratch(data_dir) as scratch:
        builder = VisibleInfrared(
            images,
            index,
            split,
            _fingerprints(index, sizes),
            config=tfds.core.BuilderConfig(name=folder.parent.name, version=_VERSION),
            data_dir=scratch,
            file_format="array_record",
        )
        tfds.disable_progress_bar()  # it has four of its own, drawn even into files
        with contextlib.redirect_stdout(io.StringIO()):  # it announces a download there, and none is made
            builder.download_and_prepare()
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder.parent, exist_ok=True)
        os.replace(builder.data_dir, folder)
    return os.fspath(folder)


class Packed:
    """The images of an index read from its pack: len(packed), packed[i] -> encoded bytes. Picklable.

    DataError: no such pack, a damaged one, or one made from other rows than the index has or from files of other
    sizes than those below root have now. A record that is damaged is one when it is read: each has a checksum.
    """

    def __init__(self, data_dir: str | os.PathLike, name: str, split: str, index: Index, root: str | os.PathLike):
        folder = _folder(data_dir, name, split)
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder, expected the packed images of {name} {split}; pack them first")
        self._folder = os.fspath(folder)
        try:
            builder: Any = tfds.builder_from_directory(folder)  # TFDS's decorators hide signatures from type checkers
            stored = dict(builder.info.metadata or {})
            self.source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
            held = len(self.source)
        except Exception as error:  # TFDS and array_record raise nearly every type on damaged files
            raise DataError(f"{folder}: damaged, prepare the split again: {str(error)[:500]}") from error
        _refuse_stale(folder, stored, index, root)
        if held != len(index):
            raise DataError(f"{folder}: damaged, prepare the split again: {held} records of {len(index)}")

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> bytes:
        try:
            image = self.source[i]["image"]
        except Exception as error:  # as above
            raise DataError(f"{self._folder}: record {i} is damaged, prepare the split again: {error}") from error
        if not isinstance(image, bytes):
            raise DataError(f"{self._folder}: record {i} is damaged, prepare the split again: no picture in it")
        return image


def store_resized(images: Folder, index: Index, data_dir: str | os.PathLike, name: str, split: str, size: Size) -> str:
    """Writes the pixels of an index's pictures below data_dir and gives the folder written; an older one is replaced.

    DataError: files that cannot be decoded, all listed, and nothing is written.
    """
    folder = _resized_folder(data_dir, name, split, size)
    sizes = gather_errors(lambda path: _file_size(images.root, path), index.path)
    with _scratch(data_dir) as scratch:
        staging = Path(scratch, folder.name)  # with permissions of its own
        staging.mkdir()
        # As the map is written, pages go to the disk: memory need not hold a whole split.
        pixels = np.lib.format.open_memmap(staging / _PIXELS, "w+", np.uint8, (len(index), *size.shape))
        with open(staging / _PIXELS, "r+b") as whole:
            _reserve(whole.fileno(), folder / _PIXELS, os.path.getsize(staging / _PIXELS))

        def store(i: int) -> None:
            pixels[i] = resize(decode(images[i], str(index.path[i])), size)

        in_threads(store, len(index), 8, f"resizing {split}")
        pixels.flush()
        (staging / _LISTING).write_text(json.dumps(_fingerprints(index, sizes)) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder.parent, exist_ok=True)
        os.replace(staging, folder)
    return os.fspath(folder)


@contextlib.contextmanager
def _scratch(data_dir: str | os.PathLike) -> Iterator[str]:
    """A folder below data_dir to write in, removed in the end; those that killed processes left are removed now."""
    os.makedirs(data_dir, exist_ok=True)
    with contextlib.ExitStack() as own:
        with locked(data_dir):  # so that nobody takes a new folder, not held yet, for one left behind
            for left in Path(data_dir).glob("incomplete-*"):
                with contextlib.suppress(FileNotFoundError), locked(left, wait=False) as nobodys:
                    if nobodys:
                        shutil.rmtree(left)
            scratch = own.enter_context(tempfile.TemporaryDirectory(dir=data_dir, prefix="incomplete-"))
            own.enter_context(locked(scratch))
        yield scratch


def _reserve(handle: int, file: Path, size: int) -> None:
    """Takes the disk's room for a file now: a page of a map that finds none later would end the process."""
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}, {size >> 20} MiB are needed", os.fspath(file)) from error


class Resized:
    """The pictures of an index as `store_resized` wrote them: len(resized), resized[i] -> u8[h w 3]. Picklable.

    DataError: none of this size, or stale as a pack can be, or not the array that was written; its pixels themselves
    carry no checksum.
    """

    def __init__(self, data_dir: str | os.PathLike, name: str, split: str, index: Index, root: str, size: Size):
        folder = _resized_folder(data_dir, name, split, size)
        if not folder.is_dir():
            expected = f"the pictures of {name} {split} at {size.height} x {size.width}, {size.resample}"
            raise DataError(f"{folder}: no such folder, expected {expected}; prepare them first")
        try:
            stored = dict(json.loads((folder / _LISTING).read_text()))
            self.__setstate__(os.fspath(folder / _PIXELS))
            found, expected = (self._pixels.dtype, *self._pixels.shape), (np.uint8, len(index), *size.shape)
        except Exception as error:  # a header is parsed as Python, whose parsers have errors of many kinds
            raise DataError(f"{folder}: cannot be read, prepare the split again: {error}") from error
        _refuse_stale(folder, stored, index, root)
        if found != expected:
            raise DataError(f"{folder / _PIXELS}: holds {found}, expected {expected}; prepare the split again")

    # Worker processes map the file themselves; numpy would send them all of its pixels.
    def __getstate__(self) -> str:
        return self._file

    def __setstate__(self, file: str) -> None:
        self._file, self._pixels = file, np.load(file, mmap_mode="r").view(np.ndarray)

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, i: int) -> np.ndarray:
        return self._pixels[i]


def _folder(data_dir: str | os.PathLike, name: str, split: str) -> Path:
    return Path(data_dir, VisibleInfrared.name, f"{name}-{split}", _VERSION)


def _resized_folder(data_dir: str | os.PathLike, name: str, split: str, size: Size) -> Path:
    how = "" if size.resample == "bilinear" else f"-{size.resample}"
    return Path(data_dir, "resized", f"{name}-{split}", f"{size.height}x{size.width}{how}")


def _stored(data: bytes, path: str) -> bytes:
    if data.startswith(_LOSSLESS_COPY):
        return data
    buffer = io.BytesIO()
    decode(data, path).save(buffer, "PNG")
    return buffer.getvalue()


def _fingerprints(index: Index, sizes: Iterable[int]) -> dict[str, str]:
    rows = "\n".join(map(repr, zip(index.path.tolist(), index.identity, index.camera, index.modality, strict=True)))
    parts = {"rows": rows, "sizes": "\n".join(map(str, sizes))}
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in parts.items()}


def _refuse_stale(folder: Path, stored: dict[str, str], index: Index, root: str | os.PathLike) -> None:
    expected = _fingerprints(index, gather_errors(lambda path: _file_size(root, path), index.path))
    for key, what in (("rows", "paths or identities than the index"), ("sizes", f"file sizes than {root} now")):
        if stored.get(key) != expected[key]:
            raise DataError(f"{folder}: made with other {what}; prepare the split again")


def _file_size(root: str | os.PathLike, path: str) -> int:
    try:
        return os.path.getsize(os.path.join(root, path))
    except OSError as error:
        raise DataError(f"{os.path.join(root, path)}: cannot be read, though the index lists it") from error
