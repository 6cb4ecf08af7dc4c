"""The jitted training step against plain torch's: python -m benchmarks.train_step [section ...] [--repeats N]

Sections: small (the network and pictures of configs/synthetic.py), resnet50 (configs/sysu.py: ResNet-50 with MAM on
288 x 144; batches of 80 and 128 on a GPU, of 8 on a CPU); both by default. A step is augmentation, forward, backward,
Adam and the teachers, from a batch that lies on the device; ours also leaves out what is not finite. Each library has
a process of its own, as it has where it is used: in one, the threads of either slow the other's. They take turns,
--steps steps of every form in each after an uncounted one; times are medians of N turns, ratios of each turn's. CPU s:
the processor's seconds a step, which others on the machine lengthen less. Operations: what XLA counts in our step as
traced; the matmul's speed that they are held against is the best of the same turns. Memory: on a GPU a form's peak, on
a CPU what XLA plans for temporaries. Torch is an extra: pip install -e '.[bench]'; without it there are no rows for it.
On a GPU float32 products are TensorFloat-32's in both.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
from concurrent.futures import Executor

import jax
import numpy as np

from benchmarks import steps
from benchmarks import torch_affinity as plain
from benchmarks.input import table
from benchmarks.steps import Form, on_gpu

MIB = 1 << 20
STEPS = {"small": 30, "resnet50": 3}  # of a turn
Held = tuple[Form, Executor]  # and the process that has it


def attempt(process: Executor, name: str, size: int, *how) -> list[Held]:
    """Torch's form in that process, or none and a line that says why."""
    try:
        return [(process.submit(steps.torchs, name, size, *how).result(), process)]
    except Exception as error:  # a compiler that is not there, memory that does not suffice
        why = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        print(f"{steps.title(*how)}: not measured: {why}", flush=True)
        return []


def forms_of(name: str, size: int, here: Executor, torchs: Executor | None, compiled: bool) -> list[Held]:
    """Every form that there is here, compiled torch if wanted."""
    # In the order of the memory they need: jax gives a GPU's peak since the process began.
    dtypes = ("bfloat16", "float32") if on_gpu() else ("float32",)
    made = [(here.submit(steps.ours, name, size, dtype).result(), here) for dtype in dtypes]
    for dtype in ("float32", "bfloat16", "float16")[: 3 if on_gpu() else 1] if torchs else ():
        for wrapped, last in itertools.product((False, True)[: 1 + compiled], (False, True)):
            made += attempt(torchs, name, size, dtype, last, wrapped)
    return made


def turns(forms: list[Held], repeats: int, count: int) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Seconds and processor seconds of a step, both f[repeat form], and a large product's best speed by dtype, in 1/s.

    The products take their turns too: a machine that others use is not the same from one minute to the next.
    """
    seconds, busy = np.zeros((2, repeats, len(forms)))
    n = 8192 if on_gpu() else 1536
    pairs = {(form.dtype, "jax" if form.name.startswith("ours") else "torch"): process for form, process in forms}
    calls = [
        (dtype, process, process.submit(steps.product, library, dtype, n).result())
        for (dtype, library), process in pairs.items()
    ]
    best = {dtype: float("inf") for dtype, *_ in calls}
    for i in range(repeats):
        for j, (form, process) in enumerate(forms):
            seconds[i, j], busy[i, j] = process.submit(steps.turn, form.name, count).result()
        for dtype, process, name in calls:
            best[dtype] = min(best[dtype], process.submit(steps.turn, name).result()[0])
    return seconds, busy, {dtype: 2 * n**3 / spent for dtype, spent in best.items()}


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


def measure(name: str, size: int, with_torch: bool, args: argparse.Namespace) -> None:
    """Prints the table of a network on batches of a size."""
    data = steps.NETWORKS[name]().data
    print(f"\n{name}: batch {size} of {data.height} x {data.width}\n", flush=True)
    with steps.process() as here, steps.process("cpu") if with_torch else contextlib.nullcontext() as torchs:
        forms = forms_of(name, size, here, torchs, not args.no_compile)
        seconds, busy, speed = turns(forms, args.repeats, args.steps or STEPS[name])
    operations = next(form.operations for form, _ in reversed(forms) if form.operations)  # as traced in float32
    print(table(rows_of([form for form, _ in forms], seconds, busy, speed, operations, size)), end="\n\n")
    best = ", ".join(f"{x / 1e9:.0f} GFLOP/s in {dtype}" for dtype, x in speed.items())
    print(f"{operations / 1e9:.1f} GFLOP a step; matmul {best}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description=about)
    parser.add_argument("section", nargs="*", help=", ".join(steps.NETWORKS))
    parser.add_argument("--repeats", type=int, default=7, help="turns whose median is printed")
    parser.add_argument(
        "--steps", type=int, help="steps of a form in each turn; 30 or 3 by default, for a second or more"
    )
    parser.add_argument("--batch", type=int, action="append", help="another size, in pictures; may be given again")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile, which takes minutes")
    args = parser.parse_args(arguments)
    if unknown := sorted(set(args.section) - set(steps.NETWORKS)):
        parser.error(f"unknown section {unknown[0]!r}, expected some of {', '.join(steps.NETWORKS)}")
    torch = plain.load_torch()
    other = f"torch {torch.__version__}, {torch.get_num_threads()} threads" if torch else plain.ABSENT
    print(f"{os.cpu_count()} CPU cores; jax {jax.__version__} on {jax.devices()[0].device_kind}; {other}")
    if not on_gpu():
        print("no GPU: small batches, no half precision", flush=True)
    if torch and on_gpu() != torch.cuda.is_available():
        print("torch: not measured: it computes on another device than jax", flush=True)
        torch = None
    for name in args.section or steps.NETWORKS:
        for size in args.batch or {"small": [64], "resnet50": [80, 128] if on_gpu() else [8]}[name]:
            measure(name, size, bool(torch), args)


if __name__ == "__main__":
    main()
