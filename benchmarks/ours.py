"""What is ours in the benchmarks: step, features and weights of a configuration. What measures them names no model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.measuring import to_torch
from configs import synthetic, sysu
from modes.building import initial_state, model_of
from saai_jax import train
from saai_jax.models.saai import SAAI
from saai_jax.ranking.evaluate import extract
from saai_jax.state import TrainState, adam_l2, new_state
from saai_jax.weights.names import to_torch_names

NETWORKS: dict[str, Callable[[], Any]] = {"small": synthetic.get_config, "resnet50": sysu.get_config}
IDENTITIES = {"small": 160, "resnet50": 395}  # that these data sets train on
RATE, FOLLOW = 3.5e-4, 0.02


class Step(NamedTuple):
    """state: the first one; run(state, batch, *given) -> state, metrics, in the same memory; lower: run, traced."""

    state: TrainState
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


def _begun(config: Any, identities: int) -> tuple[SAAI, TrainState, train.Recipe]:
    model = model_of(config, identities)
    recipe = train.Recipe(**config.loss, **config.augment, weight_decay=config.train.weight_decay)
    return model, initial_state(config, model), recipe


def step_of(config: Any, identities: int) -> Step:
    """Our jitted step of a configuration's network for so many identities."""
    model, state, recipe = _begun(config, identities)
    run, lower = (functools.partial(f, model=model, recipe=recipe) for f in (train.train_step, train.train_step.lower))
    return Step(state, run, lower, (np.float32(RATE), np.float32(FOLLOW), jax.random.key(0)))


def features_of(config: Any, identities: int) -> Callable[[Iterable], np.ndarray]:
    """A function that gives the retrieval features f32[n d] of batches, by first weights."""
    model, state, _ = _begun(config, identities)
    return functools.partial(extract, model, {"params": state.params, "batch_stats": state.batch_stats})


def torch_network(config: Any, identities: int, channels_last: bool) -> tuple[Any, Any]:
    """The same first weights in a plain torch network where torch computes, and the layout of its pictures."""
    import torch

    from benchmarks import torch_saai

    model, state, recipe = _begun(config, identities)
    weights = to_torch_names({"params": state.params, "batch_stats": state.batch_stats}, state.teacher)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch_saai.network(model, recipe, weights).to(memory_format=layout), layout


def torch_batch(batch: dict[str, np.ndarray]) -> list:
    """image u8[b h w 3], identity i64[b] and the rows of either modality, as tensors where torch computes."""
    rows = (np.flatnonzero(batch["modality"] == m) for m in (0, 1))
    return to_torch(batch["image"], batch["identity"].astype(np.int64), *rows)


def released(identities: int, mam: tuple[int, ...]) -> SAAI:
    """The released network, with modality attention after some stages."""
    return SAAI(identities, mam=mam)


def losses(model: SAAI, variables: dict, batches: Iterable[tuple]) -> list[float]:
    """Total loss of a step on each (image f32[b h w 3], identity i[b], modality i[b]), taken as it is."""
    step = jax.jit(train.update, static_argnames=("model", "recipe"))
    rate, follow = np.float32(3.5e-4), np.float32(0.2)
    state, found = new_state(variables, adam_l2(5e-4)), []
    for batch in batches:
        state, metrics = step(state, *batch, rate, follow, model=model, recipe=train.Recipe())
        found.append(float(metrics["loss"]))
    return found
