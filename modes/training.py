"""Training, with what it needs first and what a study repeats."""

from __future__ import annotations

import json
import os
import sys

from absl import logging
from ml_collections import ConfigDict

from configs import ablation as ablations
from input_pipeline.images import collect
from input_pipeline.index import Index
from input_pipeline.sampling import sampling_plan
from modes.building import COSINE, FREE, IMAGENET, embed, inferences, initial_state, model_of, settings_of, source_of
from modes.ranking import mode_evaluate, row
from saai_jax import ablation, train
from saai_jax.checkpoint import Checkpoints, refuse_other_run, write_config
from saai_jax.log import MetricsLog


def refuse_late_failures(config: ConfigDict, test: Index, validation: Index | None) -> None:
    """Looks at everything that the evaluation will need before hours are spent on training."""
    for setting in settings_of(config, test):
        inferences(config, setting)
    if config.eval.checkpoint not in ("last", "best"):
        raise ValueError(f"eval.checkpoint is {config.eval.checkpoint!r}, expected 'last' or 'best'")
    if config.eval.checkpoint == "best" and validation is None:
        raise ValueError("eval.checkpoint=best needs identities to choose by: add the preset 'validate'")


def mode_train(config: ConfigDict, workdir: str) -> None:
    """Trains, or goes on where the run in workdir stopped, and evaluates."""
    c, t, source, file = config, config.train, source_of(config), os.path.join(workdir, "config.json")
    splits = source.splits(c.data.images // 2)
    index, validation = splits["train"], splits.get("validation")
    refuse_late_failures(c, splits["test"], validation)
    shape = {"identities": c.data.identities, "images": c.data.images, "epochs": t.epochs, "seed": c.seed}
    plan = sampling_plan(index.identity, index.modality, **shape)
    c.model.identities = int(index.labels().max()) + 1
    model = model_of(c, c.model.identities)
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
    fresh = initial_state(c, model)
    if checkpoints.any():
        refuse_other_run(file, json.loads(c.to_json()), FREE)
    state = checkpoints.restore(fresh) or fresh
    write_config(file, json.loads(c.to_json()))
    start = int(state.step)
    if start:
        logging.info("going on after step %d of %d", start, len(plan.rows))

    def validate(variables: dict) -> dict[str, float]:
        assert validation is not None
        vector = embed(c, model, variables, validation, "validation")
        scored = row(source.validation_setting(validation), validation, vector, "cosine", COSINE)
        return {key: scored[key] for key in ("rank1", "map")}

    with MetricsLog(os.path.join(workdir, "metrics.jsonl"), start) as log:
        state = train.fit(
            state,
            source.train_batches(index, plan.rows[start:]),
            plan.epoch,
            train.learning_rate(
                plan.epoch, base=t.learning_rate, warmup=t.warmup, milestones=t.milestones, decay=t.decay
            ),
            train.teacher_rate(plan.epoch, base=t.teacher_rate),
            model=model,
            recipe=train.Recipe(**c.loss, **c.augment, weight_decay=t.weight_decay),
            seed=c.seed,
            checkpoints=checkpoints,
            log=log,
            log_every=t.log_every,
            save_every=t.save_every,
            validate=validate if validation is not None else None,
            validate_every=t.validate_every,
        )
    checkpoints.close()
    mode_evaluate(c, workdir)


def mode_ablate(config: ConfigDict, workdir: str) -> None:
    """Trains every run of the configured studies that is not finished; writes a table and a plot of each."""
    plan = ablations.plan(config)
    runs = ablations.ordered(plan)

    def file(run) -> str:
        return os.path.join(workdir, run.folder, "results.json")

    for number, run in enumerate(runs, 1):
        logging.info("run %d of %d: %s", number, len(runs), run.folder)
        if not ablation.finished(file(run), json.loads(run.config.to_json())):
            mode_train(run.config, os.path.dirname(file(run)))
    for name, points in plan.items():
        found = ablation.trained({label: [file(run) for run in of_seeds] for label, of_seeds in points.items()})
        print(ablation.write(workdir, name, found, ablations.TITLES[name]), flush=True)


def mode_prepare(config: ConfigDict, workdir: str) -> None:
    """Packs every split into array_record files below config.data.packed, or workdir/packed."""
    source, folder = source_of(config), config.data.packed or os.path.join(workdir, "packed")
    splits = source.splits(config.data.images // 2)
    collect(lambda name: source.pack(splits[name], name, folder), splits)
    logging.info("packed %s; train from it with --config.data.packed=%s", ", ".join(splits), folder)


def mode_doctor(config: ConfigDict, workdir: str) -> None:
    """Lists everything that is wrong with the data set on disk; exits with 1 if anything is that stops training."""
    del workdir
    source = source_of(config)
    found = source.examine()
    print("\n".join(found) if found else f"{source.root}: nothing wrong was found")
    if any(not line.startswith("warning:") for line in found):
        sys.exit(1)
