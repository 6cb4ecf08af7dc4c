"""How the benchmarks measure, and print: command lines, tables, seconds and bytes of calls that take turns."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

# Torch shares the GPU, and what is measured as held is then what is needed.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import numpy as np

ABSENT = "torch: not installed (pip install -e '.[bench]')"
MIB = 1 << 20


def arguments(module: str, doc: str, sections: Iterable[str], options: dict[str, dict], given: list[str] | None):
    """The command line of a benchmark: sections (all if none is named) and options as add_argument takes them.

    Prints what computes here. Ends the program for an unknown section.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=doc.splitlines()[0])
    parser.add_argument("section", nargs="*", help=", ".join(sections))
    for name, how in options.items():
        parser.add_argument(name, **how)
    args = parser.parse_args(given)
    if unknown := sorted(set(args.section) - set(sections)):
        parser.error(f"unknown section {unknown[0]!r}, expected some of {', '.join(sections)}")
    args.section = args.section or list(sections)
    torch = load_torch()
    other = f"torch {torch.__version__}, {torch.get_num_threads()} threads" if torch else ABSENT
    print(f"{os.cpu_count()} CPU cores; jax {jax.__version__} on {jax.devices()[0].device_kind}; {other}", flush=True)
    return args


def cell(value: Any) -> str:
    """Three digits of a number below 1,000, whole ones above."""
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")


def show(title: str, rows: Iterable[dict]) -> list[dict]:
    """Prints rows with the same keys as a Markdown table, each as soon as it is there; all of them."""
    print(f"\n{title}\n", flush=True)
    shown = []
    for row in rows:
        for line in [row, ["---"] * len(row)] * (not shown) + [map(cell, row.values())]:
            print(f"| {' | '.join(line)} |", flush=True)
        shown.append(row)
    return shown


@functools.cache
def load_torch() -> Any:
    """torch, or None. Imported only where it is needed: it takes memory."""
    try:
        import torch
    except ImportError:
        return None
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch


def to_torch(*arrays: np.ndarray) -> list:
    """Tensors where torch computes."""
    device = "cuda" if load_torch().cuda.is_available() else "cpu"
    return [load_torch().from_numpy(x).to(device) for x in arrays]


def host(result: Any) -> np.ndarray:
    """An array of either library, on the host."""
    return np.asarray(result.cpu() if hasattr(result, "cpu") else result)


def proc(file: str, field: str) -> int:
    """Bytes in a field of /proc/FILE, 0 where there is none.

    Of peaks, VmHWM: what getrusage gives a new process begins at the peak of the one that started it.
    """
    try:
        return 1024 * int(Path("/proc", file).read_text().split(f"{field}:")[1].split()[0])
    except OSError:
        return 0


def device_peak() -> int:
    """The most bytes that jax has held on an accelerator since the process began; 0 on a CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


def measured(call: Callable[[], Any]) -> tuple[float, int, Any]:
    """Seconds, bytes and result of a call. Bytes: on a CPU its peak beyond what was held before, on a GPU all held."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the process's peak is now what it holds
    before = proc("self/status", "VmRSS")
    start = time.perf_counter()
    result = call()
    if cuda := getattr(result, "is_cuda", False):
        load_torch().cuda.synchronize()
    jax.block_until_ready(result)
    seconds = time.perf_counter() - start
    on_device = load_torch().cuda.max_memory_allocated() if cuda else device_peak()
    return seconds, on_device or max(proc("self/status", "VmHWM") - before, 0), result


def in_turn(calls: dict[Any, Callable[[], Any]], repeats: int, cold: tuple = ()) -> tuple[dict, dict, dict]:
    """Medians of the calls' seconds, their memory and their results, all called in turn.

    A first round is not counted; the calls of `cold`, which compile nothing, are left out of it.
    """
    first = {name: measured(call) for name, call in calls.items() if name not in cold}
    rounds = [{name: measured(call) for name, call in calls.items()} for _ in range(repeats)]
    seconds = {name: median([each[name][0] for each in rounds]) for name in calls}
    # A GPU's peak never falls, so the first round has it; on a CPU that round counts what compiling takes.
    memory = {name: x[1] for name, x in (rounds[-1] | (first if device_peak() else {})).items()}
    return seconds, memory, {name: x[2] for name, x in rounds[-1].items()}


def median(values: Any) -> float:
    return float(np.median(values))
