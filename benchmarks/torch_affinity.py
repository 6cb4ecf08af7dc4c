"""What benchmarks.affinity measures against, the formulas written plainly in torch and as numpy loops, and how.

The formulas are what one writes down from the papers with a library's own functions.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ABSENT = "torch: not installed (pip install -e '.[bench]')"


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


def host(result) -> np.ndarray:
    return np.asarray(result.cpu() if hasattr(result, "cpu") else result)


def proc(file: str, field: str) -> int:
    """Bytes in a field of /proc/FILE, 0 where there is none.

    Of peaks, VmHWM: what getrusage gives a new process begins at the peak of the one that started it.
    """
    try:
        return 1024 * int(Path("/proc", file).read_text().split(f"{field}:")[1].split()[0])
    except OSError:
        return 0


def differences(a, b) -> dict[str, str]:
    """The largest, and how many exceed rounding: a near-tie decided otherwise changes a few distances by more."""
    difference = np.abs(host(a) - host(b))
    return {"max diff": f"{difference.max():.0e}", "> 1e-4": f"{(difference > 1e-4).mean():.0e}"}


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


def in_turn(calls: dict[str, Callable[[], Any]], repeats: int, cold: tuple[str, ...] = ()) -> tuple[dict, dict, dict]:
    """Medians of the calls' seconds, their memory and their results, all called in turn.

    A first round is not counted; the calls of `cold`, which compile nothing, are left out of it.
    """
    first = {name: measured(call) for name, call in calls.items() if name not in cold}
    rounds = [{name: measured(call) for name, call in calls.items()} for _ in range(repeats)]
    seconds = {name: float(np.median([each[name][0] for each in rounds])) for name in calls}
    # A GPU's peak never falls, so the first round has it; on a CPU that round counts what compiling takes.
    memory = {name: x[1] for name, x in (rounds[-1] | (first if device_peak() else {})).items()}
    return seconds, memory, {name: x[2] for name, x in rounds[-1].items()}


gemm = jax.jit(lambda a, b: jnp.matmul(a, b.T, precision="highest"))


def bandwidth() -> float:
    """Bytes per second of a copy, read and written."""
    x = jnp.ones(1 << (26 if jax.default_backend() == "cpu" else 28))
    copy = jax.jit(lambda x: x + 1)
    return 2 * x.nbytes / in_turn({"copy": lambda: copy(x)}, 5)[0]["copy"]


def clusters(identity: np.ndarray, infrared: np.ndarray, d: int, noise: float = 1.0) -> np.ndarray:
    """f32[n d]: a random centre for every identity plus noise, and a shift common to infrared images."""
    rng = np.random.default_rng(0)
    centre, shift = (rng.standard_normal((n, d), np.float32) for n in (identity.max() + 1, 1))
    rows = np.empty((len(identity), d), np.float32)
    for start in range(0, len(rows), 4096):  # in parts, as the peak memory that is printed counts this too
        part = slice(start, start + 4096)
        rows[part] = centre[identity[part]] + infrared[part, None] * shift
        rows[part] += np.float32(noise) * rng.standard_normal(rows[part].shape, np.float32)
    return rows


def pair(q: int, g: int, identities: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Infrared queries and a visible gallery, all identities about equally often in both."""
    n = np.arange(q + g)
    rows = clusters(np.where(n < q, n, n - q) % identities, n < q, d)
    return rows[:q], rows[q:]


def say(row: dict, heading: bool) -> None:
    """A line of a table, under the names of its columns the first time."""
    if heading:
        print(*(f"{n:>{width(n, x)}}" for n, x in row.items()), sep="  ")
    texts = ("-" if x is None else f"{x:.3f}" if isinstance(x, float) else f"{x}" for x in row.values())
    print(*(f"{text:>{width(n, x)}}" for text, (n, x) in zip(texts, row.items(), strict=True)), sep="  ", flush=True)


def width(name: str, value) -> int:
    return {"case": 11, "size, k1/k2": 25, "size, precision": 27}.get(name, max(len(name), 8))


