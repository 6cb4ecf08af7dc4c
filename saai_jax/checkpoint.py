"""Training states on disk, by orbax: the latest and the one that scored best on validation identities."""

from __future__ import annotations

import os

import jax
from orbax.checkpoint import v1 as ocp

from saai_jax.state import TrainState


class CheckpointError(Exception):
    """No checkpoint can be read where one is needed; the message names the folder."""


class Checkpoints:
    """The checkpoints of one run, in `folder`; saving is asynchronous."""

    def __init__(self, folder: str):
        self.folder = os.path.abspath(folder)
        keep = ocp.training.preservation_policies
        best = keep.BestN(get_metric_fn=lambda scores: scores["map"], n=1, keep_checkpoints_without_metrics=False)
        self._checkpointer = ocp.training.Checkpointer(
            self.folder,
            # The default policy drops a save while one is in flight; when to save is the caller's decision.
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=keep.AnyPreservationPolicy([keep.LatestN(1), best]),
        )

    def save(self, step: int, state: TrainState, scores: dict[str, float]) -> None:
        """Begins to write `state`; scores with "map" makes it a candidate for the best."""
        self._checkpointer.save_checkpointables_async(step, {"state": state}, metrics=scores or None)

    def wait(self) -> None:
        """Returns when everything saved is on disk; reading before that would see half a checkpoint."""
        self._checkpointer.wait()

    def restore(self, like: TrainState, which: str = "last") -> TrainState | None:
        """The "last" or the "best" state, shaped and placed like `like`; None if there is no checkpoint yet.

        Raises CheckpointError if the best is asked for and no checkpoint has a validation score, or if the stored
        state has other shapes than `like`.
        """
        self.wait()
        saved = self._checkpointer.checkpoints
        if not saved:
            return None
        chosen = max(saved, key=lambda c: c.step)
        if which == "best":
            scored = [c for c in saved if c.metrics and "map" in c.metrics]
            if not scored:
                raise CheckpointError(f"{self.folder}: no checkpoint has a validation score, so none is the best")
            chosen = max(scored, key=lambda c: c.metrics["map"])
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        try:
            return self._checkpointer.load_checkpointables(chosen.step, {"state": abstract})["state"]
        except ValueError as error:
            raise CheckpointError(
                f"{self.folder}: step {chosen.step} does not fit this configuration's model: {error}"
            ) from error

    def close(self) -> None:
        """Waits for saves in flight and releases orbax's threads."""
        self._checkpointer.close()
