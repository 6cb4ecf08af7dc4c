"""Training states on disk, by orbax: the last two and the one that scored best on validation identities."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from logging import getLogger
from typing import Any, TypeVar

import jax
import numpy as np
from absl import logging
from orbax.checkpoint import v1 as ocp

from saai_jax import parallel
from saai_jax.files import atomic_write, load_json

State = TypeVar("State")  # any tree of arrays
ANEW = "if this is the configuration of the run, --mode=train --accept_changes writes it anew and goes on"
OLD = "was written by saai-jax before it had systems, and this version cannot read it: train again in another --workdir"


class CheckpointError(Exception):
    """A checkpoint cannot be read or written where one is needed; the message names the folder."""


class Damaged(Exception):
    """A checkpoint is not what was written; the message says in what."""


class Checkpoints:
    """The checkpoints of one run, in `folder`; saving is asynchronous, and only saving changes the folder.

    A checkpoint carries a digest of its arrays, because a changed byte in orbax's files may be read without an error.
    """

    def __init__(self, folder: str):
        self.folder = os.path.abspath(folder)
        self._checkpointer: Any = None
        self._saving: Any = None
        self._damaged: list[int] = []

    def steps(self) -> list[int]:
        """Of every checkpoint, whole or damaged, in order; one that is being written has another name."""
        names = os.listdir(self.folder) if os.path.isdir(self.folder) else []
        return sorted(int(name) for name in names if name.isdecimal())

    def save(self, step: int, state: Any, scores: dict[str, float]) -> None:
        """Begins to write `state`; scores with "map" makes it a candidate for the best. Raises as `wait`."""
        self.wait()
        try:
            self._checkpointer = self._checkpointer or self._opened()
            kept = {"arrays": digest(state), "shapes": _shapes(state), "scores": dict(scores)}
            described: Any = {"metrics": dict(scores) or None, "custom_metadata": kept | {"sha256": _sha256(kept)}}
            self._saving = self._checkpointer.save_checkpointables_async(step, {"state": state}, **described)
        except jax.errors.JaxRuntimeError:
            raise  # the disk is not to blame, but another process that is gone
        except Exception as error:
            raise CheckpointError(f"{self.folder}: step {step} cannot be saved: {_brief(error)}") from error

    def wait(self) -> None:
        """Returns when everything saved is on disk. Raises CheckpointError if it cannot be written."""
        try:
            if self._saving:
                self._saving.result()  # to ask is what ends the thread and the event loop of a save
        except jax.errors.JaxRuntimeError:
            raise
        except Exception as error:
            raise CheckpointError(f"{self.folder}: a checkpoint cannot be written: {_brief(error)}") from error

    def _opened(self) -> Any:
        """Orbax's writer, which has to read whatever is in the folder: what is damaged goes out of its way first."""
        for step in self.steps() if parallel.primary() else ():
            try:
                if step not in self._damaged:
                    self._kept(step)
                    continue
            except Damaged:
                pass
            os.makedirs(f"{self.folder}-damaged", exist_ok=True)
            aside = tempfile.mkdtemp(prefix=f"{step}-", dir=f"{self.folder}-damaged")
            os.rename(os.path.join(self.folder, str(step)), aside)  # takes the place of an empty folder
            logging.warning("moved the damaged checkpoint of step %d to %s", step, aside)
        parallel.barrier("damaged checkpoints are out of the way")
        # Typed as Any: orbax's policies do not satisfy its own protocols for a type checker.
        keep: Any = ocp.training.preservation_policies
        save: Any = ocp.training.save_decision_policies
        best = keep.BestN(get_metric_fn=lambda scores: scores["map"], n=1, keep_checkpoints_without_metrics=False)
        return ocp.training.Checkpointer(
            self.folder,
            # The default policy drops a save while one is in flight; when to save is the caller's decision.
            save_decision_policy=save.FixedIntervalPolicy(1),
            # Two, so that one is left if the other is damaged.
            preservation_policy=keep.AnyPreservationPolicy([keep.LatestN(2), best]),
        )

    def restore(self, like: State, which: str = "last") -> State | None:
        """The "last" or the "best" state, shaped and placed like `like`; None if there is no checkpoint yet.

        A last one that is damaged is named in a warning, and the one before it is used. Raises CheckpointError if none
        is whole, if the best is asked for and is damaged or no checkpoint has a validation score, or if the stored
        state has other shapes than `like`.
        """
        if which not in ("last", "best"):
            raise CheckpointError(f"checkpoint is {which!r}, expected 'last' or 'best'")
        self.wait()
        steps = self.steps()[::-1]
        if which == "best" and steps:
            try:
                scores = {step: self._kept(step)["scores"] for step in steps}
            except Damaged as error:
                raise CheckpointError(f"{self.folder}: one is damaged, so the best is not known: {error}") from error
            scored = {step: found["map"] for step, found in scores.items() if "map" in found}
            if not scored:
                raise CheckpointError(f"{self.folder}: no checkpoint has a validation score, so none is the best")
            steps = [max(scored, key=scored.__getitem__)]
        for step in steps:
            try:
                return self._read(step, like)
            except Damaged as error:
                logging.warning("%s: the checkpoint of step %d is damaged: %s", self.folder, step, error)
                self._damaged.append(step)
        if steps:
            raise CheckpointError(f"{self.folder}: no checkpoint is whole; damaged: {steps}")
        return None

    def _kept(self, step: int) -> dict[str, Any]:
        """What `save` keeps beside the arrays."""
        try:
            found: Any = ocp.checkpointables_metadata(os.path.join(self.folder, str(step))).custom_metadata or {}
        except Exception as error:
            raise Damaged(_brief(error)) from error
        kept = {key: value for key, value in found.items() if key != "sha256"}
        if found.get("sha256") != _sha256(kept):
            raise Damaged("its description is not the one that was saved")
        return kept

    def _read(self, step: int, like: State) -> State:
        kept, wanted = self._kept(step), _shapes(like)
        if any(name.startswith(".batch_stats") for name in kept["shapes"]):
            raise CheckpointError(f"{self.folder}: step {step} {OLD}")
        for name in kept["shapes"] | wanted:
            if kept["shapes"].get(name) != wanted.get(name):
                raise CheckpointError(
                    f"{self.folder}: step {step} cannot be read as this configuration's model: {name} has shape "
                    f"{kept['shapes'].get(name)}, expected {wanted.get(name)}"
                )
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        try:
            with _one_error():
                state = ocp.load_checkpointables(os.path.join(self.folder, str(step)), {"state": abstract})["state"]
        except Exception as error:  # whatever orbax meets, it wraps in errors of its own
            raise Damaged(_brief(error)) from error
        if digest(state) != kept["arrays"]:
            raise Damaged("its arrays are not those that were saved")
        return state

    def close(self) -> None:
        """Waits for a save in flight and releases orbax's threads. Raises as `wait`."""
        self.wait()
        if self._checkpointer:
            self._checkpointer.close()