def alone(function, *given) -> dict:
    """The function's result from a new process: its peak memory is its own, and nothing is compiled or cached."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *given).result()


def _unit(x):
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)


def cosine(query, gallery):
    """1 - cosine similarity of torch tensors f32[q d], f32[g d]."""
    return 1 - _unit(query) @ _unit(gallery).T


def aim(query, gallery, *, k1: int, k2: int):
    """AIM as released, on torch tensors f32[q d], f32[g d], with whole matrices."""
    query, gallery = _unit(query), _unit(gallery)
    query_gallery, gallery_gallery = query @ gallery.T, gallery @ gallery.T

    def strongest(affinity):
        return affinity.masked_fill(affinity < affinity.topk(k1).values[:, -1:], 0)

    kept = strongest(gallery_gallery)
    neighbours = gallery_gallery.topk(k2).indices
    # One neighbour at a time: kept[neighbours].mean(1) holds k2 matrices and takes longer.
    expanded = kept[neighbours[:, 0]]
    for i in range(1, k2):
        expanded += kept[neighbours[:, i]]
    return -(_unit(strongest(query_gallery)) @ _unit(expanded / k2).T) - query_gallery


def aim_float64(query: np.ndarray, gallery: np.ndarray, *, k1: int, k2: int) -> np.ndarray:
    """The same in float64 numpy, to measure errors against."""

    def unit(x):
        return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)

    def strongest(affinity):
        return np.where(affinity >= np.sort(affinity, axis=1)[:, -k1, None], affinity, 0)

    query, gallery = unit(query.astype(np.float64)), unit(gallery.astype(np.float64))
    query_gallery, gallery_gallery = query @ gallery.T, gallery @ gallery.T
    neighbours = np.argsort(-gallery_gallery, axis=1, kind="stable")[:, :k2]
    expanded = strongest(gallery_gallery)[neighbours].mean(1)
    return -unit(strongest(query_gallery)) @ unit(expanded).T - query_gallery


def score(distance: np.ndarray, identity: tuple, camera: tuple, *, filtering: str) -> dict[str, float]:
    """SYSU-MM01's scores in percent, one query after the other; identity, camera: of queries and of gallery.

    A query of camera 3 skips gallery images of camera 2; the CMC counts every identity once, where it is first met;
    queries without a match are left out. filtering: how skipped images leave a query's list, by "numpy", or item by
    item in "python" in each of the two passes, as the evaluation code does that the papers of this field share.
    """
    ranks, precisions, penalties = [], [], []
    order = np.argsort(distance, axis=1)

    def lists():
        for row, own, place in zip(order, identity[0], camera[0], strict=True):
            found = np.where((camera[1][row] == 2) & (place == 3), -1, identity[1][row])
            found = found[found >= 0] if filtering == "numpy" else np.array([name for name in found if name >= 0])
            if own in found:
                yield own, found

    for own, found in lists():
        names, first = np.unique(found, return_index=True)
        ranks.append(np.flatnonzero(names[np.argsort(first)] == own)[0])
    for own, found in lists():
        places = np.flatnonzero(found == own) + 1
        precisions.append((np.arange(1, len(places) + 1) / places).mean())
        penalties.append(len(places) / places[-1])
    means = {"rank1": np.array(ranks) < 1, "map": precisions, "minp": penalties}
    return {name: 100 * float(np.mean(values)) for name, values in means.items()}


def k_reciprocal(query: np.ndarray, gallery: np.ndarray, *, k1: int = 20, k2: int = 6, weight: float = 0.3):
    """k-reciprocal encoding (Zhong et al., CVPR 2017) by loops over images, f32[q g], as their code has it:

    distances over each image's largest, weights over their sum, more than two thirds for the half sets.
    """
    rows = np.concatenate([query, gallery])
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    distance = np.maximum(2 - 2 * rows @ rows.T, 0)
    np.fill_diagonal(distance, 0)
    distance /= distance.max(1, keepdims=True)
    order = np.argsort(distance, axis=1)[:, : max(k1 + 1, k2)]

    def reciprocal(i, k):
        listed = order[i, : k + 1]
        return listed[(order[listed, : k + 1] == i).any(1)]

    encoding = np.zeros_like(distance)
    for i in range(len(rows)):
        members = own = reciprocal(i, k1)
        for j in own:
            half = reciprocal(j, round(k1 / 2))
            if 3 * len(np.intersect1d(half, own)) > 2 * len(half):
                members = np.append(members, half)
        members = np.unique(members)
        weights = np.exp(-distance[i, members])
        encoding[i, members] = weights / weights.sum()
    encoding = np.stack([encoding[nearest].mean(0) for nearest in order[:, :k2]])

    of_gallery = encoding[len(query) :]
    holders = [np.flatnonzero(column) for column in of_gallery.T]
    jaccard = np.empty((len(query), len(gallery)), np.float32)
    for i in range(len(query)):
        least = np.zeros(len(gallery), np.float32)
        for j in np.flatnonzero(encoding[i]):
            least[holders[j]] += np.minimum(encoding[i, j], of_gallery[holders[j], j])
        jaccard[i] = 1 - least / (2 - least)  # rows sum to 1: sums of maxima are 2 less those of minima
    return (1 - weight) * jaccard + weight * distance[: len(query), len(query) :]
