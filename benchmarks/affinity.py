"""Affinity inference against plain torch and numpy: python -m benchmarks.affinity [section ...] [--repeats N]

Sections: accuracy, pairs (the data sets' sizes), streamed (galleries too large for matrices; --million adds one),
kreciprocal, protocol (SYSU-MM01's four settings of ten trials); all by default. Features are random clusters, so that
nothing needs to be downloaded. Times are medians of N runs in turn in one process, after a first run that compiles and
is not counted. Torch is an extra: pip install -e '.[bench]'; without it there are no columns for it. On a GPU both run
there, in full float32, and memory is the GPU's.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measuring
from benchmarks import torch_affinity as plain
from benchmarks.features import distances, pair, sysu_test
from benchmarks.measuring import MIB, host, in_turn, load_torch, measured, proc, to_torch
from input_pipeline import sysu
from saai_jax.affinity import Gallery, agreement, aim, k_reciprocal
from saai_jax.ranking.evaluate import score_trials

LONG = 60  # seconds of a run after which it is not repeated: its compilation hardly counts
TILE = 512  # rows of the products from which large GEMMs are estimated

# Queries, gallery images, identities, k1, k2.
SIZES = {
    "SYSU single": (3803, 301, 96, 4, 1),
    "SYSU multi": (3803, 3010, 96, 20, 6),
    "RegDB": (2060, 2060, 206, 8, 2),
    "LLCM": (7000, 8500, 351, 20, 6),
}
PAIRS = [*((name, d) for d in (512, 2048) for name in SIZES), ("SYSU multi", 16384)]
STREAMED = [(1000, g, 512, "highest") for g in (20_000, 50_000, 100_000)]
STREAMED += [(1000, 20_000, 2048, "highest"), (1000, 20_000, 512, "fast")]
MILLION = (4000, 1_000_000, 512, "highest")
# Place, images of an identity and camera, k1, k2.
SETTINGS = [("all", 1, 4, 1), ("all", 10, 20, 6), ("indoor", 1, 2, 2), ("indoor", 10, 20, 6)]

gemm = jax.jit(lambda a, b: jnp.matmul(a, b.T, precision="highest"))


def accuracy(case: tuple[int, int, int], _) -> dict:
    """Largest errors against the same formula in float64."""
    query, gallery = pair(*case[:2], 40, case[2])
    exact = plain.aim_float64(query, gallery, k1=20, k2=6)
    found = {method: aim(query, gallery, k1=20, k2=6, method=method) for method in ("dense", "sparse")}
    if load_torch():
        found["torch"] = plain.aim(*to_torch(query, gallery), k1=20, k2=6)
    row = {f"{name} error": f"{np.abs(host(x) - exact).max():.1e}" for name, x in found.items()}
    return {"size": " x ".join(map(str, case))} | row


def pairs(case: tuple[str, int], repeats: int) -> dict:
    """AIM of one size: torch, both methods of ours, and what `aim` chooses of them."""
    (name, d), (q, g, identities, k1, k2) = case, SIZES[case[0]]
    arrays = pair(q, g, identities, d)
    query, gallery = map(jnp.asarray, arrays)
    how = {"k1": k1, "k2": k2}
    # In the order of the memory they need: jax gives a GPU's peak since the process began.
    calls = {
        "sparse": lambda: aim(query, gallery, method="sparse", **how),
        "aim": lambda: aim(query, gallery, **how),
        "dense": lambda: aim(query, gallery, method="dense", **how),
        "GEMM": lambda: (gemm(query, gallery), gemm(gallery, gallery)),
    }
    if load_torch():
        tensors = to_torch(*arrays)
        calls = {"torch": lambda: plain.aim(*tensors, **how)} | calls
    seconds, memory, result = in_turn(calls, repeats)
    row = {"case": name, "size, k1/k2": f"{q} x {g} x {d}, {k1}/{k2}"} | {f"{n} s": seconds[n] for n in calls}
    row["aim/GEMM"] = seconds["aim"] / seconds["GEMM"]
    if load_torch():
        row |= {"torch/aim": seconds["torch"] / seconds["aim"]} | differences(result["torch"], result["aim"])
    return row | {f"{n} MiB": memory[n] // MIB for n in calls if n not in ("aim", "GEMM")}


def streamed(case: tuple[int, int, int, str], repeats: int) -> dict:
    """Build and search of a gallery whose matrices need not fit; torch where they do.

    GEMM s is estimated from products of 512 rows with the gallery, copy s from writing and reading every affinity once.
    """
    q, g, d, precision = case
    query, gallery = pair(q, g, g // 20, d)

    def graph(precision=precision):
        """Builds the gallery, and searches once: that makes the graph of the lists."""
        nonlocal index
        index = Gallery.build(gallery, k1=20, k2=6, precision=precision)
        return search()

    def search():
        return index.search(query, top=100)

    index = None
    seconds = {}
    for name, call in {"graph": graph, "search": search}.items():
        start = time.perf_counter()
        found = call()
        seconds[name] = time.perf_counter() - start
    # Of the whole process, features included, before anything else is in it.
    peak = measuring.device_peak() or proc("self/status", "VmHWM")
    again, matrices = seconds["graph"] < LONG, 5 * 4 * g * g  # bytes of what a dense writing holds at a time
    placed, torch = jnp.asarray(gallery), load_torch()
    calls = {"GEMM": functools.partial(gemm, jax.block_until_ready(placed[:TILE]), placed)}
    cuda = torch and torch.cuda.is_available()
    if torch and matrices < (torch.cuda.mem_get_info()[0] if cuda else proc("meminfo", "MemAvailable")):
        tensors = to_torch(query, gallery)
        calls["torch"] = lambda: plain.aim(*tensors, k1=20, k2=6).topk(100, largest=False).values
    if again:
        calls |= {"graph": graph, "search": search}
    seconds |= in_turn(calls, repeats, cold=("graph", "search"))[0]
    floor, copy = seconds["GEMM"] * (q + g) / TILE, 8 * (q + g) * g / bandwidth()
    total, torchs, note = seconds["graph"], seconds.get("torch"), None if again else "compiling included"
    if precision == "fast":
        same = agreement(graph("highest"), found)
        note = "agrees with highest: " + ", ".join(f"{name} {value:.4f}" for name, value in same.items())
    row = {"size, precision": f"{q} x {g} x {d}, {precision}"}
    row |= {"graph s": total - seconds["search"], "search s": seconds["search"], "GEMM s": floor}
    row |= {"ours/GEMM": total / floor, "copy s": copy, "ours/(GEMM+copy)": total / (floor + copy)}
    row |= {"torch s": torchs, "torch/ours": torchs / total if torchs else None, "dense MiB": matrices // MIB}
    row |= {"peak MiB": peak // MIB, "features MiB": (query.nbytes + gallery.nbytes) // MIB}
    return row | {"runs": repeats if again else 1, "note": note}


def bandwidth() -> float:
    """Bytes per second of a copy, read and written."""
    x = jnp.ones(1 << (26 if jax.default_backend() == "cpu" else 28))
    copy = jax.jit(lambda x: x + 1)
    return 2 * x.nbytes / in_turn({"copy": lambda: copy(x)}, 5)[0]["copy"]


def kreciprocal(case: tuple[str, int], repeats: int) -> dict:
    """k-reciprocal encoding of one size."""
    (name, d), (q, g, identities, *_) = case, SIZES[case[0]]
    arrays = pair(q, g, identities, d)
    query, gallery = map(jnp.asarray, arrays)
    both = jnp.concatenate([query, gallery])
    calls = {"loops": lambda: plain.k_reciprocal(*arrays), "ours": lambda: k_reciprocal(query, gallery)}
    calls["GEMM"] = lambda: gemm(both, both)
    seconds, memory, result = in_turn(calls, repeats, cold=("loops",))
    row = {"case": name, "size, k1/k2": f"{q} x {g} x {d}, 20/6"} | {f"{n} s": seconds[n] for n in calls}
    row |= {"loops/ours": seconds["loops"] / seconds["ours"], "ours/GEMM": seconds["ours"] / seconds["GEMM"]}
    row |= differences(result["loops"], result["ours"])
    return row | {f"{n} MiB": memory[n] // MIB for n in ("loops", "ours")}


def protocol(case: tuple[str, int, int, int, str, int], _) -> dict:
    """A setting and distance of SYSU-MM01's test: ours; torch's distances, and its scores by torch_affinity's loops."""
    place, shots, k1, k2, name, reference_trials = case
    embedding, identity, camera, trials = sysu_test(place, shots)
    distance, together, other = distances(name, k1, k2)
    rules = {"valid": sysu.valid, "distance": distance, "together": together, "unique_identities": True}
    ours = functools.partial(score_trials, embedding, identity, camera, trials, **rules)
    ours()  # compiles
    if load_torch():
        other(*to_torch(*(embedding[rows] for rows in trials[0])))
    seconds, scores = defaultdict(list), defaultdict(list)

    def count(name, call):
        spent, _, result = measured(call)
        seconds[name].append(spent)
        return result

    scores["ours"] = count("ours", ours)[:reference_trials]
    seconds["ours"][0] /= sysu.TRIALS
    for q, g in trials[:reference_trials] if load_torch() else []:
        matrix = host(count("torch", functools.partial(other, *to_torch(embedding[q], embedding[g]))))
        labels = (identity[q], identity[g]), (camera[q], camera[g])
        for how in ("python", "numpy"):
            scores[how].append(count(how, functools.partial(plain.score, matrix, *labels, filtering=how)))
    q, g = trials[0]
    row = {"setting": f"{place}/{shots}", "distance": name, "queries x gallery": f"{len(q)} x {len(g)}"}
    row |= {f"{of} s": float(np.mean(spent)) * sysu.TRIALS for of, spent in seconds.items()}
    row["reference trials"] = len(scores["numpy"])
    for score in ("rank1", "map", "minp"):
        means = {of: np.mean([s[score] for s in side]) for of, side in scores.items() if side}
        worst = max(abs(mean - means["ours"]) for mean in means.values())
        assert worst < 1e-2, f"{score} of {case} differs: {means}"
        row |= {score: float(means["ours"]), f"{score} diff": f"{worst:.0e}"}
    return row


