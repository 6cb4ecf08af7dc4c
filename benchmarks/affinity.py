"""Affinity inference against plain torch and numpy: python -m benchmarks.affinity [section ...] [--repeats N]

Sections: accuracy, pairs (the data sets' sizes), streamed (galleries too large for matrices; --million adds one),
kreciprocal, protocol (SYSU-MM01's four settings of ten trials); all by default. Features are random clusters, so that
nothing needs to be downloaded. Times are medians of N runs in turn in one process, after a first run that compiles and
is not counted. Torch is an extra: pip install -e '.[bench]'; without it there are no columns for it. On a GPU both run
there, in full float32, and memory is the GPU's.
"""

from __future__ import annotations

import argparse
import functools
import os
import time

# Torch shares the GPU, and what is measured as held is then what is needed.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import torch_affinity as plain
from benchmarks.torch_affinity import host, in_turn, load_torch, measured, proc, to_torch
from input_pipeline import sysu
from saai_jax.affinity import Gallery, agreement, aim, aim_trials, cosine, cosine_trials, k_reciprocal
from saai_jax.ranking.evaluate import score_trials

MIB = 1 << 20
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
# Of SYSU-MM01's test set: images of a camera (as published), and its identities as a range, chosen so that the
# galleries have the published 301 and 112 images of the single-shot settings.
CAMERAS = {1: (1374, 0, 53), 2: (1565, 0, 59), 3: (1883, 0, 96), 4: (1918, 1, 96), 5: (1918, 2, 96), 6: (1920, 0, 96)}


def accuracy(case: tuple[int, int, int], _) -> dict:
    """Largest errors against the same formula in float64."""
    query, gallery = plain.pair(*case[:2], 40, case[2])
    exact = plain.aim_float64(query, gallery, k1=20, k2=6)
    found = {method: aim(query, gallery, k1=20, k2=6, method=method) for method in ("dense", "sparse")}
    if load_torch():
        found["torch"] = plain.aim(*to_torch(query, gallery), k1=20, k2=6)
    row = {f"{name} error": f"{np.abs(host(x) - exact).max():.1e}" for name, x in found.items()}
    return {"size": " x ".join(map(str, case))} | row


