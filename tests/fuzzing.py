"""Damage of every kind to every file that is read: an error that says so, or something sound; nothing else.

`fuzz` counts what became of a reader's tries; benchmarks run more of them than the tests do.
"""

import contextlib
import os
import resource
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from input_pipeline import llcm, regdb
from input_pipeline.index import DataError
from saai_jax import checkpoint
from saai_jax.affinity import storage
from saai_jax.features.store import FeaturesError, load
from saai_jax.ranking import results
from saai_jax.weights.pth import WeightsError
from tests import foreign_files as foreign
from tests import fuzz_files as files

SECONDS, MEGABYTES = 90, 600  # that one try may take, and by how much it may raise the process's peak
KILO = 20 if sys.platform == "darwin" else 10  # what the peak is counted in there, and elsewhere
WORDS = [b"99999999999999999999", b"-1", b"0", b"NaN", b"1e999", b"../", b"/", b'"', b"[" * 3000, b"{", b"\0", b"\xff"]
WORDS += [b"\n", b",", b" ", b"\\ud800", "é".encode(), b"null", b"true"]
NUMBERS = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]


class Reader(NamedTuple):
    """write(folder) gives the files there that are damaged in turn; read(folder) asserts that all it reads is sound."""

    write: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]
    errors: tuple[type[Exception], ...]
    slow: bool = False  # a process for each try


def mutated(content: bytes, random: np.random.Generator) -> bytes:
    """The content with one to three damages."""
    data = bytearray(content)
    for _ in range(random.integers(1, 4)):
        size = len(data)
        # Headers are small, and where damage is worst.
        start = int(random.integers(max(1, size if random.random() < 0.5 else min(size, 256))))
        end = start + int(random.integers(1, 65))
        match random.integers(9):
            case 0:
                for at in random.integers(0, max(1, size), random.integers(1, 9)) if size else ():
                    data[at] ^= 1 << int(random.integers(8))
            case 1:
                del data[start : size if random.random() < 0.5 else end]
            case 2:
                data[start:start] = data[start:end] * int(random.integers(1, 4))
            case 3:
                data[start:end] = bytes(len(data[start:end]))
            case 4:
                data[start:end] = random.bytes(len(data[start:end]))
            case 5:
                other = int(random.integers(max(1, size)))
                data[start:end] = data[other : other + end - start]
            case 6:
                value, width = NUMBERS[random.integers(len(NUMBERS))], int(random.choice([1, 2, 4, 8]))
                order = "little" if random.random() < 0.7 else "big"
                data[start : start + width] = (value % 256**width).to_bytes(width, order)
            case 7:
                data[start:start] = WORDS[random.integers(len(WORDS))]
            case 8:
                word = WORDS[random.integers(len(WORDS))]
                data[start : start + len(word)] = word
    return bytes(data)


def fuzz(name: str, count: int, seed: int = 0) -> dict[str, int]:
    """How many of `count` damaged files one of READERS refused, and how many it read as something sound.

    Raises whatever else a try comes to, with a note that says which; AssertionError for what is read but unsound, takes
    SECONDS or fills memory.
    """
    reader, words = READERS[name], []
    with tempfile.TemporaryDirectory() as temporary, quiet():
        folder = Path(temporary, "data")
        folder.mkdir()
        whole = {file: file.read_bytes() for file in reader.write(folder)}
        reader.read(folder)  # what is not damaged is read
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(count):
            random = np.random.default_rng([seed, number, zlib.crc32(name.encode())])
            file = list(whole)[random.integers(len(whole))]
            file.write_bytes(mutated(whole[file], random))
            started = time.monotonic()
            try:
                reader.read(folder)
            except reader.errors as error:
                words.append(str(error))
            except BaseException as error:
                error.add_note(f"fuzz: {name}, seed {seed}, try {number}, file {file.name}")
                raise
            file.write_bytes(whole[file])
            assert time.monotonic() - started < SECONDS, f"{name}, seed {seed}, try {number}: took too long"
            more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) >> KILO
            assert more < MEGABYTES, f"{name}, seed {seed}, try {number}: {more} MiB more"
    assert all(words), f"{name}: an error without words"
    return {"tries": count, "refused": len(words), "read": count - len(words)}


@contextlib.contextmanager
def quiet():
    """Without what readers say of odd but readable files, and bars of progress."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    with warnings.catch_warnings(), open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.set_verbosity(verbosity)


READERS = {
    "pth-zip": Reader(files.copied("torch_2_13.pth"), files.of_pth, (WeightsError,)),
    "pth-pickle": Reader(files.write_pickle, files.read_pickle, (WeightsError,)),
    "pth-legacy": Reader(files.copied("torch_2_13_legacy.pth"), files.of_pth, (WeightsError,)),
    "pth-tar": Reader(files.write_tar, files.of_pth, (WeightsError,)),
    "features-npz": Reader(files.write_features, lambda f: files.sound_features(load(f / "a.npz")), (FeaturesError,)),
    "features-npz-members": Reader(files.write_members, files.read_members, (FeaturesError,)),
    "features-npy-csv": Reader(files.foreign_of("a.npy", foreign.npy), files.of_features("a.npy"), (FeaturesError,)),
    "features-mat": Reader(
        files.foreign_of("a.mat", foreign.mat5), files.of_features("a.mat"), (FeaturesError,), slow=True
    ),
    "features-mat73": Reader(
        files.foreign_of("a.mat", foreign.mat73), files.of_features("a.mat"), (FeaturesError,), slow=True
    ),
    "features-h5": Reader(files.foreign_of("a.h5", foreign.h5), files.of_features("a.h5"), (FeaturesError,), slow=True),
    "results-json": Reader(files.write_results, files.read_results, (results.ResultsError,)),
    "config-json": Reader(
        files.write_config, lambda f: checkpoint.read_config(str(f / "config.json")), (checkpoint.CheckpointError,)
    ),
    "metrics-jsonl": Reader(files.write_metrics, files.read_metrics, (ValueError,)),
    "gallery": Reader(files.write_gallery, files.read_gallery, (storage.StorageError,)),
    "gallery-unchecked": Reader(files.write_arrays_of_gallery, files.read_gallery_unchecked, (storage.StorageError,)),
    "sysu-txt": Reader(files.sysu_lists, files.read_sysu_lists, (DataError,)),
    "sysu-id-mat": Reader(files.sysu_mat_lists, files.read_sysu, (DataError,), slow=True),
    "sysu-permutation": Reader(files.sysu_permutation, files.read_sysu, (DataError,), slow=True),
    "sysu-permutation-packed": Reader(
        lambda f: files.sysu_permutation(f, True), files.read_sysu, (DataError,), slow=True
    ),
    "regdb-lists": Reader(files.regdb_lists, files.of_split(regdb), (DataError,)),
    "llcm-lists": Reader(files.llcm_lists, files.of_split(llcm), (DataError,)),
    "custom-lists": Reader(files.custom_lists, files.read_custom, (DataError,)),
    "images": Reader(files.pictures_of, files.read_images, (DataError,)),
    "pictures": Reader(files.pictures_of, files.read_pictures, (DataError,)),
    "array-record": Reader(files.write_pack, files.read_pack, (DataError,)),
    "resized": Reader(files.write_resized, files.read_resized, (DataError,)),
}
