"""Ablations: the trainings and rankings of the configured studies, as tables and plots."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

from absl import logging
from ml_collections import ConfigDict

from configs import ablation as plans
from modes.building import MNNR, SGR, aim_of
from modes.ranking import extract, read_features
from modes.training import train
from saai_jax.features import Features
from saai_jax.ranking import ablation


def ablate(
    config: ConfigDict, workdir: str, *, features: Sequence[str] | None = None, accept_changes: bool = False
) -> None:
    """Runs every training of the configured studies that is not finished; writes a table and a plot of each study.

    features: files that studies of the inference rank, instead of the features of the unchanged training.
    """
    names, trainings = plans.named(config), plans.plan(config)
    inferences = [name for name in names if name in plans.INFERENCES]
    own = plans.run(config, {})
    runs = plans.ordered(trainings)
    if inferences and not features and own.folder not in {run.folder for run in runs}:
        runs.append(own)

    def file(run: plans.Run) -> str:
        return os.path.join(workdir, run.folder, "results.json")

    for number, run in enumerate(runs, 1):
        logging.info("run %d of %d: %s", number, len(runs), run.folder)
        if not ablation.finished(file(run), json.loads(run.config.to_json())):
            train(run.config, os.path.dirname(file(run)), accept_changes=accept_changes)
    for name, points in trainings.items():
        found = ablation.trained({label: [file(run) for run in of_seeds] for label, of_seeds in points.items()})
        print(ablation.write(workdir, name, found, plans.TITLES[name]), flush=True)
    if not inferences:
        return
    if not features:
        folder = os.path.dirname(file(own))
        extract(own.config, folder)
        features = [os.path.join(folder, "features-test.npz")]
    index, embedding, settings = read_features(config, features)
    kept = Features(embedding, index.identity, index.camera, index.modality, index.path)
    for name in inferences:
        found = []
        for setting in settings:
            found += ablation.study({"": kept}, [setting], studied(config, name, *aim_of(config, setting)))
        print(ablation.write(workdir, name, found, plans.TITLES[name]), flush=True)


def studied(config: ConfigDict, name: str, k1: int, k2: int) -> Mapping[ablation.Label, ablation.Inference]:
    """The inferences that a study compares; k1 and k2 are AIM's where the study does not vary them."""
    values, sim = plans.INFERENCES[name], dict(config.sim)
    variant = config.aim.variant
    if name == "steps":
        return ablation.steps(k1=k1, k2=k2, variant=variant)
    if name == "k1":
        return ablation.over_k1(values, k2=k2, variant=variant)
    if name == "k2":
        return ablation.over_k2(values, k1=k1, variant=variant)
    if name == "sim-parts":
        # With alpha=1 and no graph, SIM is the L2 distance of the features as it takes them.
        parts = {"neither": MNNR | {"alpha": 1.0}, "SGR": SGR, "MNNR": MNNR, "both": {"graph": True, "mutual": True}}
        return {label: ablation.sim(**sim | how) for label, how in parts.items()}
    changes = {"sim-K": ("paths", "neighbours"), "sim-lambda": ("scale",), "sim-alpha": ("alpha",)}[name]
    return {value: ablation.sim(**sim | dict.fromkeys(changes, value)) for value in values}
