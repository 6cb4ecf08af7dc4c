"""Checkpoints: which are kept, and that one which is not what was written is never used."""

import logging
import os
import shutil
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from saai_jax import train
from saai_jax.checkpoint import CheckpointError, Checkpoints, digest, refuse_other_run, write_config
from saai_jax.systems import saai
from tests.test_train import SIZE, SYSTEM


@struct.dataclass
class OldState:
    """Fields of a state of version 0.1.0 before it had systems."""

    params: dict
    batch_stats: dict


@pytest.fixture(scope="module")
def variables():
    return train.initial_state(SYSTEM, seed=0).variables


def fresh(variables, step: int = 0):
    collections = jax.tree.map(jnp.copy, variables)
    state = train.new_state(SYSTEM, collections.pop("params"), collections)
    return state.replace(step=jnp.int32(step), params=jax.tree.map(lambda x: x + step, state.params))


@pytest.fixture(scope="module")
def saved(variables, tmp_path_factory):
    """A folder with the checkpoints of steps 2 (the best), 3 and 4."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpoints = Checkpoints(folder)
    for step, score in ((1, 10.0), (2, 30.0), (3, 20.0), (4, 5.0)):
        checkpoints.save(step, fresh(variables, step), {"map": score})
    checkpoints.close()
    return folder


def files_of(step: int, folder: Path) -> list[str]:
    return sorted(
        os.path.relpath(os.path.join(at, name), folder)
        for at, _, names in os.walk(folder / str(step))
        for name in names
    )


def test_two_last_checkpoints_and_the_best_are_kept(variables, saved):
    checkpoints = Checkpoints(saved)
    assert checkpoints.steps() == [2, 3, 4]
    for which, step in (("last", 4), ("best", 2)):
        assert digest(checkpoints.restore(fresh(variables), which)) == digest(fresh(variables, step))
    with pytest.raises(CheckpointError, match="expected 'last' or 'best'"):
        checkpoints.restore(fresh(variables), "first")


def test_a_hundred_saves_leave_no_descriptors_and_no_threads(tmp_path):
    checkpoints, held = Checkpoints(tmp_path / "many"), []
    for step in range(1, 101):
        checkpoints.save(step, {"w": jnp.full(3, step)}, {"map": float(step)})
        if step in (10, 100):
            checkpoints.wait()
            held.append((len(os.listdir("/proc/self/fd")), threading.active_count()))
    checkpoints.close()
    assert held[1] == held[0]


def test_a_new_run_has_none(variables, tmp_path):
    assert Checkpoints(tmp_path / "new").restore(fresh(variables)) is None
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_checkpoint_is_never_used(variables, saved, tmp_path, caplog, seed):
    """A file lost, cut short or changed in one bit: the last one is whole all the same, or the one before it serves.

    Then training goes on, and what was damaged is out of its way.
    """
    random, folder = np.random.default_rng(seed), tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    # The largest file holds the arrays, where orbax itself sees no change.
    files = files_of(4, folder)
    file = folder / (max(files, key=lambda f: (folder / f).stat().st_size) if seed < 4 else random.choice(files))
    content = bytearray(file.read_bytes())
    if seed % 3 == 0 and content:
        content[random.integers(len(content))] ^= 1 << random.integers(8)
        file.write_bytes(content)
    elif seed % 3 == 1:
        file.write_bytes(content[: len(content) // 2])
    else:
        file.unlink()
    checkpoints = Checkpoints(folder)
    with caplog.at_level(logging.WARNING):
        state = checkpoints.restore(fresh(variables))
    step = int(state.step)
    assert digest(state) == digest(fresh(variables, step))
    assert step == (3 if "the checkpoint of step 4 is damaged" in caplog.text else 4)
    assert step == 3 or seed >= 4
    checkpoints.save(step + 1 if step == 3 else 5, fresh(variables, 5), {})
    checkpoints.close()
    assert digest(Checkpoints(folder).restore(fresh(variables))) == digest(fresh(variables, 5))
    assert (tmp_path / "checkpoints-damaged").exists() == (step == 3)


def test_no_whole_checkpoint_is_an_error(variables, saved, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    for step in (2, 3, 4):
        (folder / str(step) / "state" / "_METADATA").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint is whole; damaged: \[4, 3, 2\]"):
        Checkpoints(folder).restore(fresh(variables))


def test_best_without_scores_is_an_error(variables, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, fresh(variables), {})
    with pytest.raises(CheckpointError, match="no checkpoint has a validation score"):
        checkpoints.restore(fresh(variables), "best")
    checkpoints.close()


def test_a_state_of_another_model_is_refused(variables, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, fresh(variables), {})
    other = train.initial_state(saai.build(**SIZE | {"identities": 5}), seed=0)
    with pytest.raises(CheckpointError, match="cannot be read as this configuration's model: .*shape"):
        checkpoints.restore(other)
    checkpoints.close()


def test_a_changed_configuration_is_refused_by_key(tmp_path):
    file = tmp_path / "config.json"
    write_config(file, {"system": "saai", "train": {"epochs": 3}, "data": {"root": "a", "size": (1, 2)}})
    refuse_other_run(
        file, {"system": "saai", "train": {"epochs": 3}, "data": {"root": "b", "size": (1, 2)}}, ["data.root"]
    )
    with pytest.raises(CheckpointError, match=r"train.epochs was 3 and is 4"):
        refuse_other_run(
            file, {"system": "saai", "train": {"epochs": 4}, "data": {"root": "b", "size": (1, 2)}}, ["data.root"]
        )
    file.write_text("{")
    with pytest.raises(CheckpointError, match="config.json: the configuration of a run cannot be read"):
        refuse_other_run(file, {}, [])
    for damage in (lambda: None, file.unlink):
        damage()
        with pytest.raises(CheckpointError, match="--mode=train --accept_changes writes it anew and goes on"):
            refuse_other_run(file, {}, [])
        refuse_other_run(file, {}, [], accept=True)


def test_a_run_of_before_there_were_systems_is_refused(variables, tmp_path):
    write_config(file := tmp_path / "config.json", {"train": {"epochs": 3}})
    with pytest.raises(CheckpointError, match=r"config\.json was written by saai-jax before it had systems"):
        refuse_other_run(file, {"system": "saai"}, [])
    checkpoints = Checkpoints(tmp_path / "old")
    checkpoints.save(3, OldState({"w": jnp.zeros(2)}, {"mean": jnp.zeros(2)}), {})
    checkpoints.close()
    with pytest.raises(CheckpointError, match="step 3 was written by saai-jax before it had systems.*train again"):
        Checkpoints(tmp_path / "old").restore(fresh(variables))


def test_a_damaged_description_is_never_passed_over_for_the_best(variables, saved, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    file = folder / "2" / "_CHECKPOINT_METADATA"  # of the best
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="one is damaged, so the best is not known"):
        Checkpoints(folder).restore(fresh(variables), "best")