def digest(state: Any) -> str:
    """SHA-256 of all arrays, in the order of the tree."""
    found = hashlib.sha256()
    for x in jax.tree.leaves(jax.device_get(parallel.local_copy(state))):
        found.update(np.asarray(x).tobytes())
    return found.hexdigest()


def _shapes(state: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): f"{x.dtype}{list(x.shape)}" for path, x in leaves}


def _sha256(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _one_error() -> Iterator[None]:
    """Of a damaged checkpoint orbax's tasks print an error for every array, beside the one that is raised."""
    noisy, printing = getLogger("asyncio"), sys.unraisablehook
    level = noisy.level
    noisy.setLevel("CRITICAL")
    sys.unraisablehook = lambda _: None
    try:
        yield
    except BaseException:
        # Reads that are still under way speak when they come to their end: those stay quiet for the process's life.
        late = "Event loop is closed", "error while reading array"
        sys.unraisablehook = lambda what: None if any(w in str(what.exc_value) for w in late) else printing(what)
        raise
    noisy.setLevel(level)
    sys.unraisablehook = printing


def _brief(error: BaseException) -> str:
    """What went wrong at the bottom of orbax's errors, which print whole trees."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return " ".join(str(error).split())[:300] or type(error).__name__


def write_config(file: str, config: Mapping[str, Any]) -> None:
    """Keeps a run's resolved configuration beside its checkpoints, as JSON."""
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def read_config(file: str) -> dict[str, Any]:
    """The configuration that write_config kept. Raises CheckpointError naming a missing or damaged file."""
    try:
        with open(file, encoding="utf-8") as opened:
            found = load_json(opened.read())
        if not isinstance(found, dict):
            raise ValueError(f"it is a {type(found).__name__}, expected an object")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: the configuration of a run cannot be read: {error}; {ANEW}") from error
    return found


def refuse_other_run(file: str, config: Mapping[str, Any], free: Sequence[str], *, accept: bool | None = None) -> None:
    """Raises CheckpointError naming every key in which a run's kept configuration differs from this one.

    Keys that begin with a name in `free` may differ; accept: the others too, with a warning, and a file that is lost;
    None: nobody could ask.
    """
    try:
        before, now = _flat(read_config(file)), _flat(json.loads(json.dumps(config)))
    except CheckpointError as error:
        if not accept:
            raise
        logging.warning("%s", error)
        return
    if "system" not in before:
        raise CheckpointError(f"{file} {OLD}")
    changed = "; ".join(
        f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(tuple(free))
    )
    if changed and accept:
        logging.warning("going on with a run of another configuration: %s", changed)
    elif changed:
        way = "use another --workdir" + (", or go on all the same with --accept_changes" if accept is not None else "")
        raise CheckpointError(f"{file} is of a run with another configuration; {way}. {changed}")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves = {}
    for key, value in tree.items():
        leaves |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves
