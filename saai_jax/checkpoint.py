"""Training states on disk, by orbax: the latest and the one that scored best on validation identities."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from saai_jax.log import replacing
from saai_jax.state import TrainState


class CheckpointError(Exception):
    """No checkpoint can be read where one is needed; the message names the folder."""


class Checkpoints:
    """The checkpoints of one run, in `folder`; saving is asynchronous."""

    def __init__(self, folder: str):
        self.folder = os.path.abspath(folder)
        # Typed as Any: orbax's policies do not satisfy its own protocols for a type checker.
        keep: Any = ocp.training.preservation_policies
        save: Any = ocp.training.save_decision_policies
        best = keep.BestN(get_metric_fn=lambda scores: scores["map"], n=1, keep_checkpoints_without_metrics=False)
        self._checkpointer = ocp.training.Checkpointer(
            self.folder,
            # The default policy drops a save while one is in flight; when to save is the caller's decision.
            save_decision_policy=save.FixedIntervalPolicy(1),
            preservation_policy=keep.AnyPreservationPolicy([keep.LatestN(1), best]),
        )

    def save(self, step: int, state: TrainState, scores: dict[str, float]) -> None:
        """Begins to write `state`; scores with "map" makes it a candidate for the best."""
        self._checkpointer.save_checkpointables_async(step, {"state": state}, metrics=dict[str, Any](scores) or None)

    def wait(self) -> None:
        """Returns when everything saved is on disk; reading before that would see half a checkpoint."""
        self._checkpointer.wait()

    def any(self) -> bool:
        """Whether there is a checkpoint."""
        return bool(self._checkpointer.checkpoints)

    def restore(self, like: TrainState, which: str = "last") -> TrainState | None:
        """The "last" or the "best" state, shaped and placed like `like`; None if there is no checkpoint yet.

        Raises CheckpointError if the best is asked for and no checkpoint has a validation score, or if the stored
        state has other shapes than `like`.
        """
        if which not in ("last", "best"):
            raise CheckpointError(f"checkpoint is {which!r}, expected 'last' or 'best'")
        self.wait()
        saved = self._checkpointer.checkpoints
        if not saved:
            return None
        chosen = max(saved, key=lambda c: c.step)
        if which == "best":
            scored: dict[Any, Any] = {
                c.metrics["map"]: c for c in saved if isinstance(c.metrics, dict) and "map" in c.metrics
            }
            if not scored:
                raise CheckpointError(f"{self.folder}: no checkpoint has a validation score, so none is the best")
            chosen = scored[max(scored)]
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        try:
            return self._checkpointer.load_checkpointables(chosen.step, {"state": abstract})["state"]
        except Exception as error:  # whatever orbax meets, it wraps in errors of its own that print the whole tree
            cause = str(error.__cause__ or error)[:500]
            raise CheckpointError(
                f"{self.folder}: step {chosen.step} cannot be read as this configuration's model: {cause}"
            ) from error

    def close(self) -> None:
        """Waits for saves in flight and releases orbax's threads."""
        self._checkpointer.close()


def write_config(file: str, config: Mapping[str, Any]) -> None:
    """Keeps a run's resolved configuration beside its checkpoints, as JSON."""
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def read_config(file: str) -> dict[str, Any]:
    """The configuration that write_config kept. Raises CheckpointError naming a missing or damaged file."""
    try:
        with open(file) as opened:
            return dict(json.load(opened))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file}: the configuration of a run cannot be read: {error}") from error


def refuse_other_run(file: str, config: Mapping[str, Any], free: Sequence[str]) -> None:
    """Raises CheckpointError naming every key in which a run's kept configuration differs from this one.

    Keys that begin with a name in `free` may differ.
    """
    before, now = _flat(read_config(file)), _flat(json.loads(json.dumps(config)))
    changed = [
        f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(tuple(free))
    ]
    if changed:
        raise CheckpointError(
            f"{file} is of a run with another configuration; use another --workdir. {'; '.join(changed)}"
        )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves = {}
    for key, value in tree.items():
        leaves |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves
