"""Where the time of a SYSU-MM01 test goes, against plain torch and loops: python -m benchmarks.evaluate [section ...]

Sections: extraction (images/s of the small network and of ResNet-50, from memory), ranking (ten trials of all-search
multi-shot, 3,803 queries against 3,010 images, by cosine and by AIM; torch's distances and numpy's scores, query by
query, are those of one trial, times ten), protocol (every stage's share, from JPEG files to the figures, of the network
named by --network); all by default. Weights, features and pictures are random or drawn: nothing is downloaded. Times
are medians of --repeats runs in turn in one process, after a first run that compiles and is shown apart.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import measuring, ours
from benchmarks.features import TEST_IMAGES, distances, sysu_test
from benchmarks.input import drawn
from benchmarks.measuring import in_turn, load_torch, measured, to_torch
from benchmarks.torch_affinity import score
from input_pipeline import sysu
from input_pipeline.batches import eval_batches
from input_pipeline.images import Folder, Size
from saai_jax.ranking.evaluate import score_trials

IDENTITIES = 395  # that SYSU-MM01 trains on
K1, K2, SHOTS = 20, 6, 10  # of all-search multi-shot
Batches = list[dict[str, np.ndarray]]


def held(args: argparse.Namespace) -> Batches:
    """Batches of noise, half of them infrared; the last has what is left over."""
    starts = range(0, args.images, args.batch)
    return [ours.batch_of(min(args.batch, args.images - s), args.height, args.height // 2, seed=s) for s in starts]


def torchs(config: Any, batches: Batches, channels_last: bool) -> Callable[[], np.ndarray]:
    """A function that embeds the batches in plain torch, with the same weights."""
    import torch

    from benchmarks.torch_saai import normalise

    network, layout = ours.torch_network(config, IDENTITIES, channels_last)
    network.eval()

    @torch.inference_mode()
    def run() -> np.ndarray:
        rows = []
        for image, _, *of_modality in map(ours.torch_batch, batches):
            x = normalise(image.float() / 255).permute(0, 3, 1, 2).contiguous(memory_format=layout)
            rows.append(network.embed(x, *of_modality)[1].cpu().numpy())
        return np.concatenate(rows)

    return run


def extracted(name: str, args: argparse.Namespace) -> dict:
    """A row of what embedding takes with a network."""
    config, batches = ours.configured(name, args.height), held(args)
    calls: dict[Any, Callable] = {"ours": functools.partial(ours.features_of(config, IDENTITIES), batches)}
    first = measured(calls["ours"])[0]
    if load_torch():
        calls |= {last: torchs(config, batches, last) for last in (False, True)}
    seconds, _, features = in_turn(calls, args.repeats)
    mine, best, worst = seconds["ours"], None, None
    if load_torch():
        best = min(seconds[False], seconds[True])
        # Features of noise are large: what torch gives may differ by rounding, which is relative to them.
        worst = np.abs(features["ours"] - features[True]).max() / np.abs(features["ours"]).max()
        assert worst < 1e-3, f"the features of {name} differ by {worst} of the largest"
    row = {"network": name, "images": args.images, "batch": args.batch, "first run s": first, "s": mine}
    row |= {"images/s": args.images / mine, "torch images/s": args.images / best if best else None}
    return row | {"ours / torch": best / mine if best else None, "difference": f"{worst:.0e}" if best else None}


def extraction(args: argparse.Namespace):
    """Embedding pictures that lie in memory, torch's in the better of its two layouts."""
    return (extracted(name, args) for name in ours.NETWORKS)


@functools.cache
def ranked(name: str, repeats: int) -> dict:
    """A row of seconds for an inference: distances and scores of ten trials, and those of plain code."""
    embedding, identity, camera, trials = sysu_test("all", SHOTS)
    distance, together, other = distances(name, K1, K2)
    matrices = [np.asarray(matrix) for matrix in together(embedding, trials)]
    rules = {"valid": sysu.valid, "distance": distance, "unique_identities": True}
    scores = functools.partial(score_trials, embedding, identity, camera, trials, **rules)
    q, g = trials[0]
    calls = {
        "distances": lambda: list(together(embedding, trials)),
        "scores": lambda: scores(together=lambda *_: matrices),
        "ours": lambda: scores(together=together),
        "loops": lambda: score(matrices[0], (identity[q], identity[g]), (camera[q], camera[g]), filtering="numpy"),
    }
    if load_torch():
        calls["torch"] = functools.partial(other, *to_torch(embedding[q], embedding[g]))
    seconds, _, results = in_turn(calls, repeats)
    for figure in ("rank1", "map", "minp"):
        assert abs(results["ours"][0][figure] - results["loops"][figure]) < 1e-2, f"{figure} of {name} differs"
    loops = sysu.TRIALS * seconds["loops"]
    torch = sysu.TRIALS * seconds["torch"] if "torch" in seconds else None
    row = {"inference": name, "distances s": seconds["distances"], "scores s": seconds["scores"]}
    row |= {"ours s": seconds["ours"], "torch distances s": torch, "loop scores s": loops}
    return row | {"theirs / ours": (torch + loops) / seconds["ours"] if torch else None}


def ranking(args: argparse.Namespace):
    """Ten trials of all-search multi-shot, features of 2,048 numbers."""
    return (ranked(name, args.repeats) for name in ("cosine", "aim"))


def protocol(args: argparse.Namespace):
    """A test on all-search multi-shot by cosine and AIM; reading and embedding are extrapolated from --images."""
    features_of = ours.features_of(ours.configured(args.network, args.height), IDENTITIES)
    batches = held(args)
    with tempfile.TemporaryDirectory(prefix="saai-evaluate-") as folder:
        index = drawn(folder, args.images, args.height * 3 // 2)
        size = Size(args.height, args.height // 2)
        read = functools.partial(eval_batches, Folder(folder, index), index, size=size, batch=args.batch)
        calls = {
            "reading alone": lambda: sum(len(b["image"]) for b in read()),
            "embedding alone": lambda: features_of(batches),
            "reading and embedding": lambda: features_of(read()),
        }
        seconds = in_turn(calls, args.repeats)[0]
    seconds = {name: spent * TEST_IMAGES / args.images for name, spent in seconds.items()}
    parts = {"reading and embedding": seconds["reading and embedding"]}
    for row in ranking(args):
        parts |= {f"{row['inference']} {stage}": row[f"{stage} s"] for stage in ("distances", "scores")}
    whole = sum(parts.values())
    for name, spent in (seconds | parts | {"whole": whole}).items():
        yield {"stage": name, "s": spent, "share %": 100 * spent / whole if name in parts else None}


def main(given: list[str] | None = None) -> None:
    sections = {f.__name__: f for f in (extraction, ranking, protocol)}
    options = {
        "--images": {"type": int, "default": 200, "help": "pictures that are embedded"},
        "--height": {"type": int, "default": 288, "help": "their height; the width is half of it"},
        "--batch": {"type": int, "default": 64},
        "--repeats": {"type": int, "default": 3, "help": "runs whose median is printed"},
        "--network": {"choices": ours.NETWORKS, "default": "small", "help": "of the section protocol"},
    }
    args = measuring.arguments("evaluate", __doc__, sections, options, given)
    for name in args.section:
        measuring.show(f"{name}: {sections[name].__doc__}", sections[name](args))


if __name__ == "__main__":
    main()