def pairs(case: tuple[str, int], repeats: int) -> dict:
    """AIM of one size: torch, both methods of ours, and what `aim` chooses of them."""
    (name, d), (q, g, identities, k1, k2) = case, SIZES[case[0]]
    arrays = plain.pair(q, g, identities, d)
    query, gallery = map(jnp.asarray, arrays)
    how = {"k1": k1, "k2": k2}
    # In the order of the memory they need: jax gives a GPU's peak since the process began.
    calls = {
        "sparse": lambda: aim(query, gallery, method="sparse", **how),
        "aim": lambda: aim(query, gallery, **how),
        "dense": lambda: aim(query, gallery, method="dense", **how),
        "GEMM": lambda: (plain.gemm(query, gallery), plain.gemm(gallery, gallery)),
    }
    if load_torch():
        tensors = to_torch(*arrays)
        calls = {"torch": lambda: plain.aim(*tensors, **how)} | calls
    seconds, memory, result = in_turn(calls, repeats)
    row = {"case": name, "size, k1/k2": f"{q} x {g} x {d}, {k1}/{k2}"} | {f"{n} s": seconds[n] for n in calls}
    row["aim/GEMM"] = seconds["aim"] / seconds["GEMM"]
    if load_torch():
        row |= {"torch/aim": seconds["torch"] / seconds["aim"]} | plain.differences(result["torch"], result["aim"])
    return row | {f"{n} MiB": memory[n] // MIB for n in calls if n not in ("aim", "GEMM")}


def streamed(case: tuple[int, int, int, str], repeats: int) -> dict:
    """Build and search of a gallery whose matrices need not fit; torch where they do.

    GEMM s is estimated from products of 512 rows with the gallery, copy s from writing and reading every affinity once.
    """
    q, g, d, precision = case
    query, gallery = plain.pair(q, g, g // 20, d)

    def ours(precision=precision):
        times = [time.perf_counter()]
        index = Gallery.build(gallery, k1=20, k2=6, precision=precision)
        for _ in range(2):
            times.append(time.perf_counter())
            found = index.search(query, top=100)
        build, first, search = np.diff([*times, time.perf_counter()])
        return build + first - search, search, found  # the first search makes the graph of the lists

    once = ours()
    # Of the whole process, features included, before anything else is in it.
    peak = plain.device_peak() or proc("self/status", "VmHWM")
    again = repeats if once[0] + once[1] < LONG else 0
    torch, matrices = load_torch(), 5 * 4 * g * g  # bytes of what a dense writing holds at a time
    cuda = torch and torch.cuda.is_available()
    fits = torch and matrices < (torch.cuda.mem_get_info()[0] if cuda else proc("meminfo", "MemAvailable"))
    tensors, placed = to_torch(query, gallery) if fits else (), jnp.asarray(gallery)
    tiles = [jax.block_until_ready(placed[i * TILE : (i + 1) * TILE]) for i in range(max(again, 3))]

    def other():
        return measured(lambda: plain.aim(*tensors, k1=20, k2=6).topk(100, largest=False).values)[0]

    jax.block_until_ready(plain.gemm(tiles[0], placed))
    if fits:
        other()
    runs, floors, others = [], [], []
    for i, tile in enumerate(tiles):
        floors.append(measured(lambda tile=tile: plain.gemm(tile, placed))[0] * (q + g) / TILE)
        runs += [ours()] if i < again else []
        others += [other()] if fits and i < max(again, 1) else []
    graph, search = (float(np.median([run[i] for run in runs or [once]])) for i in (0, 1))
    total, floor, copy = graph + search, float(np.median(floors)), 8 * (q + g) * g / plain.bandwidth()
    row = {"size, precision": f"{q} x {g} x {d}, {precision}", "graph s": graph, "search s": search}
    row |= {"GEMM s": floor, "ours/GEMM": total / floor, "copy s": copy, "ours/(GEMM+copy)": total / (floor + copy)}
    row |= {"torch s": float(np.median(others)) if fits else None}
    row |= {"torch/ours": row["torch s"] / total if fits else None, "dense MiB": matrices // MIB}
    row |= {"peak MiB": peak // MIB, "features MiB": (query.nbytes + gallery.nbytes) // MIB, "runs": max(again, 1)}
    if not again:
        row["note"] = "compiling included"
    if precision == "fast":
        same = agreement(ours("highest")[2], once[2])
        row["note"] = "agrees with highest: " + ", ".join(f"{name} {value:.4f}" for name, value in same.items())
    return row


def kreciprocal(case: tuple[str, int], repeats: int) -> dict:
    """k-reciprocal encoding of one size."""
    (name, d), (q, g, identities, *_) = case, SIZES[case[0]]
    arrays = plain.pair(q, g, identities, d)
    query, gallery = map(jnp.asarray, arrays)
    both = jnp.concatenate([query, gallery])
    calls = {"loops": lambda: plain.k_reciprocal(*arrays), "ours": lambda: k_reciprocal(query, gallery)}
    calls["GEMM"] = lambda: plain.gemm(both, both)
    seconds, memory, result = in_turn(calls, repeats, cold=("loops",))
    row = {"case": name, "size, k1/k2": f"{q} x {g} x {d}, 20/6"} | {f"{n} s": seconds[n] for n in calls}
    row |= {"loops/ours": seconds["loops"] / seconds["ours"], "ours/GEMM": seconds["ours"] / seconds["GEMM"]}
    row |= plain.differences(result["loops"], result["ours"])
    return row | {f"{n} MiB": memory[n] // MIB for n in ("loops", "ours")}


def protocol(case: tuple[str, int, int, int, str, int], _) -> dict:
    """A setting and distance of SYSU-MM01's test: ours; torch's distances, and its scores by torch_affinity's loops."""
    place, shots, k1, k2, distance, reference_trials = case
    camera = np.concatenate([np.full(images, c) for c, (images, _, _) in CAMERAS.items()])
    identity = np.concatenate([np.arange(n) % (end - start) + start for n, start, end in CAMERAS.values()])
    infrared = np.isin(camera, sysu.INFRARED_CAMERAS)
    # So noisy that scores are neither 0 nor 100, and can differ.
    embedding = plain.clusters(identity, infrared, 2048, noise=5.0)
    how = {"k1": k1, "k2": k2}
    mine = (cosine, cosine_trials) if distance == "cosine" else [functools.partial(f, **how) for f in (aim, aim_trials)]
    other = plain.cosine if distance == "cosine" else functools.partial(plain.aim, **how)

    def drawn(trial):
        order = np.random.default_rng(trial).permutation(len(identity))
        order = order[np.isin(camera[order], sysu.GALLERY_CAMERAS[place])]
        cell = identity[order] * 10 + camera[order]
        return np.flatnonzero(infrared), np.concatenate([order[cell == c][:shots] for c in np.unique(cell)])

    rules = {"valid": sysu.valid, "distance": mine[0], "together": mine[1], "unique_identities": True}
    trials = [drawn(trial) for trial in range(sysu.TRIALS)]
    ours = functools.partial(score_trials, embedding, identity, camera, trials, **rules)
    ours()  # compiles
    if load_torch():
        other(*to_torch(*(embedding[rows] for rows in trials[0])))
    seconds, scores = ({name: [] for name in ("ours", "torch", "python", "numpy")} for _ in range(2))

    def count(name, call):
        spent, _, result = measured(call)
        seconds[name].append(spent)
        scores[name] += result if name == "ours" else [result] if name != "torch" else []
        return result

    count("ours", ours)
    seconds["ours"][0] /= sysu.TRIALS
    for t, (q, g) in enumerate(trials):
        if load_torch() and t < reference_trials:
            query, gallery = to_torch(embedding[q], embedding[g])
            matrix = host(count("torch", functools.partial(other, query, gallery)))
            for name in ("python", "numpy"):
                labels = (identity[q], identity[g]), (camera[q], camera[g])
                count(name, functools.partial(plain.score, matrix, *labels, filtering=name))
    row = {"setting": f"{place}/{shots}", "distance": distance, "queries x gallery": f"{len(q)} x {len(g)}"}
    row |= {f"{name} s": float(np.mean(spent)) * sysu.TRIALS for name, spent in seconds.items() if spent}
    row["reference trials"] = len(scores["numpy"])
    for name in ("rank1", "map", "minp"):
        means = {n: np.mean([s[name] for s in side[:reference_trials]]) for n, side in scores.items() if side}
        worst = max(abs(mean - means["ours"]) for mean in means.values())
        assert worst < 1e-2, f"{name} of {case} differs: {means}"
        row |= {name: float(means["ours"]), f"{name} diff": f"{worst:.0e}"}
    return row


def main() -> None:
    sections = {f.__name__: f for f in (accuracy, pairs, streamed, kreciprocal, protocol)}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.affinity", description=__doc__.splitlines()[0])
    parser.add_argument("section", nargs="*", default=list(sections), help=", ".join(sections))
    parser.add_argument("--repeats", type=int, default=3, help="runs whose median is printed")
    parser.add_argument("--million", action="store_true", help="also a gallery of a million; for a GPU")
    parser.add_argument("--reference-trials", type=int, default=sysu.TRIALS, help="trials that the reference does")
    args = parser.parse_args()
    if unknown := sorted(set(args.section) - set(sections)):
        parser.error(f"unknown section {unknown[0]!r}, expected some of {', '.join(sections)}")
    cases = {
        "accuracy": [(500, 800, 512)],
        "pairs": PAIRS,
        "streamed": STREAMED + [MILLION] * args.million,
        "kreciprocal": [("RegDB", 2048), ("SYSU multi", 2048)],
        "protocol": [(*setting, n, args.reference_trials) for setting in SETTINGS for n in ("cosine", "aim")],
    }
    torch = load_torch()
    other = f"torch {torch.__version__}, {torch.get_num_threads()} threads" if torch else plain.ABSENT
    print(f"{os.cpu_count()} CPU cores; jax {jax.__version__} on {jax.devices()[0].device_kind}; {other}")
    print(f"medians of {args.repeats} runs in turn, after one that compiles", flush=True)
    for name in args.section:
        print(f"\n{name}: {sections[name].__doc__.splitlines()[0]}", flush=True)
        rows = []
        for case in cases[name]:
            rows.append(plain.alone(sections[name], case, args.repeats))
            plain.say(rows[-1], heading=len(rows) == 1)
        if name == "streamed":
            first, last = rows[0], rows[2]
            columns = ("graph s", "search s"), ("GEMM s",)
            ours, floor = (sum(last[n] for n in names) / sum(first[n] for n in names) for names in columns)
            print(f"from 20,000 to 100,000 images: time grows {ours:.1f}-fold, the GEMM's {floor:.1f}-fold", flush=True)
        if name == "protocol" and torch:
            ours, distances, *loops = (sum(row[f"{n} s"] for row in rows) for n in ("ours", "torch", "python", "numpy"))
            for how, ranking in zip(("in python", "by numpy"), loops, strict=True):
                against = f"torch and loops filtering {how} {distances + ranking:.1f} s"
                print(f"whole: {against}, ours {ours:.1f} s, ratio {(distances + ranking) / ours:.1f}", flush=True)


if __name__ == "__main__":
    main()
