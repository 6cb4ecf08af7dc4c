"""Batches of decoded images: the same whatever machinery reads them, and Pillow's own pixels."""

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from absl import flags
from PIL import Image

from input_pipeline import records
from input_pipeline.batches import Decoded, eval_batches, train_batches
from input_pipeline.images import Folder, Size
from input_pipeline.index import Index
from input_pipeline.source import Source

N, B, HEIGHT, WIDTH = 22, 8, 12, 6
SIZE = Size(HEIGHT, WIDTH)
KEYS = ("image", "identity", "camera", "modality")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(images, index) of pictures of random pixels, sizes and modes."""
    root = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for i in range(N):
        h, w = random.integers(5, 30, 2)
        pixels = random.integers(0, 256, (h, w, 3)[: 3 if i % 3 else 2], np.uint8)
        Image.fromarray(pixels).save(root / f"{i:02d}.png")
    index = Index(
        [f"{i:02d}.png" for i in range(N)], 5 + 3 * (np.arange(N) % 7), 1 + np.arange(N) % 6, np.arange(N) % 2
    )
    return Folder(root, index), index


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(1).integers(0, N, (6, B)).astype(np.int32)


@contextlib.contextmanager
def reading(batches):
    """grain's threads and processes end with the iterator."""
    try:
        yield batches
    finally:
        batches.close()


def collect(batches):
    """Every batch as copies, with workers the arrays lie in memory that they reuse."""
    with reading(batches):
        return [{key: np.array(batch[key]) for key in KEYS} for batch in batches]


def train(data, rows, **options):
    return collect(train_batches(*data, rows, size=SIZE, **options))


def evaluate(data, **options):
    return collect(eval_batches(*data, size=SIZE, **options))


def expected(data, rows):
    """The batch of some rows, by Pillow alone."""
    folder, index = data
    pictures = [Image.open(f"{folder.root}/{index.path[row]}").convert("RGB") for row in rows]
    small = [picture.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR) for picture in pictures]
    label = {identity: i for i, identity in enumerate(sorted(set(index.identity.tolist())))}
    return {
        "image": np.stack([np.asarray(picture) for picture in small]),
        "identity": np.array([label[int(index.identity[row])] for row in rows], np.int32),
        "camera": index.camera[rows],
        "modality": index.modality[rows],
    }


def assert_same(found, wanted):
    assert len(found) == len(wanted)
    for one, two in zip(found, wanted, strict=True):
        for key in KEYS:
            assert one[key].dtype == two[key].dtype
            np.testing.assert_array_equal(one[key], two[key], err_msg=key)


def test_train_batches_hold_the_rows_of_the_plan_in_pillows_pixels(data, rows):
    found = train(data, rows)
    assert found[0]["image"].shape == (B, HEIGHT, WIDTH, 3)
    assert found[0]["image"].dtype == np.uint8
    assert {found[0][key].dtype for key in KEYS[1:]} == {np.dtype(np.int32)}
    assert_same(found, [expected(data, row) for row in rows])


@pytest.mark.parametrize("threads", [1, 8])
def test_any_number_of_threads(data, rows, threads):
    assert_same(train(data, rows, threads=threads), [expected(data, row) for row in rows])


def test_any_number_of_workers(data, rows):
    wanted = [expected(data, row) for row in rows]
    for workers in (1, 2):
        assert_same(train(data, rows, workers=workers, threads=2), wanted)
    last = evaluate(data, batch=B, workers=2, threads=2)
    assert_same(last, evaluate(data, batch=B))


@pytest.mark.parametrize("workers", [0, 1])
def test_resized_pictures_make_the_same_batches(data, rows, tmp_path, workers):
    images, index = data
    where = tmp_path, "noise", "train"
    records.store_resized(images, index, *where, SIZE)
    # What is read is the pixels, not the files: their sizes still match, but none can be decoded.
    root = tmp_path / "unreadable"
    root.mkdir()
    for path in index.path:
        (root / path).write_bytes(bytes((Path(images.root) / path).stat().st_size))
    resized = records.Resized(*where, index, root, SIZE)
    assert_same(train((resized, index), rows, workers=workers), [expected(data, row) for row in rows])
    assert_same(evaluate((resized, index), batch=B, workers=workers), evaluate(data, batch=B))


