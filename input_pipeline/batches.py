"""Batches of decoded images; the same for any number of threads, workers and hosts."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator
from typing import Any, Protocol, TypedDict

import grain
import numpy as np

from input_pipeline.images import Size, decode, resize
from input_pipeline.index import Index


class Batch(TypedDict):
    """image u8[b h w 3]; identity i32[b], as labels 0 .. k-1; camera i32[b]; modality i32[b]."""

    image: np.ndarray
    identity: np.ndarray
    camera: np.ndarray
    modality: np.ndarray


class Images(Protocol):
    """Pictures by index row: encoded files, or u8[h w 3] that need neither decoding nor resizing.

    `input_pipeline.images.Folder` and `input_pipeline.records.Packed` are the former, `records.Resized` the latter.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> bytes | np.ndarray: ...


class Decoded:
    """Random access to the decoded, resized records of the given rows, in their order."""

    def __init__(self, images: Images, index: Index, rows: np.ndarray, size: Size):
        self._images, self._index, self._rows = images, index, rows.reshape(-1)
        self._labels, self._size = index.labels(), size

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index) -> dict[str, np.ndarray]:
        row = int(self._rows[int(index)])
        image = self._images[row]
        if isinstance(image, bytes):
            image = resize(decode(image, str(self._index.path[row])), self._size)
        return {
            "image": image,
            "identity": self._labels[row],
            "camera": self._index.camera[row],
            "modality": self._index.modality[row],
        }


def decoded(images: Images, index: Index, rows: np.ndarray, size: Size) -> np.ndarray:
    """u8[* h w 3], the pictures of rows i32[*]. DataError: as `images.decode`."""
    records = Decoded(images, index, rows, size)
    return np.stack([records[i]["image"] for i in range(len(records))]).reshape(*rows.shape, *size.shape)


def _read(source: Decoded, batch: int, threads: int, workers: int, drop_remainder: bool) -> Generator[Batch]:
    """Whole batches are made before work is divided, so workers never mix the rows of two batches."""
    data = grain.MapDataset.source(source).batch(batch, drop_remainder=drop_remainder)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2, threads))
    data = data.to_iter_dataset(options)
    if workers:
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        data = data.mp_prefetch(options, _begin)
    batches = iter(data)
    # Ctrl-C reaches every process of a terminal; workers that are starting inherit the mask.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        try:
            first = list(itertools.islice(batches, 1))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        yield from first
        yield from batches
    finally:
        batches.close()  # or worker processes leave their shared memory behind


def _begin(worker: int, workers: int) -> None:
    """A worker leaves Ctrl-C to its parent, and ends with it; shared memory goes with the last that could use it."""
    del worker, workers  # as grain gives them
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Not by a signal of the kernel's, which comes when the thread ends that started the worker.
    parent: Any = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def train_batches(
    images: Images,
    index: Index,
    rows: np.ndarray,
    *,
    size: Size,
    threads: int = 8,
    workers: int = 0,
    host: int = 0,
    hosts: int = 1,
) -> Generator[Batch]:
    """The batches of a plan's rows i32[steps b]; a run resumed at step s passes rows[s:].

    Host h of n reads columns h b/n .. (h+1) b/n of each batch. Raises ValueError if hosts does not divide b.
    """
    if rows.shape[1] % hosts:
        raise ValueError(f"a batch of {rows.shape[1]} images cannot be divided evenly among {hosts} hosts")
    share = rows.shape[1] // hosts
    mine = rows[:, host * share : (host + 1) * share]
    return _read(Decoded(images, index, mine, size), share, threads, workers, True)


def eval_batches(
    images: Images,
    index: Index,
    *,
    size: Size,
    batch: int,
    threads: int = 8,
    workers: int = 0,
    rows: slice = slice(None),
) -> Generator[Batch]:
    """Every image, or those of some rows, once, in index order; the last batch may be smaller."""
    source = Decoded(images, index, np.arange(len(index))[rows], size)
    return _read(source, batch, threads, workers, False)
