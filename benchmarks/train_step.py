"""The jitted training step against plain torch's: python -m benchmarks.train_step [section ...] [--repeats N]

Sections: small (the network and pictures of configs/synthetic.py), resnet50 (configs/sysu.py: ResNet-50 with MAM on
288 x 144; batches of 80 and 128 on a GPU, of 8 on a CPU); both by default. A step is augmentation, forward, backward,
Adam and the teachers, from a batch that lies on the device; ours also leaves out what is not finite. Times are medians
over N turns in one process, --steps steps of every form in each; ratios are medians of each turn's. CPU s: the
processor's seconds a step, which others on the machine lengthen less. Operations: what XLA counts in our step as
traced; the matmul's speed that they are held against is the best of the same turns. Memory: on a GPU a form's peak, on
a CPU what XLA plans for temporaries. Torch is an extra: pip install -e '.[bench]'; without it there are no rows for it.
On a GPU float32 products are TensorFloat-32's in both.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

# Torch shares the GPU, and what is measured as held is then what is needed.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import torch_affinity as plain
from benchmarks.input import table
from configs import synthetic, sysu
from modes.building import initial_state, model_of
from saai_jax import memory, train
from saai_jax.models.saai import feature_map
from saai_jax.torch_weights import to_torch_names

MIB = 1 << 20
NETWORKS: dict[str, Callable[[], ConfigDict]] = {"small": synthetic.get_config, "resnet50": sysu.get_config}
IDENTITIES = {"small": 160, "resnet50": 395}  # that these data sets train on
RATE, FOLLOW = 3.5e-4, 0.02


class Form(NamedTuple):
    """A way to compute a step. run does a step of it; what it returns is waited for with `plain.measured`.

    dtype: of products; compiling: seconds before the first step ends; memory: bytes, None where nothing tells.
    """

    name: str
    dtype: str
    run: Callable[[], Any]
    compiling: float
    memory: int | None


def on_gpu() -> bool:
    return jax.default_backend() == "gpu"


def batch_of(size: int, height: int, width: int) -> dict[str, np.ndarray]:
    """Noise, eight pictures of an identity (or as many as there are), every other one infrared."""
    n = np.arange(size)
    image = np.random.default_rng(0).integers(0, 256, (size, height, width, 3), np.uint8)
    return {"image": image, "identity": (n // 8).astype(np.int32), "modality": ((n + 1) % 2).astype(np.int32)}


def recipe_of(config: ConfigDict) -> train.Recipe:
    return train.Recipe(**config.loss, **config.augment, weight_decay=config.train.weight_decay)


def ours(config: ConfigDict, name: str, batch: dict[str, np.ndarray], dtype: str) -> tuple[Form, float]:
    """Our step, and how many floating-point operations XLA counts in it."""
    config.model.dtype = dtype
    model = model_of(config, IDENTITIES[name])
    held, stats = jax.device_put(batch), jax.local_devices()[0].memory_stats
    before = (stats() or {}).get("bytes_in_use", 0)
    state = initial_state(config, model)
    given = held, np.float32(RATE), np.float32(FOLLOW), jax.random.key(0)
    start = time.perf_counter()
    lowered = train.train_step.lower(state, *given, model=model, recipe=recipe_of(config))
    step = lowered.compile()
    compiling = time.perf_counter() - start
    state = [state]

    def run():
        state[0], metrics = step(state[0], *given)
        return metrics

    jax.block_until_ready(run())
    # The operations as traced: what a backend makes of them may count otherwise, or not at all.
    operations = (lowered.cost_analysis() or {}).get("flops", float("nan"))
    if on_gpu():
        memory = plain.device_peak() - before
    else:
        planned = step.memory_analysis()
        memory = planned.temp_size_in_bytes if planned else None
    return Form(f"ours, {dtype}", dtype, run, compiling, memory), operations


def torchs(
    config: ConfigDict,
    name: str,
    batch: dict[str, np.ndarray],
    dtype: str = "float32",
    *,
    channels_last: bool = False,
    compiled: bool = False,
) -> Form:
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
    config.model.dtype = "float32"
    model, recipe = model_of(config, IDENTITIES[name]), recipe_of(config)
    state = initial_state(config, model)
    weights = to_torch_names({"params": state.params, "batch_stats": state.batch_stats}, state.teacher)
    positions = int(np.prod(feature_map(model, *batch["image"].shape[1:3])))
    network = other.network(model, positions, recipe, weights).train()
    network = network.to(memory_format=torch.channels_last) if channels_last else network
    adam = other.adam(network.parameters(), RATE, recipe.weight_decay)
    image, identity = plain.to_torch(batch["image"], batch["identity"].astype(np.int64))
    rows = plain.to_torch(*(np.flatnonzero(batch["modality"] == m) for m in (0, 1)))
    scaler = torch.amp.GradScaler("cuda", enabled=dtype == "float16")
    autocast = functools.partial(torch.autocast, "cuda", getattr(torch, dtype), enabled=dtype != "float32")
    wrap = torch.compile if compiled else lambda f: f
    loss_of, augmented = wrap(network), wrap(other.augment)

    def run():
        network.move_teachers(FOLLOW)
        x = augmented(image, recipe)
        x = x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        with autocast():
            loss = loss_of(x, identity, *rows)
        adam.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(adam)
        scaler.update()
        return loss.detach()

    compiling = plain.measured(run)[0]
    memory = torch.cuda.max_memory_allocated() - before if cuda else None
    return Form(title(dtype, channels_last, compiled), dtype, run, compiling, memory)


def title(dtype: str, channels_last: bool, compiled: bool) -> str:
    return ", ".join(["torch", *["compiled"] * compiled, *["channels_last"] * channels_last, dtype])


def attempt(make: Callable[[], Form], name: str) -> list[Form]:
    """The form, or none and a line that says why."""
    try:
        return [make()]
    except Exception as error:  # a compiler that is not there, memory that does not suffice
        print(f"{name}: not measured: {type(error).__name__}: {str(error).strip().splitlines()[0]}", flush=True)
        return []


def forms_of(name: str, batch: dict[str, np.ndarray], compiled: bool) -> tuple[list[Form], float]:
    """Every form that there is here, compiled torch if wanted, and the operations of a step."""
    # In the order of the memory they need: jax gives a GPU's peak since the process began.
    dtypes = ("bfloat16", "float32") if on_gpu() else ("float32",)
    made, counts = zip(*(ours(NETWORKS[name](), name, batch, dtype) for dtype in dtypes), strict=True)
    forms, torch = list(made), plain.load_torch()
    if torch and on_gpu() != torch.cuda.is_available():
        print("torch: not measured: it computes on another device than jax", flush=True)
        torch = None
    for dtype in ("float32", "bfloat16", "float16")[: 3 if on_gpu() else 1] if torch else ():
        for wrapped, last in itertools.product((False, True)[: 1 + compiled], (False, True)):
            make = functools.partial(torchs, NETWORKS[name](), name, batch, dtype, channels_last=last, compiled=wrapped)
            forms += attempt(make, title(dtype, last, wrapped))
    return forms, counts[-1]


def products(dtypes: set[str]) -> tuple[dict[str, list[Callable[[], Any]]], int]:
    """Large products in each dtype, jax's and torch's, and the operations of one."""
    n, calls = 8192 if on_gpu() else 1536, {}
    multiply = jax.jit(jnp.matmul)
    for dtype in dtypes:
        x = jax.random.normal(jax.random.key(0), (n, n)).astype(dtype)
        calls[dtype] = [lambda x=x: multiply(x, x)]
        if torch := plain.load_torch():
            y = plain.to_torch(np.array(x, np.float32))[0].to(getattr(torch, dtype))
            calls[dtype].append(lambda y=y: y @ y)
    return calls, 2 * n**3


def turns(forms: list[Form], repeats: int, steps: int) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Seconds and processor seconds of a step, both f[repeat form], and a large product's best speed by dtype, in 1/s.

    The products take their turns too: a machine that others use is not the same from one minute to the next.
    """
    seconds, busy = np.zeros((2, repeats, len(forms)))
    calls, operations = products({form.dtype for form in forms})
    best = dict.fromkeys(calls, float("inf"))
    for call in (call for each in calls.values() for call in each):
        plain.measured(call)
    for i in range(repeats):
        for j, form in enumerate(forms):
            start = time.process_time()
            seconds[i, j] = plain.measured(lambda form=form: [form.run() for _ in range(steps)][-1])[0] / steps
            busy[i, j] = (time.process_time() - start) / steps
        for dtype, spent in best.items():
            best[dtype] = min(spent, *(plain.measured(call)[0] for call in calls[dtype]))
    return seconds, busy, {dtype: operations / spent for dtype, spent in best.items()}


