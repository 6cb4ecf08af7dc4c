"""The forms of a training step that benchmarks.train_step measures; a process keeps its own and runs them when told."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import ours
from benchmarks.measuring import device_peak, load_torch, measured, to_torch
from saai_jax import memory


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
    measured(_runs[name])
    start = time.process_time()
    seconds = measured(lambda: [_runs[name]() for _ in range(steps)][-1])[0]
    return seconds / steps, (time.process_time() - start) / steps


def on_gpu() -> bool:
    return jax.default_backend() == "gpu"


def our_form(name: str, size: int, dtype: str) -> Form:
    """Our step of a network on so many pictures."""
    stats = jax.local_devices()[0].memory_stats
    before = (stats() or {}).get("bytes_in_use", 0)
    config = ours.configured(name, dtype=dtype)
    state, _, lower, given = ours.step_of(config, ours.IDENTITIES[name])
    batch = jax.device_put(ours.batch_of(size, config.data.height, config.data.width))
    start = time.perf_counter()
    lowered = lower(state, batch, *given)
    step = lowered.compile()
    compiling = time.perf_counter() - start

    def run():
        nonlocal state
        state, metrics = step(state, batch, *given)
        return metrics

    jax.block_until_ready(run())
    if on_gpu():
        peak = device_peak() - before
    else:
        planned = step.memory_analysis()
        peak = planned.temp_size_in_bytes if planned else None
    _runs[f"ours, {dtype}"] = run
    # The operations as traced: what a backend makes of them may count otherwise, or not at all.
    operations = (lowered.cost_analysis() or {}).get("flops", float("nan"))
    return Form(f"ours, {dtype}", dtype, compiling, peak, operations)


def torch_form(name: str, size: int, dtype: str, channels_last: bool, compiled: bool) -> Form:
    """Plain torch's step in some form; dtype: of autocast, or float32 for none."""
    import torch

    from benchmarks import torch_saai

    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else 0
    config = ours.configured(name)
    network, layout = ours.torch_network(config, ours.IDENTITIES[name], channels_last)
    recipe = network.train().recipe
    parameters = [p for p in network.parameters() if p.requires_grad]
    # L2 in the gradient, in its fastest form.
    adam = torch.optim.Adam(parameters, ours.RATE, weight_decay=recipe.weight_decay, fused=True)
    batch = ours.batch_of(size, config.data.height, config.data.width)
    image, identity, *rows = ours.torch_batch(batch)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == "float16")
    autocast = functools.partial(torch.autocast, "cuda", getattr(torch, dtype), enabled=dtype != "float32")
    wrap = torch.compile if compiled else lambda f: f
    loss_of, augmented = wrap(network), wrap(torch_saai.augment)

    def run():
        network.move_means(ours.MEAN_RATE)
        x = augmented(image, recipe).contiguous(memory_format=layout)
        with autocast():
            loss = loss_of(x, identity, *rows)
        adam.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(adam)
        scaler.update()
        return loss.detach()

    compiling = measured(run)[0]
    form = title(dtype, channels_last, compiled)
    _runs[form] = run
    return Form(form, dtype, compiling, torch.cuda.max_memory_allocated() - before if cuda else None)


def title(dtype: str, channels_last: bool, compiled: bool) -> str:
    return ", ".join(["torch", *["compiled"] * compiled, *["channels_last"] * channels_last, dtype])


def product(dtype: str, by_torch: bool, n: int) -> str:
    """The name under which this process multiplies n x n matrices."""
    form, x = f"product, {dtype}", np.random.default_rng(0).standard_normal((n, n), np.float32)
    if by_torch:
        y = to_torch(x)[0].to(getattr(load_torch(), dtype))
        multiply = load_torch().matmul
    else:
        y, multiply = jnp.asarray(x, dtype), jax.jit(jnp.matmul)
    _runs[form] = lambda: multiply(y, y)
    return form
