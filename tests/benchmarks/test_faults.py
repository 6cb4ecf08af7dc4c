"""Faults injected into real runs, few of each kind; `python -m benchmarks.faults` does the same more often."""

import fcntl
import signal

import pytest

from benchmarks import faults
from tests.launching import Forked, drawn


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    drawn(folder / "data")
    return faults.Runs(folder, epochs=6, popen=Forked)


@pytest.mark.parametrize(
    ("name", "moment", "how", "tries"),
    [
        ("inside a save", faults.in_a_save, signal.SIGKILL, 2),
        ("while training", faults.after_a_save, signal.SIGKILL, 1),
        ("while training", faults.after_a_save, signal.SIGTERM, 1),
    ],
    ids=["save", "kill", "stop"],
)
def test_a_run_that_is_ended_goes_on_to_the_same_bits(runs, name, moment, how, tries):
    row = faults.kills(runs, tries, name, moment, how)
    assert row.tries == tries
    assert row.lost == ""


def test_a_data_root_that_vanishes_is_one_line_and_costs_nothing(runs):
    assert faults.data(runs).lost == ""


def test_a_disk_without_room_is_one_line_and_costs_nothing(runs):
    try:
        rows = faults.disk(runs)
    except PermissionError as error:
        pytest.skip(str(error))
    assert [row.lost for row in rows] == [""] * 4


def test_a_damaged_checkpoint_costs_no_more_than_its_steps(runs):
    row = faults.damage(runs, 2)
    assert row.lost == ""
    assert "0 x the one before" not in row.happened


def test_one_of_two_processes_that_is_killed_ends_the_other(runs):
    assert faults.processes(runs, 1).lost == ""


def test_differences_are_seen(runs):
    """The judge itself: runs of another seed differ in everything, one with a line less in that."""
    other = runs.folder / "other"
    assert runs.run(other, "--config.seed=1")[0] == 0
    assert runs.differences(other) == ["metrics.jsonl", "rows of results.json", "the last state"]
    assert runs.differences(runs.whole()) == []


def test_another_run_in_the_same_workdir_is_refused(runs):
    work = runs.folder / "held"
    work.mkdir()
    with open(work / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, printed = runs.run(work)
    assert code == 1
    assert f"{work}: another run is training there" in printed
