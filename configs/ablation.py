"""The papers' ablations on any data set: one thing changed at a time, every training with several seeds.

    python launch.py --config=configs/ablation.py --mode=ablate
    python launch.py --config=configs/ablation.py:quick,losses --mode=ablate
    python launch.py --config=configs/ablation.py:sysu,losses --mode=ablate --config.data.root=/data/SYSU-MM01 \
        --config.model.weights=resnet50-19c8e357.pth
    python launch.py --config=configs/ablation.py:sysu,k1,k2 --mode=ablate --config.data.root=/data/SYSU-MM01 \
        --features=workdir/sysu-multishot/features-test.npz

A training is a folder below workdir; one that is finished is not run again, one that several studies share is run
once. Studies of the inference rank kept features: those of --features, or of the unchanged training, which is run
first; `carriers` has runs of its own. Each study leaves <study>.md, .json, .png and .svg in workdir: means and standard
deviations, of a training's study over the seeds, of an inference's over the trials.

The study `carriers` trains other systems, or ranks their features:

    python launch.py --config=configs/ablation.py:sysu,carriers --mode=ablate --config.data.root=/data/SYSU-MM01 \
        --features=AGW=agw.npz,MPANet=mpanet.npz

Some studies are of another system, whose word they need:

    python launch.py --config=configs/ablation.py:wrimnet,miim-blocks --mode=ablate

Words: a data set (synthetic if none is named; sysu, regdb, llcm) with that file's own words, the studies (all that fit
the system if none is named), and quick for a third of the epochs.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import common, llcm, regdb, synthetic, sysu

Label = str | int | float

DATASETS = {"synthetic": synthetic, "sysu": sysu, "regdb": regdb, "llcm": llcm}
NONE = {"loss.separation": 0.0, "loss.diversity": 0.0}  # L_id alone
NO_AICL = {"model.auxiliary": False, "loss.lambda2": 0.0}
STRIPES, GLOBAL = {"model.pooling": "stripes", "model.parts": 6}, {"model.pooling": "global"}
# Study -> what is changed from the configuration, by the label it has in the table and the plot. The numbers of the
# paper's axes are not in its text but for the best ones and for rho2; they are spread around those.
STUDIES: dict[str, dict[Label, dict[str, Any]]] = {
    # Table 3, and what the parts do when the other losses are kept
    "pooling": {
        "baseline: stripes, one neck, L_id": STRIPES | NONE | {"model.neck": "single"},
        "stripes, L_id": STRIPES | NONE,
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
    # LbA's: its losses, supplement Figure S6
    "alignment": {
        "L_ID": {"loss.consistency": 0.0, "loss.dense": 0.0},
        "L_ID + L_IC": {"loss.dense": 0.0},
        "L_ID + L_IC + L_DT": {},
    },
    # WRIM-Net's: MIIM and AICL, then its supplement's Tables S1 to S4
    "miim-aicl": {
        "neither": {"model.miim": ()} | NO_AICL,
        "MIIM": NO_AICL,
        "AICL": {"model.miim": ()},
        "both": {},
    },
    "miim-blocks": {
        "none": {"model.miim": ()},
        **{"+".join(map(str, blocks)): {"model.miim": blocks} for blocks in ((1,), (2,), (3,), (4,), (1, 2), (3, 4))},
        "1+2+3+4": {},
    },
    "miim-sharing": {
        "all shared": {"model.separate": ()},
        "all separate": {"model.separate": (1, 2, 3, 4)},
        "1+2 separate": {},
    },
    "miim-fusion": {
        "multiply": {"model.fusion": "multiply"},
        "add": {"model.fusion": "add"},
        "multiply by sigmoid": {},
    },
    "auxiliary": {"without": {"model.auxiliary": False}, "with": {}},
}
# The study of systems, SAAI's Table 5 and supplement Table 1: by its label the word of each, ranked by every inference.
CARRIERS = {
    "SAAI": "saai",
    "its baseline": "baseline",
    "AGW": "agw",
    "MPANet": "mpanet",
    "SIM's baseline": "sim-baseline",
}
RANKED = "cosine,aim,sim,sgr,mnnr"
# Studies of the inference: which of `saai_jax.ranking.ablation`, and the values of its axis.
INFERENCES: dict[str, tuple[Label, ...]] = {
    "steps": (),  # Table 6: AIM with neither, one or both of its steps
    "k1": (1, 2, 4, 8, 12, 20, 30, 40),  # supplement, Figure 3
    "k2": (1, 2, 4, 6, 8, 12),  # supplement, Figure 4
    "sim-K": (1, 3, 5, 7, 9, 12, 15),  # SIM, Figure 4: K, with as many neighbours
    "sim-lambda": (0.0, 0.001, 0.01, 0.1, 1.0),
    "sim-alpha": (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0),
    "sim-parts": (),  # SIM, Tables 3 and 4: neither, one or both of its parts
}
TITLES = {
    "pooling": "pooling",
    "losses": "losses",
    "lambda": "weight of L_pd (loss.diversity)",
    "parts": "prototypes p",
    "rho1": "margin ρ1 of L_cs",
    "rho2": "margin ρ2 of L_cs",
    "alignment": "losses of LbA",
    "miim-aicl": "parts of WRIM-Net",
    "miim-blocks": "stages with MIIM (model.miim)",
    "miim-sharing": "MIIM of each modality (model.separate)",
    "miim-fusion": "fusion of MIIM (model.fusion)",
    "auxiliary": "losses of stage 3 (model.auxiliary)",
    "carriers": "system",
    "steps": "steps of AIM",
    "k1": "k1 of AIM",
    "k2": "k2 of AIM",
    "sim-K": "K of SIM",
    "sim-lambda": "λ of SIM (scale)",
    "sim-alpha": "α of SIM",
    "sim-parts": "parts of SIM",
}


class Run(NamedTuple):
    """One training. folder: below the workdir, named by what it changes and by its seed."""

    folder: str
    config: ConfigDict


def get_config(argument: str | None = None):
    """The experiment of a data set, its studies and its seeds. Raises ValueError for an unknown word."""
    words = list(filter(None, (argument or "").split(",")))
    sets, studies = ([word for word in words if word in known] for known in (DATASETS, TITLES))
    own = [word for word in words if word not in (*sets, *studies, "quick")]
    # regdb and llcm are layouts of the synthetic set too, where a size or nothing else says that it is meant.
    name = sets[0] if sets else "synthetic"
    if len(sets) > 1:
        name, own = "synthetic", [*own, *(word for word in sets if word != "synthetic")]
    try:
        config = DATASETS[name].get_config(",".join(own))
    except ValueError as error:
        close = [word for word in own for word in difflib.get_close_matches(word, (*TITLES, *DATASETS, "quick"), 1)]
        hint = f" Did you mean {close[0]!r}?" if close and "Did you mean" not in str(error) else ""
        raise ValueError(f"{error} Studies are {', '.join(TITLES)}.{hint}") from None
    if config.dataset == "sysu":
        if not {"all", "indoor"} & {*own}:
            config.eval.search = "all"
        if "carriers" in studies and not {"singleshot", "multishot"} & {*own}:
            config.eval.shots = "multi"  # as both papers have it
    config.eval.baselines = False
    config.ablation = ConfigDict()
    fitting = [name for name in TITLES if not _absent(config, name)]
    config.ablation.studies = ",".join(studies or fitting)  # any of TITLES, after commas
    config.ablation.seeds = 3  # each training is repeated with so many seeds, from config.seed
    config.ablation.words = ",".join(words)  # for `carriers`, which takes other systems' words
    if "quick" in words:
        t = config.train
        t.epochs, t.warmup = max(2, round(t.epochs / 3)), max(1, round(t.warmup / 3))
        t.milestones = tuple(round(epoch / 3) for epoch in t.milestones)
    return config


def named(config: ConfigDict) -> list[str]:
    """The studies of a configuration.

    Raises ValueError for one without studies or seeds, and for a study that is unknown or of another system.
    """
    if "ablation" not in config:
        raise ValueError("the configuration has no studies: use --config=configs/ablation.py")
    names = list(dict.fromkeys(filter(None, config.ablation.studies.split(","))))
    if unknown := [name for name in names if name not in TITLES]:
        raise ValueError(f"ablation.studies: {unknown[0]!r} is none of {', '.join(TITLES)}")
    if odd := [name for name in names if _absent(config, name)]:
        fitting = [word for word in common.SYSTEMS if not _absent(common.experiment(config.dataset, word), odd[0])]
        raise ValueError(
            f"ablation.studies: {odd[0]!r} changes {_absent(config, odd[0])[0]}, which the system {config.system!r} "
            f"does not have; use a word of those that do: {', '.join(fitting)}"
        )
    if not names or config.ablation.seeds < 1:
        raise ValueError(f"ablation has {len(names)} studies and {config.ablation.seeds} seeds, expected some of both")
    return names


def _absent(config: ConfigDict, study: str) -> list[str]:
    """The fields that a study changes and the configuration's system does not have."""
    has = dict(_leaves(config))
    return [key for changes in STUDIES.get(study, {}).values() for key in changes if key not in has]


