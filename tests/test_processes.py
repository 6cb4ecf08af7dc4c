"""A gallery, and a run, over two processes, as over two hosts, give what one process gives."""

import os
import pathlib
import signal
import subprocess
import sys

import numpy as np

from benchmarks.faults import Runs, free_port
from saai_jax import parallel
from saai_jax.affinity import Gallery
from saai_jax.log import read_metrics
from saai_jax.ranking import results
from tests.launching import Forked, drawn

SCRIPT = pathlib.Path(__file__).parent / "gallery_process.py"


def pair(runs, work, *flags):
    """What two processes of one run print, after both ended well."""
    where = f"--coordinator=localhost:{free_port()}", "--processes=2"
    both = [runs.start(work, *where, f"--process={i}", *flags, stderr=subprocess.PIPE) for i in range(2)]
    try:
        printed = [process.communicate(timeout=240)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], "\n".join(printed)
    return printed


def test_two_processes_train_and_evaluate_as_one(tmp_path):
    drawn(tmp_path / "data")
    runs = Runs(tmp_path, epochs=1, popen=Forked)
    one, work = runs.whole(), tmp_path / "two"
    printed = pair(runs, work)
    assert "wrote" in printed[0]
    assert "wrote" not in printed[1]  # one process writes and speaks
    ours, theirs = (
        [entry for entry in read_metrics(folder / "metrics.jsonl") if entry["kind"] == "train"]
        for folder in (work, one)
    )
    assert [entry["step"] for entry in ours] == [entry["step"] for entry in theirs]
    np.testing.assert_allclose(ours[0]["loss"], theirs[0]["loss"], rtol=1e-5)
    # Adam's first steps are signs of gradients, those of rounding noise too: see docs/parity.md.
    np.testing.assert_allclose([e["loss"] for e in ours], [e["loss"] for e in theirs], rtol=1e-2)
    together = results.read(work / "results.json")["rows"]
    code, message = runs.run(work, "--mode=evaluate")
    assert code == 0, message
    for a, b in zip(together, results.read(work / "results.json")["rows"], strict=True):
        np.testing.assert_allclose([a["rank1"], a["map"]], [b["rank1"], b["map"]], atol=0.1)


def test_a_process_that_is_left_alone_ends_in_one_line(tmp_path):
    """Nobody comes; the other one is stopped, so that nothing breaks; the first one dies before any step."""
    code = (
        "import sys, time; from saai_jax import parallel\n"
        "where = dict(coordinator_address=sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))\n"
        "parallel.connect(int(sys.argv[3]), 5, **where)\n"
        "print('connected', flush=True); time.sleep(600)"
    )

    def start(address, process, wait):
        how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": SCRIPT.parent.parent}
        return subprocess.Popen([sys.executable, "-c", code, address, str(process), str(wait)], **how)

    where = [f"localhost:{free_port()}" for _ in range(3)]
    running = [start(where[0], 1, 4), *(start(address, process, 60) for address in where[1:] for process in range(2))]
    alone, left, stopped, dead, orphan = running
    try:
        assert [process.stdout.readline() for process in running[1:]] == ["connected\n"] * 4
        stopped.send_signal(signal.SIGSTOP)
        dead.kill()
        for process, number, why in (
            (alone, 1, f"not all processes came to {where[0]} in 4 s"),
            (left, 0, "another one is gone, or gives no sign of life"),
            (orphan, 1, "another one is gone, or gives no sign of life"),
        ):
            printed = process.communicate(timeout=60)[1]
            assert (process.returncode, printed) == (1, f"launch.py: process {number} stops, {why}\n")
    finally:
        for process in running:
            process.kill()
            process.communicate()


def test_a_share_of_the_rows_is_everyones_and_nobodys_twice(monkeypatch):
    for rows, processes in ((10, 3), (2, 2), (7, 1), (1, 2)):
        parts = []
        for process in range(processes):
            monkeypatch.setattr(parallel.jax, "process_index", lambda process=process: process)
            monkeypatch.setattr(parallel.jax, "process_count", lambda processes=processes: processes)
            parts.append(np.arange(rows)[parallel.share(rows)])
        np.testing.assert_array_equal(np.concatenate(parts), np.arange(rows))


def test_two_processes_give_what_one_gives(tmp_path):
    port = str(free_port())
    files = [tmp_path / f"{i}.npz" for i in range(2)]
    running = [
        subprocess.Popen(
            [sys.executable, SCRIPT, port, "2", str(i), file],
            cwd=SCRIPT.parent.parent,
            env={**os.environ, "PYTHONPATH": "."},
            stderr=subprocess.PIPE,
            text=True,
        )
        for i, file in enumerate(files)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], "\n".join(errors)
    random = np.random.default_rng(0)
    images, query = (random.standard_normal((n, 16)).astype(np.float32) + 0.3 for n in (101, 40))
    gallery = Gallery.build(images, k1=5, k2=3)
    alone = gallery.search(query, 10)
    changed = gallery.add(query[:7]).remove(np.arange(30)).distances(query)
    for file in files:
        found = np.load(file)
        np.testing.assert_array_equal(found["index"], alone.index)
        np.testing.assert_allclose(found["distance"], alone.distance, atol=1e-6)
        np.testing.assert_allclose(found["changed"], changed, atol=1e-6)
