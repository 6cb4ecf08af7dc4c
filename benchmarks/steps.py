"""The forms of a training step that benchmarks.train_step measures; a process keeps its own and runs them when told."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

# Torch shares the GPU, and what is measured as held is then what is needed.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import torch_affinity as plain
from configs import synthetic, sysu
from modes.building import initial_state, model_of
from saai_jax import memory, train
from saai_jax.models.saai import feature_map
from saai_jax.weights.names import to_torch_names

NETWORKS: dict[str, Callable[[], ConfigDict]] = {"small": synthetic.get_config, "resnet50": sysu.get_config}
IDENTITIES = {"small": 160, "resnet50": 395}  # that these data sets train on
RATE, FOLLOW = 3.5e-4, 0.02


class Form(NamedTuple):
    """A way to compute a step, which `turn` runs by its name in the process that made it.

    dtype: of products; compiling: seconds before the first step ends; memory: bytes, None where nothing tells;
    operations: of a step, where XLA counts them.
    """

    name: str
    dtype: str
    compiling: float
    memory: int | None
    operations: float | None = None


_runs: dict[str, Callable[[], Any]] = {}  # of this process: a step of each form, and products


def process(platforms: str | None = None) -> Executor:
    """A new process that does what it is given, one thing after the other; jax has such platforms there, or all.

    It holds its memory as launch.py does.
    """
    return ProcessPoolExecutor(1, get_context("spawn"), _begin, (platforms,))


def _begin(platforms: str | None) -> None:
    memory.keep_freed()
    if platforms:
        jax.config.update("jax_platforms", platforms)


def turn(name: str, steps: int = 1) -> tuple[float, float]:
    """Seconds and processor seconds of one of so many steps of a form, after one that finds everything again."""
    plain.measured(_runs[name])
    start = time.process_time()
    seconds = plain.measured(lambda: [_runs[name]() for _ in range(steps)][-1])[0]
    return seconds / steps, (time.process_time() - start) / steps


def on_gpu() -> bool:
    return jax.default_backend() == "gpu"


def batch_of(size: int, height: int, width: int) -> dict[str, np.ndarray]:
    """Noise, eight pictures of an identity (or as many as there are), every other one infrared."""
    n = np.arange(size)
    image = np.random.default_rng(0).integers(0, 256, (size, height, width, 3), np.uint8)
    return {"image": image, "identity": (n // 8).astype(np.int32), "modality": ((n + 1) % 2).astype(np.int32)}


def _begun(name: str, size: int, dtype: str) -> tuple[Any, Any, train.Recipe, dict[str, np.ndarray]]:
    """Model, first state, recipe and batch of so many pictures of a network."""
    config = NETWORKS[name]()
    config.model.dtype = dtype
    model = model_of(config, IDENTITIES[name])
    recipe = train.Recipe(**config.loss, **config.augment, weight_decay=config.train.weight_decay)
    return model, initial_state(config, model), recipe, batch_of(size, config.data.height, config.data.width)


def ours(name: str, size: int, dtype: str) -> Form:
    """Our step of a network on so many pictures."""
    stats = jax.local_devices()[0].memory_stats
    before = (stats() or {}).get("bytes_in_use", 0)
    model, first, recipe, batch = _begun(name, size, dtype)
    given = jax.device_put(batch), np.float32(RATE), np.float32(FOLLOW), jax.random.key(0)
    start = time.perf_counter()
    lowered = train.train_step.lower(first, *given, model=model, recipe=recipe)
    step, state = lowered.compile(), [first]
    compiling = time.perf_counter() - start

    def run():
        state[0], metrics = step(state[0], *given)
        return metrics

    jax.block_until_ready(run())
    if on_gpu():
        peak = plain.device_peak() - before
    else:
        planned = step.memory_analysis()
        peak = planned.temp_size_in_bytes if planned else None
    form = f"ours, {dtype}"
    _runs[form] = run
    # The operations as traced: what a backend makes of them may count otherwise, or not at all.
    return Form(form, dtype, compiling, peak, (lowered.cost_analysis() or {}).get("flops", float("nan")))


def torchs(name: str, size: int, dtype: str, channels_last: bool, compiled: bool) -> Form:
    """Plain torch's step in some form; dtype: of autocast, or float32 for none."""
    import torch

    from benchmarks import torch_saai as other

    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else 0
    model, first, recipe, batch = _begun(name, size, "float32")
    weights = to_torch_names({"params": first.params, "batch_stats": first.batch_stats}, first.teacher)
    positions = int(np.prod(feature_map(model, *batch["image"].shape[1:3])))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = other.network(model, positions, recipe, weights).train().to(memory_format=layout)
    adam = other.adam(network.parameters(), RATE, recipe.weight_decay)
    image, identity = plain.to_torch(batch["image"], batch["identity"].astype(np.int64))
    rows = plain.to_torch(*(np.flatnonzero(batch["modality"] == m) for m in (0, 1)))
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == "float16")
    autocast = functools.partial(torch.autocast, "cuda", getattr(torch, dtype), enabled=dtype != "float32")
    wrap = torch.compile if compiled else lambda f: f
    loss_of, augmented = wrap(network), wrap(other.augment)

    def run():
        network.move_teachers(FOLLOW)
        x = augmented(image, recipe).contiguous(memory_format=layout)
        with autocast():
            loss = loss_of(x, identity, *rows)
        adam.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(adam)
        scaler.update()
        return loss.detach()

    compiling = plain.measured(run)[0]
    form = title(dtype, channels_last, compiled)
    _runs[form] = run
    return Form(form, dtype, compiling, torch.cuda.max_memory_allocated() - before if cuda else None)


def title(dtype: str, channels_last: bool, compiled: bool) -> str:
    return ", ".join(["torch", *["compiled"] * compiled, *["channels_last"] * channels_last, dtype])


def product(library: str, dtype: str, n: int) -> str:
    """The name under which this process multiplies n x n matrices, by jax or torch."""
    form, x = f"product, {dtype}", np.random.default_rng(0).standard_normal((n, n), np.float32)
    if library == "jax":
        multiply, y = jax.jit(jnp.matmul), jnp.asarray(x, dtype)
        _runs[form] = lambda: multiply(y, y)
    else:
        z = plain.to_torch(x)[0].to(getattr(plain.load_torch(), dtype))
        _runs[form] = lambda: z @ z
    return form
