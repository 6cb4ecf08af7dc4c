"""The paper's training ablations on the synthetic set: one thing changed at a time, every run with several seeds.

    python launch.py --config=configs/ablation.py --mode=ablate
    python launch.py --config=configs/ablation.py:quick,losses --mode=ablate

A run is a folder below workdir; one that is finished is not run again, one that several studies share is run once.
Each study leaves <study>.md, .json, .png and .svg in workdir, with means and standard deviations over the seeds.

Words: the studies (all if none is named), quick for a third of the epochs, tiny, small or large for the set.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import common, synthetic

Label = str | int | float

NONE = {"loss.separation": 0.0, "loss.diversity": 0.0}  # L_id alone
STRIPES, GLOBAL = {"model.pooling": "stripes", "model.parts": 6}, {"model.pooling": "global"}
# Study -> what is changed from the configuration, by the label it has in the table and the plot. The numbers of the
# paper's axes are not in its text but for the best ones and for rho2; they are spread around those.
STUDIES: dict[str, dict[Label, dict[str, Any]]] = {
    # Table 3, whose baseline has no loss but L_id, and what the parts do when the other losses are kept
    "pooling": {
        "stripes, L_id (baseline)": STRIPES | NONE,
        "stripes, all losses": STRIPES,
        "global, all losses": GLOBAL,
        "SAFL, all losses": {},
    },
    # Table 4
    "losses": {
        "L_id": NONE,
        "L_id + L_pd": {"loss.separation": 0.0},
        "L_id + L_cs": {"loss.diversity": 0.0},
        "L_id + L_pd + L_cs": {},
    },
    "lambda": {value: {"loss.diversity": value} for value in (0.0, 0.125, 0.25, 0.5, 1.0)},  # Figure 3
    "parts": {number: {"model.parts": number} for number in (1, 3, 5, 7, 9)},  # Figure 4
    "rho1": {value: {"loss.rho1": value} for value in (0.0, 0.001, 0.01, 0.1, 1.0)},  # supplement, Figure 1
    "rho2": {value: {"loss.rho2": value} for value in (0.1, 0.3, 0.5, 0.7, 0.9)},  # supplement, Figure 2
}
TITLES = {
    "pooling": "pooling",
    "losses": "losses",
    "lambda": "weight of L_pd (loss.diversity)",
    "parts": "prototypes p",
    "rho1": "margin ρ1 of L_cs",
    "rho2": "margin ρ2 of L_cs",
}


class Run(NamedTuple):
    """One training. folder: below the workdir, named by what it changes and by its seed."""

    folder: str
    config: ConfigDict


def study(name: str) -> common.Preset:
    """A preset that runs a study, with others that are named before it."""

    def preset(config):
        named = config.ablation.studies
        config.ablation.studies = name if named == ",".join(STUDIES) else f"{named},{name}"

    return preset


def quick(config) -> None:
    """A third of the epochs, the rate falling in proportion: differences are there, the last points are not."""
    t = config.train
    t.epochs, t.warmup, t.milestones = 8, 1, (5, 7)


PRESETS = {"quick": quick} | {name: synthetic.PRESETS[name] for name in ("tiny", "small", "large")}
PRESETS |= {name: study(name) for name in STUDIES}


def get_config(argument: str | None = None):
    """The synthetic experiment, its studies and its seeds, with the presets of the argument."""
    config = synthetic.get_config()
    config.eval.search, config.eval.baselines = "all", False
    config.ablation = a = ConfigDict()
    a.studies = ",".join(STUDIES)  # any of STUDIES, comma-separated
    a.seeds = 3  # each run is repeated with so many seeds, from config.seed
    common.apply(config, argument, PRESETS)
    return config


def plan(config: ConfigDict) -> dict[str, dict[Label, list[Run]]]:
    """The runs of every study, by its name and their label, one for each seed; runs of one folder are the same run.

    Raises ValueError for a configuration without studies or seeds, and an unknown study.
    """
    if "ablation" not in config:
        raise ValueError("the configuration has no studies: use --config=configs/ablation.py")
    names = list(dict.fromkeys(filter(None, config.ablation.studies.split(","))))
    if unknown := [name for name in names if name not in STUDIES]:
        raise ValueError(f"ablation.studies: {unknown[0]!r} is none of {', '.join(STUDIES)}")
    if not names or config.ablation.seeds < 1:
        raise ValueError(f"ablation has {len(names)} studies and {config.ablation.seeds} seeds, expected some of both")
    seeds = range(config.ablation.seeds)
    return {
        name: {label: [_run(config, changes, seed) for seed in seeds] for label, changes in STUDIES[name].items()}
        for name in names
    }


def ordered(plan: dict[str, dict[Label, list[Run]]]) -> list[Run]:
    """Each run once, those of the first seed before those of the second: a study that is stopped has every label."""
    columns = [runs for points in plan.values() for runs in points.values()]
    return list({run.folder: run for of_one_seed in zip(*columns, strict=True) for run in of_one_seed}.values())


def _run(config: ConfigDict, changes: dict[str, Any], seed: int) -> Run:
    new = config.copy_and_resolve_references()
    with new.unlocked():  # the command line locks what it gives
        del new["ablation"]
    before = new.copy_and_resolve_references()
    new.update_from_flattened_dict(changes)
    new.seed = config.seed + seed
    changed = [f"{key}={_get(new, key)}" for key in sorted(changes) if _get(new, key) != _get(before, key)]
    return Run(f"{','.join(changed) or 'unchanged'}/seed{new.seed}", new)


def _get(config: ConfigDict, key: str) -> Any:
    for name in key.split("."):
        config = config[name]
    return config