def plan(config: ConfigDict) -> dict[str, dict[Label, list[Run]]]:
    """The trainings of every training study, by its name and their label, one for each seed.

    Those of one folder are the same. Raises ValueError as `named`.
    """
    seeds = range(config.ablation.seeds) if "ablation" in config else ()
    trainings = {
        name: {label: [run(config, changes, seed) for seed in seeds] for label, changes in STUDIES[name].items()}
        for name in named(config)
        if name in STUDIES
    }
    if "carriers" in named(config):
        trainings["carriers"] = {
            label: [carrier(config, word, seed) for seed in seeds] for label, word in CARRIERS.items()
        }
    return trainings


def ordered(plan: dict[str, dict[Label, list[Run]]]) -> list[Run]:
    """Each run once, those of the first seed before those of the second: a study that is stopped has every label."""
    columns = [runs for points in plan.values() for runs in points.values()]
    return list({run.folder: run for of_one_seed in zip(*columns, strict=True) for run in of_one_seed}.values())


def run(config: ConfigDict, changes: dict[str, Any], seed: int = 0) -> Run:
    """The training of a configuration with some fields changed, of the seed-th seed."""
    new = config.copy_and_resolve_references()
    with new.unlocked():  # the command line locks what it gives
        del new["ablation"]
    before = new.copy_and_resolve_references()
    new.update_from_flattened_dict(changes)
    new.seed = config.seed + seed
    changed = [f"{key}={_get(new, key)}" for key in sorted(changes) if _get(new, key) != _get(before, key)]
    changed = [name.replace(" ", "") for name in changed]  # of tuples
    return Run(f"{','.join(changed) or 'unchanged'}/seed{new.seed}", new)


def carrier(config: ConfigDict, word: str, seed: int = 0) -> Run:
    """The training of another system's word, with what the command line has changed; all report the same settings.

    Raises ValueError for a changed field that this system does not have.
    """
    words = config.ablation.words
    before = dict(_leaves(get_config(words)))
    new = get_config(",".join([*(other for other in words.split(",") if other not in common.SYSTEMS), word]))
    new.eval, new.inference = config.eval.copy_and_resolve_references(), RANKED
    for key, value in _leaves(config):
        if value == before.get(key) or key.startswith("ablation."):
            continue
        if key not in dict(_leaves(new)):
            raise ValueError(f"{key}={value}: the study carriers trains {word}, which has no such field")
        new.update_from_flattened_dict({key: value})
    del new["ablation"]
    new.seed = config.seed + seed
    return Run(f"{word}/seed{new.seed}", new)


def _leaves(tree: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        yield from _leaves(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else [(prefix + key, value)]


def _get(config: ConfigDict, key: str) -> Any:
    for name in key.split("."):
        config = config[name]
    return config
