"""Training, and what comes before it: preparing and examining a data set."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
from collections.abc import Iterator

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from input_pipeline import market
from input_pipeline.images import gather_errors
from input_pipeline.index import Index
from input_pipeline.sampling import Plan, plan_of
from modes.building import (
    COSINE,
    FREE,
    IMAGENET,
    embed,
    inferences,
    initial_state,
    settings_of,
    source_of,
    splits_of,
    system_of,
)
from modes.ranking import evaluate_run, row
from saai_jax import parallel
from saai_jax import train as loop
from saai_jax.checkpoint import CheckpointError, Checkpoints, refuse_other_run, write_config
from saai_jax.files import atomic_write
from saai_jax.log import MetricsLog, read_metrics
from saai_jax.systems import ONE_MODALITY
from saai_jax.systems.system import Tree


def refuse_late_failures(config: ConfigDict, test: Index, validation: Index | None) -> None:
    """Raises ValueError, before hours of training, for a configuration that the evaluation after it would refuse."""
    for setting in settings_of(config, test):
        inferences(config, setting)
    for key in ("log_every", "save_every", "validate_every"):
        if config.train[key] < 1:
            raise ValueError(f"train.{key} is {config.train[key]}, expected at least 1")
    if config.on_nonfinite not in ("stop", "skip"):
        raise ValueError(f"on_nonfinite is {config.on_nonfinite!r}, expected 'stop' or 'skip'")
    if config.eval.checkpoint not in ("last", "best"):
        raise ValueError(f"eval.checkpoint is {config.eval.checkpoint!r}, expected 'last' or 'best'")
    if config.eval.checkpoint == "best" and validation is None:
        raise ValueError("eval.checkpoint=best needs identities to choose by: add the preset 'validate'")


def refuse_one_modality(config: ConfigDict) -> None:
    """Raises ValueError for a data set of visible images and a system or sampler that needs infrared ones."""
    if config.dataset not in market.DATASETS:
        return
    what = f"{config.dataset} has visible images alone"
    if config.system not in ONE_MODALITY:
        raise ValueError(
            f"{what}, and the system {config.system!r} learns from two modalities; train lba, lba-baseline, pcb or "
            "pcb-lba, as in --config=configs/market.py:lba. Features of any system: --mode=rank"
        )
    if config.data.sampler != "cameras":
        raise ValueError(f"{what}: data.sampler is {config.data.sampler!r}, expected 'cameras'")


@contextlib.contextmanager
def save_nonfinite(workdir: str, plan: Plan, index: Index) -> Iterator[None]:
    """Writes not-finite-<step>.json with the images of a step that is not finite. Raises FloatingPointError for it."""
    try:
        yield
    except loop.NotFinite as error:
        rows = plan.rows[error.step - 1]
        columns = {name: getattr(index, name)[rows].tolist() for name in ("path", "identity", "camera", "modality")}
        found = {
            "step": error.step,
            "epoch": int(plan.epoch[error.step - 1]) + 1,
            "terms": {name: str(value) for name, value in error.terms.items()},  # JSON has no NaN
            "rows": rows.tolist(),
            **columns,
        }
        file = os.path.join(workdir, f"not-finite-{error.step}.json")
        if parallel.primary():
            with atomic_write(file) as temporary:
                temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        raise FloatingPointError(
            f"{error}. {file} has its images; the last checkpoint is whole. --config.on_nonfinite=skip leaves such "
            "steps out"
        ) from error


@contextlib.contextmanager
def workdir_lock(workdir: str) -> Iterator[None]:
    """Holds the workdir for this run. Raises CheckpointError if another running process holds it."""
    os.makedirs(workdir, exist_ok=True)
    with open(os.path.join(workdir, ".lock"), "w") as lock:
        try:
            if parallel.primary():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(f"{workdir}: another run is training there; use another --workdir") from None
        yield


def train(config: ConfigDict, workdir: str, *, accept_changes: bool = False) -> None:
    """Trains, or goes on where the run in workdir stopped, and evaluates.

    accept_changes: also goes on with a run whose configuration was another.
    """
    with workdir_lock(workdir):
        train_in(config, workdir, accept_changes)
    evaluate_run(config, workdir)


def train_in(config: ConfigDict, workdir: str, accept_changes: bool = False) -> None:
    """Trains to the end in a workdir that nobody else writes to."""
    refuse_one_modality(config)
    c, t, source, file = config, config.train, source_of(config), os.path.join(workdir, "config.json")
    if parallel.primary():
        source.draw()
    parallel.barrier("a synthetic set is drawn")
    splits = splits_of(c)
    index, validation = splits["train"], splits.get("validation")
    refuse_late_failures(c, splits["test"], validation)
    shape = {"identities": c.data.identities, "images": c.data.images, "epochs": t.epochs, "seed": c.seed}
    mesh = parallel.batch_mesh()
    parallel.check_divides(c.data.identities * c.data.images, mesh)
    plan = plan_of(index, c.data.sampler, **shape)
    c.model.identities = int(index.labels().max()) + 1
    system = system_of(c, c.model.identities)
    if system.check_batch:
        system.check_batch(index.identity[plan.rows[0]])
    if system.note:
        logging.warning("%s", system.note)
    counted = plan.steps_per_epoch
    counts = len(index), c.model.identities, len(plan.rows), counted.min(), counted.max()
    logging.info("%d images of %d identities; %d steps, %d to %d an epoch", *counts)
    if not (c.model.weights or source.synthetic):
        logging.warning(
            "training from random weights: published results start from ImageNet. Fetch %s and name it with "
            "--config.model.weights",
            IMAGENET,
        )
    if c.data.verify:
        source.verify(splits)
    checkpoints = Checkpoints(os.path.join(workdir, "checkpoints"))
    fresh = initial_state(c, system)
    if checkpoints.steps():
        refuse_other_run(file, json.loads(c.to_json()), FREE, accept=accept_changes)
    state = checkpoints.restore(fresh) or fresh
    del fresh  # or it would take a second state's place on the device
    if parallel.primary():
        write_config(file, json.loads(c.to_json()))
    start = int(state.step)
    parallel.check_agreed(start, "the step to go on from")
    if start:
        logging.info("going on after step %d of %d", start, len(plan.rows))

    def validate(variables: Tree) -> dict[str, float]:
        assert validation is not None
        vector = embed(c, system, variables, validation, "validation")
        scored = row(source.validation_setting(validation), validation, vector, "cosine", COSINE)
        return {key: scored[key] for key in ("rank1", "map")}

    metrics = os.path.join(workdir, "metrics.jsonl") if parallel.primary() else os.devnull
    hosts = {"host": jax.process_index(), "hosts": jax.process_count()}
    batches = source.train_batches(index, plan.rows[start:], **hosts)
    ended = start > 0 and (start == len(plan.epoch) or plan.epoch[start] != plan.epoch[start - 1])
    with (
        MetricsLog(metrics, start, has_line=ended) as log,
        parallel.termination() as stop,
        save_nonfinite(workdir, plan, index),
        contextlib.closing(batches),  # or workers leave their shared memory behind when the run is stopped
    ):
        state = loop.fit(
            state,
            batches,
            plan.epoch,
            loop.learning_rate(
                plan.epoch, base=t.learning_rate, warmup=t.warmup, milestones=t.milestones, decay=t.decay
            ),
            system,
            seed=c.seed,
            mesh=mesh,
            checkpoints=checkpoints,
            log=log,
            every=loop.Every(t.log_every, t.save_every, t.validate_every),
            validate=validate if validation is not None else None,
            skip_not_finite=c.on_nonfinite == "skip",
            stop=stop,
        )
    checkpoints.close()
    if left_out := [entry["step"] for entry in read_metrics(metrics) if entry["kind"] == "skipped"]:
        logging.warning(
            "%d of %d steps were left out, their loss or gradient was not finite", len(left_out), len(plan.rows)
        )


def prepare(config: ConfigDict, workdir: str) -> None:
    """Writes every split below config.data.resized as pixels, or below config.data.packed (workdir/packed) as packs."""
    source, d = source_of(config), config.data
    splits = splits_of(config)
    if d.resized:
        kind, folder, store = "resized", d.resized, source.store_resized
    else:
        kind, folder, store = "packed", d.packed or os.path.join(workdir, "packed"), source.pack
    gather_errors(lambda name: store(splits[name], name, folder), splits)
    logging.info("%s %s; train from it with --config.data.%s=%s", kind, ", ".join(splits), kind, folder)


def doctor(config: ConfigDict, workdir: str = "") -> None:
    """Lists everything that is wrong with the data set on disk; exits with 1 if anything is that stops training."""
    del workdir  # as every mode has it
    source = source_of(config)
    found = source.examine()
    print("\n".join(found) if found else f"{source.root}: nothing wrong was found")
    if any(not line.startswith("warning:") for line in found):
        sys.exit(1)
    for split in source.reader.SPLITS:
        index = source.read(split)
        people, infrared = len(np.unique(index.identity)), int(index.modality.sum())
        counts = f"{people:,} identities, {len(index) - infrared:,} visible and {infrared:,} infrared images"
        print(f"{split}: {counts}, all of them decoded")
    drawn = ", ".join(dict.fromkeys(setting.protocol for setting in settings_of(config, index)))
    print(f"protocols of test: {drawn}")
