"""The input benchmark compares like with like: same pixels and batches for all, nothing ready when the clock starts."""

import argparse
import itertools
import os

import numpy as np
import pytest

from benchmarks import input as benchmark
from benchmarks import measuring
from input_pipeline.batches import Decoded
from input_pipeline.images import Folder, Size
from input_pipeline.index import INFRARED

HEIGHT = 16


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("drawn"))
    return folder, benchmark.drawn(folder, 26, 24)


def test_drawn_pictures_have_both_modalities_of_each_whole_identity(drawn):
    folder, index = drawn
    assert sorted(name for name in os.listdir(folder) if name.endswith("jpg")) == sorted(index.path)
    infrared = [(index.modality[index.identity == i] == INFRARED).sum() for i in (1, 2)]
    assert (infrared, np.bincount(index.identity)[1:].tolist()) == ([4, 4], [12, 12, 2])


def test_torch_reads_the_pixels_and_labels_that_we_read(drawn):
    folder, index = drawn
    rows = np.arange(len(index))
    mine = Decoded(Folder(folder, index), index, rows, Size(HEIGHT, HEIGHT // 2))
    other = benchmark.TorchPictures(folder, index, index.labels(), HEIGHT)
    assert len(other) == len(mine)
    for row in range(len(index)):
        for key, value in zip(("image", "identity", "camera", "modality"), other[row], strict=True):
            np.testing.assert_array_equal(value, mine[row][key], err_msg=key)


def test_every_reader_gives_the_same_batches(drawn):
    folder, index = drawn
    args, rows = argparse.Namespace(height=HEIGHT), np.array([[4, 2, 25], [2, 0, 11]])
    readers = benchmark.prepared(folder, index, HEIGHT)
    found = [list(benchmark.ours(r, index, rows, args, 2, 0).batches) for r in readers.values()]
    for files, *others in zip(*found, strict=True):
        assert files["image"].shape == (3, HEIGHT, HEIGHT // 2, 3)
        for other in others:
            np.testing.assert_array_equal(other["image"], files["image"])


def test_torchs_batches_are_ours(drawn):
    pytest.importorskip("torch")
    folder, index = drawn
    args, rows = argparse.Namespace(height=HEIGHT), np.array([[4, 2, 25], [2, 0, 11]])
    mine = list(benchmark.ours(Folder(folder, index), index, rows, args, 2, 0).batches)
    other = list(benchmark.torchs(folder, index, rows, args, 0).batches)
    for a, b in zip(mine, other, strict=True):
        for key, value in zip(("image", "identity", "camera", "modality"), b, strict=True):
            np.testing.assert_array_equal(value.numpy(), a[key], err_msg=key)


def test_loaders_take_turns_with_nothing_ready(monkeypatch):
    monkeypatch.setattr(benchmark.time, "sleep", lambda seconds: None)
    order = []

    def source(name):
        for i in itertools.count():
            order.append((name, i))
            yield i

    loaders = {"a": benchmark.Loader(source("a"), 2), "b": benchmark.Loader(source("b"), 0)}
    consumed = []
    found = benchmark.in_turn(loaders, lambda batches: consumed.append(next(batches)), 2)
    assert [len(seconds) for seconds in (found["a"], found["b"])] == [2, 2]
    # The round that starts them takes one of each; then four of a are let pass every turn, and none of b.
    assert consumed == [5 + 4, 1, 10 + 4, 2]
    assert [name for name, _ in order[6:]] == ["a"] * 5 + ["b"] + ["a"] * 5 + ["b"]


def test_held_batches_are_copies_of_the_next_ones():
    one = np.zeros(3)
    batches = ({"image": np.add(one, i, out=one)} for i in range(4))  # each overwrites the one before
    held = benchmark.held(benchmark.Loader(batches, 9))
    assert held.buffered == 0
    assert [next(held.batches)["image"][0] for _ in range(6)] == [0, 1, 3, 6, 0, 1]


def test_numbers_keep_three_digits():
    found = [measuring.cell(x) for x in (None, "files", 8, 0.98765, 12.345, 123.4, 1234.5)]
    assert found == ["-", "files", "8", "0.988", "12.3", "123", "1,234"]


def test_tables_have_a_row_of_every_reader(capsys, monkeypatch):
    for module in (measuring, benchmark):
        monkeypatch.setattr(module, "load_torch", lambda: None)
    monkeypatch.setattr(benchmark, "ours", lambda *given: benchmark.Loader(itertools.repeat({}), 0))
    small = ["--images", "24", "--stored", "24", "--height", "16", "--identities", "2", "--batches", "2"]
    benchmark.main(["loading", *small, "--repeats", "1", "--step-images-per-second", "5"])
    printed = capsys.readouterr().out
    assert "torch: not installed" in printed
    rows = [line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("|")]
    names = {row[0].strip() for row in rows[2:]}
    assert names == {"files", "packed", "resized"}
    for row in rows[2:]:
        assert row[4].strip() == "-"
        speed, step = (float(row[i].replace(",", "")) for i in (3, 5))
        assert step == pytest.approx(speed / 5, rel=0.01)


def test_an_unknown_section_is_named(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["decoding"])
    assert "unknown section 'decoding', expected some of loading, waiting" in capsys.readouterr().err
