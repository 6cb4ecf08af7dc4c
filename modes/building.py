"""What every mode builds from a configuration: the data set, the system, the inferences."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from input_pipeline.index import Index, Setting
from input_pipeline.source import Source
from saai_jax import affinity, parallel, train
from saai_jax.checkpoint import ANEW, CheckpointError, Checkpoints, read_config, refuse_other_run
from saai_jax.log import progress
from saai_jax.models import cpu
from saai_jax.ranking import evaluate
from saai_jax.systems import MARKS, SYSTEMS
from saai_jax.systems.system import PRECISIONS, System, Tree, at_precision
from saai_jax.weights import names
from saai_jax.weights.pth import WeightsError, read_pth

# What may change when a run goes on, because it does not change what is learned: where files are, what is reported.
FREE = ("inference", "eval.", "aim.", "sim.", "k_reciprocal.")
FREE += ("data.root", "data.split_dir", "data.packed", "data.resized", "data.threads", "data.workers", "data.verify")
FREE += ("on_nonfinite", "train.log_every", "train.save_every", "train.validate_every")
FREE += ("model.weights", "model.identities", "model.remat", "data.query_list", "data.gallery_list", "data.rule")
# What may also differ when a trained run is evaluated.
TRAINED_FREE = (*FREE, "seed", "train.", "loss.", "augment.", "data.identities", "data.images", "data.published")
TRAINED_FREE += ("model.mirror", "model.precision", "data.skip_incomplete", "data.sampler")

IMAGENET = "https://download.pytorch.org/models/resnet50-19c8e357.pth"


def source_of(config: ConfigDict) -> Source:
    """The configured data set; a synthetic one without a root has a folder of its own in data/."""
    d = config.data
    options = {k: v for k, v in d.items() if k not in ("sampler", "identities", "images", "verify")}
    if d.synthetic and not d.root:
        options["root"] = os.path.join("data", f"synthetic-{config.dataset}-{d.synthetic}-{d.synthetic_seed}")
    return Source(config.dataset, **options)


def splits_of(config: ConfigDict) -> dict[str, Index]:
    """Every split that a run reads, by name; `Source.splits` of what the configured sampler can use."""
    return source_of(config).splits(config.data.sampler, config.data.images)


# The loop takes these fields of config.train; the system takes the rest, config.model, config.loss and config.augment.
LOOP = ("epochs", "learning_rate", "warmup", "milestones", "decay", "log_every", "save_every", "validate_every")


def system_of(config: ConfigDict, identities: int, platform: str | None = None) -> System:
    """The configured system for so many training identities; the same arguments give the same one.

    platform: cpu, gpu or tpu, that the network will run on; JAX's own by default. Raises ValueError for a system that
    is not known or cannot be built.
    """
    if config.system not in SYSTEMS:
        raise ValueError(f"system is {config.system!r}, expected one of {', '.join(SYSTEMS)}")
    own = {"weights": None}
    for part in (config.model, config.loss, config.augment, config.train):
        mine = {key: value for key, value in part.items() if key not in LOOP}
        if twice := (own.keys() - {"weights"}) & mine.keys():
            raise ValueError(f"{', '.join(twice)}: a field of two of model, loss, augment and train")
        own |= mine
    del own["weights"]
    precision = own.pop("precision"), config.eval.precision
    own |= {"identities": identities, "size": (config.data.height, config.data.width)}
    if (platform or jax.default_backend()) == "cpu":
        wide = config.model.get("width", cpu.WINOGRAD) >= cpu.WINOGRAD
        own["convolution"] = cpu.convolution if wide else cpu.narrow_convolution
    # Lists, as a kept config.json has them, could not be told apart by the cache.
    return _built(config.system, precision, tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in own.items()))


@functools.cache  # or what is trained and then evaluated would be compiled twice
def _built(name: str, precision: tuple[str, str], own: tuple[tuple[str, Any], ...]) -> System:
    for field, value in zip(("model.precision", "eval.precision"), precision, strict=True):
        if value not in PRECISIONS:
            raise ValueError(f"{field} is {value!r}, expected one of {', '.join(PRECISIONS)}")
    return at_precision(SYSTEMS[name](**dict(own)), *precision)


def initial_state(config: ConfigDict, system: System) -> train.TrainState:
    """Step 0: drawn weights, or those that config.model.weights has. Raises WeightsError if they do not fit."""
    state = train.initial_state(system, config.seed)
    if path := config.model.weights:
        tensors = read_pth(path)
        marked = [name for name, mark in MARKS.items() if mark in tensors]
        if marked and config.system not in marked:
            of = " or ".join(marked)
            word = " or FILE:".join(marked)
            raise WeightsError(f"{path}: these tensors are of {of}; use the word {of}, --config=FILE:{word}")
        try:
            variables = names.from_torch(tensors, system, state.variables)
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from error
        state = train.new_state(system, variables.pop("params"), variables)
    # Fresh and restored states must be placed alike, or the step compiles twice.
    return parallel.replicate(state, parallel.batch_mesh())


def trained(config: ConfigDict, workdir: str, platform: str | None = None) -> tuple[System, Tree]:
    """The system and its variables to evaluate: those of the run in workdir or, without one, config.model.weights.

    platform: as for `system_of`.

    Raises CheckpointError where there is neither, for weights that the run did not start from, and for a run of another
    configuration.
    """
    folder, file = os.path.join(workdir, "checkpoints"), os.path.join(workdir, "config.json")
    weights = config.model.weights
    checkpoints = Checkpoints(folder)
    if checkpoints.steps():
        refuse_other_run(file, json.loads(config.to_json()), TRAINED_FREE)
        model = read_config(file)["model"]
        identities, started = model.get("identities"), model.get("weights")
        if type(identities) is not int or identities < 1 or not isinstance(started, str):
            what = f"model.identities {identities!r}, expected a number, and model.weights {started!r}, expected a path"
            raise CheckpointError(f"{file}: holds {what}; {ANEW}")
        if weights and weights != started:
            raise CheckpointError(f"{workdir} holds a run of its own; use another --workdir to evaluate {weights}")
        system = system_of(config, identities, platform)
        state = checkpoints.restore(initial_state(config, system), config.eval.checkpoint)
        checkpoints.close()
        if state is not None:
            logging.info("weights of step %d in %s", int(state.step), folder)
            return system, parallel.local_copy(state.variables)
    identities = names.identities_of(read_pth(weights)) if weights else None
    if identities is None:
        what = f"and {weights} is a backbone alone" if weights else "and --config.model.weights names no checkpoint"
        raise CheckpointError(f"{folder} has no checkpoint; train first ({what})")
    system = system_of(config, identities, platform)
    logging.info("weights of %s", weights)
    return system, parallel.local_copy(initial_state(config, system).variables)


def embed(config: ConfigDict, system: System, variables: Tree, index: Index, split: str) -> np.ndarray:
    """Retrieval features f32[n d] of a split, with a bar; every process computes a part and has the whole."""
    own = parallel.share(len(index))
    if own.stop == own.start:
        raise ValueError(f"{len(index)} {split} images leave none for a process, expected fewer processes")
    batches = source_of(config).eval_batches(index, split, config.eval.batch, own)
    part = embed_batches(config, system, variables, batches, own.stop - own.start, split)
    return parallel.gathered(part, len(index))


def embed_batches(
    config: ConfigDict, system: System, variables: Tree, batches: Iterable[Any], images: int, name: str
) -> np.ndarray:
    """Retrieval features f32[n d] of so many images in batches of config.eval.batch, with a bar of that name."""
    bar = progress(batches, total=-(-images // config.eval.batch), description=f"embed {name}")
    return evaluate.extract(system.embed, variables, bar)


def settings_of(config: ConfigDict, index: Index) -> list[Setting]:
    """What the configuration reports of a test set."""
    return source_of(config).settings(index, config.eval.search, config.eval.shots, config.eval.protocol)


def largest(settings: list[Setting]) -> Setting:
    """The setting whose pictures show most: the largest gallery, of SYSU-MM01 all-search multi-shot."""
    return max(settings, key=lambda s: len(s.trials[0].gallery))


class Inference(NamedTuple):
    """A distance, the same for all trials together where there is such a form, and the parameters of both."""

    distance: evaluate.Distance
    together: evaluate.TrialDistances | None
    parameters: dict[str, Any]


SGR, MNNR = {"graph": True, "mutual": False}, {"graph": False, "mutual": True}  # one of SIM's two parts
COSINE = Inference(affinity.cosine, affinity.cosine_trials, {})


def inferences(config: ConfigDict, setting: Setting) -> dict[str, Inference]:
    """The configured inferences for a setting, by name."""
    return inferences_of(config, *aim_of(config, setting))


def aim_of(config: ConfigDict, setting: Setting) -> tuple[int, int]:
    """AIM's k1 and k2 for a setting."""
    family, place = setting.protocol.split("-")[0], setting.protocol.split("-")[-1]
    return config.aim[f"sysu_{place}_{setting.shots}" if family == "sysu" else family]


def inferences_of(config: ConfigDict, k1: int, k2: int) -> dict[str, Inference]:
    """The configured inferences, by name, AIM with k1 and k2."""
    aim = {"k1": k1, "k2": k2} | {key: config.aim[key] for key in ("variant", "remove", "expand")}
    functions = {
        "cosine": (affinity.cosine, affinity.cosine_trials, {}),
        "euclidean": (affinity.euclidean, None, {}),
        "aim": (affinity.aim, affinity.aim_trials, aim),
        "sim": (affinity.sim, None, dict(config.sim)),
        "sgr": (affinity.sim, None, dict(config.sim) | SGR),
        "mnnr": (affinity.sim, None, dict(config.sim) | MNNR),
        "k_reciprocal": (affinity.k_reciprocal, None, dict(config.k_reciprocal)),
    }
    known = {
        name: Inference(
            functools.partial(distance, **how), functools.partial(together, **how) if together else None, how
        )
        for name, (distance, together, how) in functions.items()
    }
    names = [name.strip() for name in config.inference.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"inference={config.inference!r}: {unknown[0]!r} is none of {', '.join(known)}")
    return {name: known[name] for name in names}
