"""Ablations: the trainings and rankings of the configured studies, as tables and plots."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

from absl import logging
from ml_collections import ConfigDict

from configs import ablation as plans
from modes.building import MNNR, SGR, aim_of, inferences
from modes.ranking import extract, read_features
from modes.training import train
from saai_jax.features import Features
from saai_jax.ranking import ablation


def ablate(
    config: ConfigDict, workdir: str, *, features: Sequence[str] | None = None, accept_changes: bool = False
) -> None:
    """Runs every training of the configured studies that is not finished; writes a table and a plot of each study.

    features: files that studies of the inference rank, instead of the features of the unchanged training; for the study
    of carriers NAME=FILE, which stand for its trainings.
    """
    names = plans.named(config)
    of_inference = [name for name in names if name in plans.INFERENCES]
    if features and names == ["carriers"] and all("=" in part for part in features):
        found = carried(config, dict(part.split("=", 1) for part in features))
        print(ablation.write(workdir, "carriers", found, plans.TITLES["carriers"]), flush=True)
        return
    if features and (not of_inference or any("=" in part for part in features)):
        raise ValueError(
            f"--features={','.join(features)} does not fit the studies {', '.join(names)}: expected FILE for "
            f"{', '.join(plans.INFERENCES)}, NAME=FILE,NAME=FILE for carriers alone"
        )
    trainings = plans.plan(config)
    own = plans.run(config, {})
    runs = plans.ordered(trainings)
    if of_inference and not features and own.folder not in {run.folder for run in runs}:
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
    if not of_inference:
        return
    if not features:
        folder = os.path.dirname(file(own))
        extract(own.config, folder)
        features = [os.path.join(folder, "features-test.npz")]
    index, embedding, settings = read_features(config, features)
    kept = Features(embedding, index.identity, index.camera, index.modality, index.path)
    for name in of_inference:
        found = []
        for setting in settings:
            found += ablation.study({"": kept}, [setting], studied(config, name, *aim_of(config, setting)))
        print(ablation.write(workdir, name, found, plans.TITLES[name]), flush=True)


def carried(config: ConfigDict, files: Mapping[str, str]) -> list[ablation.Point]:
    """The study of carriers on features files of any program, by their names; deviations are those over the trials."""
    every, points = config.copy_and_resolve_references(), []
    every.inference = plans.RANKED
    for label, file in files.items():
        index, embedding, settings = read_features(config, [file])
        kept = {"": Features(embedding, index.identity, index.camera, index.modality, index.path)}
        for setting in settings:
            how = {name: ablation.Inference(*of[:2]) for name, of in inferences(every, setting).items()}
            found = ablation.study(kept, [setting], how)
            points += [p._replace(label=label, series=f"{p.series} {p.label}") for p in found]
    return points


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
