import json
import os
import sys

import numpy as np
import pytest
from absl import logging
from hypothesis import given
from hypothesis import strategies as st

from saai_jax import log
from saai_jax.files import atomic_write
from saai_jax.log import MetricsLog, progress, read_metrics


def test_write_and_read(tmp_path):
    file = tmp_path / "new" / "metrics.jsonl"
    with MetricsLog(file, 0) as metrics:
        metrics.write(1, "train", loss=np.float32(0.5), epoch=np.int64(0))
        assert len(read_metrics(file)) == 1, "a line is on disk as soon as it is written"
        metrics.write(2, "validation", rank1=12.5, protocol="all")
    assert read_metrics(file) == [
        {"step": 1, "kind": "train", "loss": 0.5, "epoch": 0},
        {"step": 2, "kind": "validation", "rank1": 12.5, "protocol": "all"},
    ]


@given(stop=st.integers(1, 20), checkpoint=st.integers(0, 20), torn=st.booleans())
def test_resume_leaves_no_gap_and_no_duplicate(tmp_path_factory, stop, checkpoint, torn):
    file = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    checkpoint = min(checkpoint, stop)
    with MetricsLog(file, 0) as metrics:
        for step in range(1, stop + 1):
            metrics.write(step, "train", loss=step / 3)
    if torn:
        with open(file, "a") as stream:
            stream.write('{"step": 1')
    with MetricsLog(file, checkpoint) as metrics:
        for step in range(checkpoint + 1, 21):
            metrics.write(step, "train", loss=step / 3)
    assert [entry["step"] for entry in read_metrics(file)] == list(range(1, 21))
    assert len(file.read_text().splitlines()) == 20


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan")])
def test_refuses_what_json_cannot_say(tmp_path, value):
    with MetricsLog(tmp_path / "m.jsonl", 0) as metrics:
        with pytest.raises(ValueError, match=r"loss is (nan|inf) in the train entry of step 3"):
            metrics.write(3, "train", loss=value)
        metrics.write(3, "train", loss=1.0)
    assert [entry["loss"] for entry in read_metrics(tmp_path / "m.jsonl")] == [1.0]


def test_read_metrics_names_the_bad_line_but_forgives_a_torn_end(tmp_path):
    file = tmp_path / "m.jsonl"
    good = json.dumps({"step": 1, "kind": "train"}) + "\n"
    for end in ('{"step": 2, "ki', '{"step": 2, "kind": "train"}', "\0\0\0", "\0\0\n"):
        file.write_text(good + end)
        assert [entry["step"] for entry in read_metrics(file)] == [1]
    bad = ["rubbish", "[]", '{"kind": "train"}', '{"step": 1}', '{"step": 1, "kind": 2}', "[" * 100_000]
    bad += [f'{{"step": 1, "kind": "a", "loss": {value}}}' for value in ("NaN", "1e999", "[]", "{}", '"\\ud800"')]
    bad += [f'{{"step": {10**30}, "kind": "a"}}']
    for line in (f"{text}\n" for text in bad):
        file.write_text(good + line + good)
        with pytest.raises(ValueError, match=r"m\.jsonl:2: not a line of metrics"):
            read_metrics(file)


def test_a_damaged_line_is_set_aside_and_the_run_goes_on(tmp_path, monkeypatch):
    file, said = tmp_path / "m.jsonl", []
    monkeypatch.setattr(logging, "warning", lambda text, *values: said.append(text % values))
    good = [json.dumps({"step": step, "kind": "train"}) + "\n" for step in (1, 2, 3, 4)]
    file.write_text(good[0] + "rub\0bish\n" + "".join(good[1:]))
    with MetricsLog(file, 3, has_line=True) as metrics:
        metrics.write(4, "train", loss=1.0)
        metrics.sync()
    expected = [(1, "train"), (1, "gap"), (2, "train"), (3, "train"), (4, "train")]
    assert [(entry["step"], entry["kind"]) for entry in read_metrics(file)] == expected
    assert (tmp_path / "m.jsonl-damaged").read_bytes() == b"rub\0bish\n"
    assert said == [f"{file}: moved 1 damaged lines to {file}-damaged"]
    before = file.read_bytes()
    MetricsLog(file, 4, has_line=True).close()
    assert file.read_bytes() == before
    file.write_text("rubbish\nrubbish\n")
    with pytest.raises(ValueError, match="not a file of metrics"):
        MetricsLog(file, 4)
    assert file.read_text() == "rubbish\nrubbish\n"


@pytest.mark.parametrize("kept", [0, 2])
def test_lines_that_are_lost_before_a_checkpoint_are_a_gap(tmp_path, kept):
    file = tmp_path / "m.jsonl"
    file.write_text("".join(json.dumps({"step": step, "kind": "train"}) + "\n" for step in range(1, kept + 1)))
    for _ in range(2):  # a gap is one, however often the run goes on
        MetricsLog(file, 5, has_line=True).close()
        assert [entry["step"] for entry in read_metrics(file)] == [*range(1, kept + 1), 5]
        assert read_metrics(file)[-1]["kind"] == "gap"
    MetricsLog(os.devnull, 5, has_line=True).close()
    assert not os.path.isfile(os.devnull)


def test_what_is_written_is_on_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    for file in (tmp_path / "m.jsonl", os.devnull):
        with MetricsLog(file, 0) as metrics:
            metrics.sync()
    with atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert synced == [(tmp_path / name).stat().st_ino for name in ("m.jsonl", "a.txt")]


def test_replacing_leaves_the_old_file_after_an_error(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")

    def fail():
        with atomic_write(file) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def lines_of(monkeypatch, total, seconds, initial=0):
    clock, lines = [0.0], []
    monkeypatch.setattr(log.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(logging, "info", lambda text, *values: lines.append(text % values))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    items = list(range(initial, total))
    seen = []
    for item in progress(items, total=total, description="train", initial=initial):
        seen.append(item)
        clock[0] += seconds
    assert seen == items
    return lines


def test_progress_in_a_file_says_every_tenth(monkeypatch):
    lines = lines_of(monkeypatch, 1000, 0.01)
    assert len(lines) == 10
    assert lines[0] == "train: 100/1000 (10 %), 100.0/s, 00:09 left"
    assert lines[-1] == "train: 1000/1000 (100 %), 100.0/s, 00:00 left"


def test_progress_in_a_file_says_every_half_minute(monkeypatch):
    lines = lines_of(monkeypatch, 100, 12.0)
    assert lines[0] == "train: 3/100 (3 %), 12.0 s each, 19:24 left"
    assert 33 <= len(lines) <= 45


def test_progress_resumed_counts_its_own_steps_for_the_rate(monkeypatch):
    lines = lines_of(monkeypatch, 100, 1.0, initial=90)
    assert lines == ["train: 100/100 (100 %), 1.0/s, 00:00 left"]


def test_progress_on_a_terminal_draws_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(progress(range(5), total=10, description="train", initial=5)) == list(range(5))
    assert "10/10" in capsys.readouterr().err
