"""The jitted training step against plain torch's: python -m benchmarks.train_step [section ...] [--repeats N]

Sections: small (the network and pictures of configs/synthetic.py), resnet50 (configs/sysu.py: ResNet-50 with MAM on
288 x 144; batches of 80 and 128 on a GPU, of 8 on a CPU); both by default. A step is augmentation, forward, backward,
Adam and the mean classifiers, from a batch on the device; ours also leaves out what is not finite. Each library has
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
from concurrent.futures import Executor

import numpy as np

from benchmarks import measuring, ours, steps
from benchmarks.measuring import MIB, median
from benchmarks.steps import Form, on_gpu

STEPS = {"small": 30, "resnet50": 3}  # of a turn
Held = tuple[Form, Executor]  # and the process that has it


def forms_of(name: str, size: int, here: Executor, torchs: Executor | None, compiled: bool) -> list[Held]:
    """Every form that there is here, compiled torch if wanted; a line says why one of torch's cannot be measured."""
    # In the order of the memory they need: jax gives a GPU's peak since the process began.
    dtypes = ("bfloat16", "float32") if on_gpu() else ("float32",)
    made = [(here.submit(steps.our_form, name, size, dtype).result(), here) for dtype in dtypes]
    if not torchs:
        return made
    dtypes = ("float32", "bfloat16", "float16") if on_gpu() else ("float32",)
    for dtype, wrapped, last in itertools.product(dtypes, (False, True)[: 1 + compiled], (False, True)):
        how = dtype, last, wrapped
        try:
            made.append((torchs.submit(steps.torch_form, name, size, *how).result(), torchs))
        except Exception as error:  # a compiler that is not there, memory that does not suffice
            why = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            print(f"{steps.title(*how)}: not measured: {why}", flush=True)
    return made


def turns(forms: list[Held], repeats: int, count: int) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Seconds and processor seconds of a step, both f[repeat form], and a large product's best speed by dtype, in 1/s.

    The products take their turns too: a machine that others use is not the same from one minute to the next.
    """
    seconds, busy = np.zeros((2, repeats, len(forms)))
    n = 8192 if on_gpu() else 1536
    pairs = {(form.dtype, form.name.startswith("torch")): process for form, process in forms}
    names = [process.submit(steps.product, *pair, n).result() for pair, process in pairs.items()]
    best: dict[str, float] = {}
    for i in range(repeats):
        for j, (form, process) in enumerate(forms):
            seconds[i, j], busy[i, j] = process.submit(steps.turn, form.name, count).result()
        for name, ((dtype, _), process) in zip(names, pairs.items(), strict=True):
            speed = 2 * n**3 / process.submit(steps.turn, name).result()[0]
            best[dtype] = max(best.get(dtype, 0), speed)
    return seconds, busy, best


def measure(name: str, size: int, with_torch: bool, args: argparse.Namespace) -> None:
    """Prints the table of a network on batches of a size."""
    data = ours.configured(name).data
    with steps.process() as here, steps.process("cpu") if with_torch else contextlib.nullcontext() as torchs:
        held = forms_of(name, size, here, torchs, not args.no_compile)
        seconds, busy, speed = turns(held, args.repeats, args.steps or STEPS[name])
    forms = [form for form, _ in held]
    operations = next(form.operations for form in reversed(forms) if form.operations)  # as traced in float32
    rows = []
    for j, form in enumerate(forms):
        spent = median(seconds[:, j])
        row = {"": f"{chr(97 + j)}: {form.name}", "ms a step": 1000 * spent, "fastest": 1000 * seconds[:, j].min()}
        row |= {"CPU s": median(busy[:, j]), "images/s": size / spent}
        row |= {"% of matmul": 100 * operations / spent / speed[form.dtype]}
        row |= {f"/ {chr(97 + i)}": median(seconds[:, j] / seconds[:, i]) for i in range(len(forms))}
        row |= {"compiling s": form.compiling}
        rows.append(row | {"MiB": "not measured" if form.memory is None else form.memory // MIB})
    measuring.show(f"{name}: batch {size} of {data.height} x {data.width}", rows)
    best = ", ".join(f"{x / 1e9:.0f} GFLOP/s in {dtype}" for dtype, x in speed.items())
    print(f"\n{operations / 1e9:.1f} GFLOP a step; matmul {best}", flush=True)


def main(given: list[str] | None = None) -> None:
    options = {
        "--repeats": {"type": int, "default": 7, "help": "turns whose median is printed"},
        "--steps": {"type": int, "help": "steps of a form in each turn; 30 or 3 by default, for a second or more"},
        "--batch": {"type": int, "action": "append", "help": "another size, in pictures; may be given again"},
        "--no-compile": {"action": "store_true", "help": "without torch.compile, which takes minutes"},
    }
    args = measuring.arguments("train_step", __doc__, ours.NETWORKS, options, given)
    torch = measuring.load_torch()
    if not on_gpu():
        print("no GPU: small batches, no half precision", flush=True)
    if torch and on_gpu() != torch.cuda.is_available():
        print("torch: not measured: it computes on another device than jax", flush=True)
        torch = None
    for name in args.section:
        for size in args.batch or {"small": [64], "resnet50": [80, 128] if on_gpu() else [8]}[name]:
            measure(name, size, bool(torch), args)


if __name__ == "__main__":
    main()