@pytest.mark.parametrize("hosts", [2, 4])
def test_the_hosts_shares_side_by_side_are_the_batch(data, rows, hosts):
    shares = [train(data, rows, host=host, hosts=hosts) for host in range(hosts)]
    assert {len(batch["identity"]) for share in shares for batch in share} == {B // hosts}
    whole = [{key: np.concatenate([s[key] for s in step]) for key in KEYS} for step in zip(*shares, strict=True)]
    assert_same(whole, train(data, rows))


@pytest.mark.parametrize("step", [1, 4])
def test_a_resumed_run_reads_the_rest_of_the_rows(data, rows, step):
    assert_same(train(data, rows[step:]), train(data, rows)[step:])


def test_nothing_is_read_twice_or_kept(data, rows):
    with reading(train_batches(*data, rows, size=SIZE)) as batches:
        first = [np.array(batch["image"]) for batch in itertools.islice(batches, 2)]
        rest = [np.array(batch["image"]) for batch in batches]
    np.testing.assert_array_equal(first + rest, [expected(data, row)["image"] for row in rows])


@pytest.mark.parametrize("batch", [B, 11, 50])
def test_eval_batches_are_every_image_once_in_index_order(data, batch):
    found = evaluate(data, batch=batch)
    starts = range(0, N, batch)
    assert [len(one["identity"]) for one in found] == [min(batch, N - start) for start in starts]
    assert_same(found, [expected(data, np.arange(start, min(start + batch, N))) for start in starts])


def hold_a_batch():
    """Reads a batch of the arguments on standard input, prints its shared memory and the workers, and waits."""
    flags.FLAGS.mark_as_parsed()
    batches = train_batches(*pickle.load(sys.stdin.buffer), size=SIZE, workers=2, threads=1)
    image = next(batches)["image"]
    print(image.shm.name, *(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(600)


def test_workers_and_shared_memory_end_with_a_parent_that_is_killed(data, rows):
    command = [sys.executable, "-c", f"from {__name__} import hold_a_batch; hold_a_batch()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        parent.stdin.write(pickle.dumps((*data, rows)))
        parent.stdin.close()
        memory, *workers = parent.stdout.readline().decode().split()
        held = [f"/dev/shm/{memory}", *(f"/proc/{worker}" for worker in workers)]
        assert len(held) == 3
        assert all(map(os.path.exists, held))
        parent.kill()
    end = time.monotonic() + 20
    while (left := list(filter(os.path.exists, held))) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == []


def test_a_plans_batches_have_room_for_every_host(data, rows):
    with pytest.raises(ValueError, match="a batch of 8 images cannot be divided evenly among 3 hosts"):
        train_batches(*data, rows, size=SIZE, hosts=3)


@pytest.mark.parametrize("name", ["bilinear", "lanczos"])
def test_a_source_reads_by_its_filter_wherever_it_reads(data, rows, tmp_path, name):
    (folder, index), how = data, {"height": HEIGHT, "width": WIDTH, "threads": 1, "workers": 0, "resample": name}
    how |= {"published": False, "validation": False, "skip_incomplete": False}
    how |= dict.fromkeys(("split_dir", "fold", "synthetic", "synthetic_seed"), "") | {"resized": str(tmp_path)}
    prepared = Source("sysu", folder.root, packed="", **how)
    prepared.store_resized(index, "train", str(tmp_path))
    decoding = dataclasses.replace(prepared, resized="")
    resample = Image.Resampling[name.upper()]
    pictures = [Image.open(f"{folder.root}/{path}").convert("RGB") for path in index.path]
    wanted = np.stack([np.asarray(picture.resize((WIDTH, HEIGHT), resample)) for picture in pictures])
    for reader in (decoding, prepared):
        found = [batch["image"] for batch in collect(reader.train_batches(index, rows))]
        np.testing.assert_array_equal(found, wanted[rows])
        (found,) = collect(reader.eval_batches(index, "train", N))
        np.testing.assert_array_equal(found["image"], wanted)
        np.testing.assert_array_equal(reader.pictures(index, "train", rows), wanted[rows])
    with pytest.raises(ValueError, match="data.resample is 'bicubic', expected one of bilinear, lanczos"):
        dataclasses.replace(prepared, resample="bicubic")


def test_decoded_is_by_place_in_the_rows(data):
    source = Decoded(*data, np.array([[4, 2], [2, 9]]), SIZE)
    assert len(source) == 4
    assert source[np.int64(3)]["camera"] == data[1].camera[9]
    np.testing.assert_array_equal(source[1]["image"], source[2]["image"])
