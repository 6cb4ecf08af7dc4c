"""What is ours in the benchmarks: step, features and weights of a configuration. What measures them names no model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.measuring import to_torch as tensors
from configs import synthetic, sysu
from modes.building import initial_state, system_of
from saai_jax import train
from saai_jax.ranking.evaluate import extract
from saai_jax.systems.system import System
from saai_jax.weights.names import to_torch

NETWORKS: dict[str, Callable[[], Any]] = {"small": synthetic.get_config, "resnet50": sysu.get_config}
IDENTITIES = {"small": 160, "resnet50": 395}  # that these data sets train on
RATE, MEAN_RATE = 3.5e-4, 0.02  # the learning rate, and that of the mean classifiers in epoch 0


class Step(NamedTuple):
    """state: the first one; run(state, batch, *given) -> state, metrics, in the same memory; lower: run, traced."""

    state: train.TrainState
    run: Callable
    lower: Callable
    given: tuple


def configured(name: str, height: int | None = None, dtype: str = "float32") -> Any:
    """The configuration of a network, for pictures twice as high as wide, in pixels; None: those it has."""
    config = NETWORKS[name]()
    config.model.dtype = dtype
    if height:
        config.data.height, config.data.width = height, height // 2
    return config


def batch_of(size: int, height: int, width: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Noise, eight pictures of an identity (or as many as there are), every other one infrared."""
    n = np.arange(size)
    image = np.random.default_rng(seed).integers(0, 256, (size, height, width, 3), np.uint8)
    return {"image": image, "identity": (n // 8).astype(np.int32), "modality": ((n + 1) % 2).astype(np.int32)}


def begun(config: Any, identities: int) -> tuple[System, train.TrainState]:
    """The system of a configuration for so many identities, and its first state."""
    system = system_of(config, identities)
    return system, initial_state(config, system)


def step_of(config: Any, identities: int) -> Step:
    """Our jitted step of a configuration's system for so many identities."""
    system, state = begun(config, identities)
    run, lower = (functools.partial(f, system=system) for f in (train.train_step, train.train_step.lower))
    return Step(state, run, lower, (np.float32(RATE), np.int32(0), jax.random.key(0)))


def features_of(config: Any, identities: int) -> Callable[[Iterable], np.ndarray]:
    """A function that gives the retrieval features f32[n d] of batches, by first weights."""
    system, state = begun(config, identities)
    return functools.partial(extract, system.embed, state.variables)


def recipe_of(config: Any) -> SimpleNamespace:
    """The numbers of a step that the torch network takes."""
    return SimpleNamespace(**config.loss, **config.augment, weight_decay=config.train.weight_decay)


def torch_network(config: Any, identities: int, channels_last: bool) -> tuple[Any, Any]:
    """The same first weights in a plain torch network where torch computes, and the layout of its pictures."""
    import torch

    from benchmarks import torch_saai

    system, state = begun(config, identities)
    model = SimpleNamespace(**{**config.model, "identities": identities})
    layout = torch.channels_last if channels_last else torch.contiguous_format
    made = torch_saai.network(model, recipe_of(config), to_torch(system, state.variables))
    return made.to(memory_format=layout), layout


def torch_batch(batch: dict[str, np.ndarray]) -> list:
    """image u8[b h w 3], identity i64[b] and the rows of either modality, as tensors where torch computes."""
    rows = (np.flatnonzero(batch["modality"] == m) for m in (0, 1))
    return tensors(batch["image"], batch["identity"].astype(np.int64), *rows)
