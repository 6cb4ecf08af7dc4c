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
import os
import tempfile
from typing import Any

import jax
import numpy as np

from benchmarks import torch_affinity as plain
from benchmarks.affinity import CAMERAS
from benchmarks.input import NETWORKS, drawn, table
from input_pipeline import sysu
from input_pipeline.batches import eval_batches
from input_pipeline.images import Folder
from modes.building import model_of
from saai_jax.affinity import aim, aim_trials, cosine, cosine_trials
from saai_jax.augment import MEAN, STD
from saai_jax.models.saai import feature_map
from saai_jax.ranking.evaluate import extract, score_trials
from saai_jax.state import initial_variables, teacher_of
from saai_jax.train import Recipe
from saai_jax.weights.names import to_torch_names

K1, K2, SHOTS = 20, 6, 10  # of all-search multi-shot


def network(name: str, height: int) -> tuple[Any, dict]:
    """A network of as many identities as SYSU-MM01 trains on, and weights for it."""
    config: Any = NETWORKS[name]()
    config.data.height, config.data.width = height, height // 2
    model = model_of(config, 395)
    return model, initial_variables(model, height, height // 2, seed=0)


def held(images: int, batch: int, height: int) -> list[dict[str, np.ndarray]]:
    """Batches of noise, half of them infrared; the last has what is left over."""
    random = np.random.default_rng(0)
    sizes = [min(batch, images - start) for start in range(0, images, batch)]
    return [
        {
            "image": random.integers(0, 256, (n, height, height // 2, 3), np.uint8),
            "modality": np.arange(n, dtype=np.int32) % 2,
        }
        for n in sizes
    ]


def torchs(model: Any, variables: dict, batches: list[dict[str, np.ndarray]], channels_last: bool) -> Any:
    """A function that embeds the batches in plain torch, with the same weights."""
    import torch

    from benchmarks import torch_saai as other

    positions = int(np.prod(feature_map(model, *batches[0]["image"].shape[1:3])))
    weights = to_torch_names(variables, teacher_of(variables["params"]))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = other.network(model, positions, Recipe(), weights).eval().to(memory_format=layout)
    mean, std = plain.to_torch(np.asarray(MEAN, np.float32), np.asarray(STD, np.float32))

    @torch.inference_mode()
    def run() -> np.ndarray:
        rows = []
        for batch in batches:
            (image,) = plain.to_torch(batch["image"])
            x = ((image.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous(memory_format=layout)
            x = net.backbone(x)
            feature = torch.cat([net.attn_pool(x)[0].flatten(1), x.mean((2, 3))], 1)
            of_modality = plain.to_torch(*(np.flatnonzero(batch["modality"] == m) for m in (0, 1)))
            rows.append(net.bn_neck(feature, *of_modality).cpu().numpy())
        return np.concatenate(rows)

    return run


def extraction(args: argparse.Namespace) -> list[dict]:
    """Embedding pictures that lie in memory, torch's in the better of its two layouts."""
    rows = []
    for name in NETWORKS:
        model, variables = network(name, args.height)
        batches = held(args.images, args.batch, args.height)
        calls: dict[Any, Any] = {"ours": functools.partial(extract, model, variables, batches)}
        first = plain.measured(calls["ours"])[0]
        if plain.load_torch():
            calls |= {last: torchs(model, variables, batches, last) for last in (False, True)}
        spent, _, features = plain.in_turn(calls, args.repeats)
        ours = spent["ours"]
        row = {"network": name, "images": args.images, "batch": args.batch, "first run s": first, "s": ours}
        row |= {"images/s": args.images / ours, "torch images/s": None, "ours / torch": None, "difference": None}
        if plain.load_torch():
            # Features of noise are large: what torch gives may differ by rounding, which is relative to them.
            worst = np.abs(features["ours"] - features[True]).max() / np.abs(features["ours"]).max()
            assert worst < 1e-3, f"the features of {name} differ by {worst} of the largest"
            best = min(spent[False], spent[True])
            row |= {"torch images/s": args.images / best, "ours / torch": best / ours, "difference": f"{worst:.0e}"}
        rows.append(row)
    return rows


def sysu_test() -> tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Identity and camera of SYSU-MM01's test images, and ten trials with ten random images of every gallery cell."""
    camera = np.concatenate([np.full(images, c) for c, (images, _, _) in CAMERAS.items()])
    identity = np.concatenate([np.arange(n) % (end - start) + start for n, start, end in CAMERAS.values()])
    query = np.flatnonzero(np.isin(camera, sysu.INFRARED_CAMERAS))
    visible = np.flatnonzero(np.isin(camera, sysu.GALLERY_CAMERAS["all"]))
    cells = [
        visible[identity[visible] * 10 + camera[visible] == c]
        for c in np.unique(identity[visible] * 10 + camera[visible])
    ]
    randoms = map(np.random.default_rng, range(sysu.TRIALS))
    return identity, camera, [(query, np.concatenate([r.permutation(c)[:SHOTS] for c in cells])) for r in randoms]


@functools.cache
def ranked(repeats: int) -> list[dict]:
    """A row of seconds for each inference: distances and scores of ten trials, and those of plain code."""
    identity, camera, trials = sysu_test()
    # So noisy that scores are neither 0 nor 100, and can differ.
    embedding = plain.clusters(identity, np.isin(camera, sysu.INFRARED_CAMERAS), 2048, noise=5.0)
    (q, g), how, rows = trials[0], {"k1": K1, "k2": K2}, []
    pairs = {
        "cosine": (cosine, cosine_trials, plain.cosine),
        "aim": tuple(functools.partial(f, **how) for f in (aim, aim_trials, plain.aim)),
    }
    for name, (distance, together, other) in pairs.items():
        rules = {"valid": sysu.valid, "distance": distance, "together": together, "unique_identities": True}
        matrices = [np.asarray(matrix) for matrix in together(embedding, trials)]
        given = rules | {"together": lambda *_, m=matrices: m}
        labels = (identity[q], identity[g]), (camera[q], camera[g])
        calls = {
            "distances": lambda t=together: list(t(embedding, trials)),
            "scores": lambda r=given: score_trials(embedding, identity, camera, trials, **r),
            "ours": lambda r=rules: score_trials(embedding, identity, camera, trials, **r),
            "loops": lambda m=matrices[0], x=labels: plain.score(m, *x, filtering="numpy"),
        }
        if plain.load_torch():
            tensors = plain.to_torch(embedding[q], embedding[g])
            calls["torch"] = lambda f=other, x=tensors: f(*x)
        seconds, _, results = plain.in_turn(calls, repeats)
        for score in ("rank1", "map", "minp"):
            assert abs(results["ours"][0][score] - results["loops"][score]) < 1e-2, f"{score} of {name} differs"
        ours, loops = seconds["ours"], sysu.TRIALS * seconds["loops"]
        torch = sysu.TRIALS * seconds["torch"] if "torch" in seconds else None
        row = {"inference": name, "distances s": seconds["distances"], "scores s": seconds["scores"]}
        row |= {"ours s": ours, "torch distances s": torch, "loop scores s": loops}
        rows.append(row | {"theirs / ours": (torch + loops) / ours if torch else None})
    return rows


def ranking(args: argparse.Namespace) -> list[dict]:
    """Ten trials of all-search multi-shot, features of 2,048 numbers."""
    return ranked(args.repeats)


def protocol(args: argparse.Namespace) -> list[dict]:
    """A test on all-search multi-shot by cosine and AIM; reading and embedding are extrapolated from --images."""
    model, variables = network(args.network, args.height)
    total = sum(images for images, _, _ in CAMERAS.values())
    with tempfile.TemporaryDirectory(prefix="saai-evaluate-") as folder:
        index = drawn(folder, args.images, args.height * 3 // 2)
        size = {"height": args.height, "width": args.height // 2, "batch": args.batch}
        read: Any = functools.partial(eval_batches, Folder(folder, index), index, **size)
        batches = held(args.images, args.batch, args.height)
        calls = {
            "reading alone": lambda: sum(len(b["image"]) for b in read()),
            "embedding alone": lambda: extract(model, variables, batches),
            "reading and embedding": lambda: extract(model, variables, read()),
        }
        seconds = plain.in_turn(calls, args.repeats)[0]
    seconds = {name: spent * total / args.images for name, spent in seconds.items()}
    parts = {"reading and embedding": seconds["reading and embedding"]}
    for row in ranked(args.repeats):
        parts |= {f"{row['inference']} {stage}": row[f"{stage} s"] for stage in ("distances", "scores")}
    whole = sum(parts.values())
    rows = seconds | parts | {"whole": whole}
    return [
        {"stage": name, "s": spent, "share %": 100 * spent / whole if name in parts else None}
        for name, spent in rows.items()
    ]


def main(arguments: list[str] | None = None) -> None:
    sections = {f.__name__: f for f in (extraction, ranking, protocol)}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("section", nargs="*", default=list(sections), help=", ".join(sections))
    parser.add_argument("--images", type=int, default=200, help="pictures that are embedded")
    parser.add_argument("--height", type=int, default=288, help="their height; the width is half of it")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3, help="runs whose median is printed")
    parser.add_argument("--network", choices=NETWORKS, default="small", help="of the section protocol")
    args = parser.parse_args(arguments)
    if unknown := sorted(set(args.section) - set(sections)):
        parser.error(f"unknown section {unknown[0]!r}, expected some of {', '.join(sections)}")
    torch = plain.load_torch()
    device, other = jax.devices()[0].device_kind, f"torch {torch.__version__}" if torch else plain.ABSENT
    print(f"{os.cpu_count()} CPU cores; jax {jax.__version__} on {device}; {other}")
    for name in args.section:
        print(f"\n{name}: {sections[name].__doc__}\n", flush=True)
        print(table(sections[name](args)), flush=True)


if __name__ == "__main__":
    main()