def rows_of(
    forms: list[Form],
    seconds: np.ndarray,
    busy: np.ndarray,
    speed: dict[str, float],
    operations: float,
    size: int,
) -> list[dict]:
    """A row for each form, from what `turns` gives; operations: of a step; size: of a batch."""
    rows = []
    for j, form in enumerate(forms):
        spent = float(np.median(seconds[:, j]))
        row = {
            "": f"{chr(97 + j)}: {form.name}",
            "ms a step": 1000 * spent,
            "fastest": 1000 * float(seconds[:, j].min()),
        }
        row |= {"CPU s": float(np.median(busy[:, j])), "images/s": size / spent}
        row |= {"% of matmul": 100 * operations / spent / speed[form.dtype]}
        row |= {f"/ {chr(97 + i)}": float(np.median(seconds[:, j] / seconds[:, i])) for i in range(len(forms))}
        row |= {"compiling s": form.compiling}
        row |= {"MiB": "not measured" if form.memory is None else str(form.memory // MIB)}
        rows.append(row)
    return rows


def main(arguments: list[str] | None = None) -> None:
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description=about)
    parser.add_argument("section", nargs="*", help=", ".join(NETWORKS))
    parser.add_argument("--repeats", type=int, default=7, help="turns whose median is printed")
    parser.add_argument("--steps", type=int, default=3, help="steps of a form in each turn")
    parser.add_argument("--batch", type=int, action="append", help="another size, in pictures; may be given again")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile, which takes minutes")
    args = parser.parse_args(arguments)
    if unknown := sorted(set(args.section) - set(NETWORKS)):
        parser.error(f"unknown section {unknown[0]!r}, expected some of {', '.join(NETWORKS)}")
    memory.keep_freed()  # as launch.py does, and for torch alike
    torch = plain.load_torch()
    other = f"torch {torch.__version__}, {torch.get_num_threads()} threads" if torch else plain.ABSENT
    print(f"{os.cpu_count()} CPU cores; jax {jax.__version__} on {jax.devices()[0].device_kind}; {other}")
    if not on_gpu():
        print("no GPU: small batches, no half precision", flush=True)
    for name in args.section or NETWORKS:
        sizes = {"small": [64], "resnet50": [80, 128] if on_gpu() else [8]}[name]
        for size in args.batch or sizes:
            config = NETWORKS[name]()
            batch = batch_of(size, config.data.height, config.data.width)
            print(f"\n{name}: batch {size} of {config.data.height} x {config.data.width}\n", flush=True)
            forms, operations = forms_of(name, batch, not args.no_compile)
            seconds, busy, speed = turns(forms, args.repeats, args.steps)
            print(table(rows_of(forms, seconds, busy, speed, operations, size)), end="\n\n")
            best = ", ".join(f"{x / 1e9:.0f} GFLOP/s in {dtype}" for dtype, x in speed.items())
            print(f"{operations / 1e9:.1f} GFLOP a step; matmul {best}", flush=True)


if __name__ == "__main__":
    main()