def differences(a, b) -> dict[str, str]:
    """The largest, and how many exceed rounding: a near-tie decided otherwise changes a few distances by more."""
    difference = np.abs(host(a) - host(b))
    return {"max diff": f"{difference.max():.0e}", "> 1e-4": f"{(difference > 1e-4).mean():.0e}"}


def main(given: list[str] | None = None) -> None:
    sections = {f.__name__: f for f in (accuracy, pairs, streamed, kreciprocal, protocol)}
    options = {
        "--repeats": {"type": int, "default": 3, "help": "runs whose median is printed"},
        "--million": {"action": "store_true", "help": "also a gallery of a million; for a GPU"},
        "--reference-trials": {"type": int, "default": sysu.TRIALS, "help": "trials that the reference does"},
    }
    args = measuring.arguments("affinity", __doc__, sections, options, given)
    print(f"medians of {args.repeats} runs in turn, after one that compiles", flush=True)
    cases = {
        "accuracy": [(500, 800, 512)],
        "pairs": PAIRS,
        "streamed": STREAMED + [MILLION] * args.million,
        "kreciprocal": [("RegDB", 2048), ("SYSU multi", 2048)],
        "protocol": [(*setting, n, args.reference_trials) for setting in SETTINGS for n in ("cosine", "aim")],
    }
    for name in args.section:
        # Every case has a new process: its peak memory is its own, and nothing is compiled or cached.
        with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
            found = pool.map(sections[name], cases[name], itertools.repeat(args.repeats))
            rows = measuring.show(f"{name}: {sections[name].__doc__.splitlines()[0]}", found)
        if name == "streamed":
            first, last = rows[0], rows[2]
            columns = ("graph s", "search s"), ("GEMM s",)
            ours, floor = (sum(last[n] for n in names) / sum(first[n] for n in names) for names in columns)
            print(f"from 20,000 to 100,000 images: time grows {ours:.1f}-fold, the GEMM's {floor:.1f}-fold", flush=True)
        if name == "protocol" and load_torch():
            ours, torchs, *loops = (sum(row[f"{n} s"] for row in rows) for n in ("ours", "torch", "python", "numpy"))
            for how, ranking in zip(("in python", "by numpy"), loops, strict=True):
                against = f"torch and loops filtering {how} {torchs + ranking:.1f} s"
                print(f"whole: {against}, ours {ours:.1f} s, ratio {(torchs + ranking) / ours:.1f}", flush=True)


if __name__ == "__main__":
    main()
