"""What feeds the train step, against torch's DataLoader and the step itself: python -m benchmarks.input [section ...]

Sections: loading (images/s from JPEG files, from a pack of them and from prepared pixels, by worker processes and
threads), waiting (train steps fed by each, against the same steps on batches in memory); both by default. The pictures
are drawn people, JPEG at --stored pixels, read at --height; torch reads the same files with the same Pillow calls, in
the same batches. Figures are medians of --repeats turns in one process, ratios those of each turn's; what a loader had
ready is not counted. Torch is an extra: pip install -e '.[bench]'; without it there are no rows for it.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from PIL import Image

from benchmarks import measuring
from benchmarks.measuring import cell, load_torch, median
from benchmarks.ours import NETWORKS, configured, step_of
from input_pipeline import records
from input_pipeline.batches import Images, train_batches
from input_pipeline.images import Folder, Size
from input_pipeline.index import Index
from input_pipeline.sampling import sampling_plan
from input_pipeline.scenes import CAMERAS
from input_pipeline.synthetic import draw
from saai_jax import parallel

EACH = 12  # pictures of an identity: two of each camera


def drawn(folder: str, images: int, height: int) -> Index:
    """Draws so many JPEG files of people into a folder, twice as high as wide; their index."""
    n = np.arange(images)
    identity, camera = 1 + n // EACH, 1 + n % len(CAMERAS)
    modality = [CAMERAS[int(c)].modality for c in camera]
    index = Index(np.array([f"{i:05d}.jpg" for i in n]), identity, camera, np.array(modality))

    def store(i: int) -> None:
        pixels = draw(0, int(identity[i]), int(camera[i]), int(i), height, height // 2)
        Image.fromarray(pixels).save(os.path.join(folder, str(index.path[i])), quality=92)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(store, n))
    return index


@dataclasses.dataclass
class TorchPictures:
    """What one writes down as a torch dataset; row -> (u8[h w 3], label, camera, modality)."""

    folder: str
    index: Index
    labels: np.ndarray
    height: int

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> tuple:
        with Image.open(os.path.join(self.folder, str(self.index.path[row]))) as file:
            image = file.convert("RGB").resize((self.height // 2, self.height), Image.Resampling.BILINEAR)
        return np.array(image), self.labels[row], self.index.camera[row], self.index.modality[row]


class Loader(NamedTuple):
    """An endless source of batches, and how many it may have ready before they are asked for."""

    batches: Iterator
    buffered: int


def ours(images: Images, index: Index, rows: np.ndarray, args: argparse.Namespace, threads: int, workers: int):
    """Our batches of a plan's rows i32[steps b]."""
    size = Size(args.height, args.height // 2)
    batches = train_batches(images, index, rows, size=size, threads=threads, workers=workers)
    return Loader(batches, max(1, workers) * (max(2, threads) + 2))


def torchs(folder: str, index: Index, rows: np.ndarray, args: argparse.Namespace, workers: int) -> Loader:
    """torch's batches of the same rows."""
    loader: Any = load_torch().utils.data.DataLoader
    pictures = TorchPictures(folder, index, index.labels(), args.height)
    # Spawned: this process holds threads of JAX, which a fork would break.
    options = {"num_workers": workers, "multiprocessing_context": "spawn"} if workers else {}
    return Loader(iter(loader(pictures, batch_sampler=rows.tolist(), **options)), 2 * workers)


def turn(loader: Loader, consume: Callable[[Iterator], Any]) -> float:
    """Seconds that it takes to consume from a loader which has nothing ready, and is left idle."""
    start = time.perf_counter()
    # Twice: the first are ready, and the next are begun all at once, which only happens at the start.
    for _ in range(2 * loader.buffered):
        next(loader.batches)
    filled = time.perf_counter()
    consume(loader.batches)
    end = time.perf_counter()
    time.sleep(1.2 * (filled - start))  # what it goes on to buffer must not slow whoever is next
    return end - filled


def in_turn(loaders: dict[Any, Loader], consume: Callable[[Iterator], Any], repeats: int) -> dict[Any, np.ndarray]:
    """Seconds to consume from each loader in each turn, after a round that starts them; ends them."""
    for loader in loaders.values():
        turn(loader, next)
    rounds = [{name: turn(loader, consume) for name, loader in loaders.items()} for _ in range(repeats)]
    for loader in loaders.values():
        getattr(loader.batches, "close", lambda: None)()  # torch's end with the iterator
    return {name: np.array([each[name] for each in rounds]) for name in loaders}


def stepping(args: argparse.Namespace, index: Index) -> Callable[[Iterator], None]:
    """Runs train steps of the network on the next batches, and waits for the last."""
    state, step, _, given = step_of(configured(args.network, args.height), int(index.labels().max()) + 1)
    mesh = parallel.batch_mesh()

    def consume(batches: Iterator) -> None:
        nonlocal state
        for _ in range(args.steps):
            state, _ = step(state, parallel.split(next(batches), mesh), *given)
        jax.block_until_ready(state)

    return consume


def held(loader: Loader) -> Loader:
    """The loader's next batches over and over, from memory."""
    copies = [{key: np.array(value) for key, value in next(loader.batches).items()} for _ in range(4)]
    return Loader(itertools.cycle(copies), 0)


def loading(readers: dict[str, Any], index: Index, rows: np.ndarray, args: argparse.Namespace):
    """Images per second of every reader, by processes and threads."""
    cores = os.cpu_count() or 1
    threads, processes = ([n for n in (1, 2, 4, 8, 16, 32) if n <= max(least, cores)] for least in (8, 2))
    loaders = {(name, 0, t): ours(images, index, rows, args, t, 0) for name, images in readers.items() for t in threads}
    loaders |= {("files", p, 2): ours(readers["files"], index, rows, args, 2, p) for p in processes if p <= 4}
    if load_torch():
        loaders |= {("torch", p, "-"): torchs(readers["files"].root, index, rows, args, p) for p in (0, *processes)}
    memory = held(loaders["resized", 0, 1])
    seconds = in_turn(loaders, lambda batches: deque(itertools.islice(batches, args.batches), 0), args.repeats)
    best = min((spent for (name, *_), spent in seconds.items() if name == "torch"), key=median, default=None)
    number, step = rows.shape[1] * args.batches, args.step_images_per_second
    if step is None:
        steps = stepping(args, index)
        steps(memory.batches)  # compiles
        step = rows.shape[1] * args.steps / median(in_turn({"": memory}, steps, args.repeats)[""])
        print(f"the step of {args.network} eats {cell(step)} images/s\n")
    return [
        {"pictures": name, "processes": p, "threads": t, "images/s": (x := number / median(spent))}
        | {"of torch's best": None if best is None else median(best / spent), "of what the step eats": x / step}
        for (name, p, t), spent in seconds.items()
    ]


def waiting(readers: dict[str, Any], index: Index, rows: np.ndarray, args: argparse.Namespace):
    """Train steps fed by each reader with eight threads, against the same steps on batches in memory."""
    loaders = {name: ours(images, index, rows, args, 8, 0) for name, images in readers.items()}
    memory, steps = held(loaders["resized"]), stepping(args, index)
    steps(memory.batches)  # compiles
    seconds = in_turn({"memory": memory, **loaders}, steps, args.repeats)
    return [
        {"pictures": name, "ms a step": 1000 * median(s) / args.steps, "of memory's": median(s / seconds["memory"])}
        for name, s in seconds.items()
    ]


def prepared(folder: str, index: Index, height: int) -> dict[str, Any]:
    """The folder's pictures, with nothing prepared, packed, and decoded and resized before."""
    files, where = Folder(folder, index), (os.path.join(folder, "prepared"), "drawn", "train")
    records.pack(files, index, *where)
    size = Size(height, height // 2)
    records.store_resized(files, index, *where, size)
    resized = records.Resized(*where, index, folder, size)
    return {"files": files, "packed": records.Packed(*where, index, folder), "resized": resized}


def main(given: list[str] | None = None) -> None:
    sections = {f.__name__: f for f in (loading, waiting)}
    options = {
        "--images": {"type": int, "default": 1200, "help": "pictures that are drawn"},
        "--stored": {"type": int, "default": 432, "help": "their height in the files"},
        "--height": {"type": int, "default": 288, "help": "their height in a batch; widths are half of it"},
        "--identities": {"type": int, "default": 10, "help": "of a batch, eight pictures each"},
        "--batches": {"type": int, "default": 32, "help": "batches that a turn of loading takes"},
        "--steps": {"type": int, "default": 8, "help": "train steps of a turn"},
        "--repeats": {"type": int, "default": 3, "help": "turns whose median is printed"},
        "--network": {"choices": NETWORKS, "default": "small", "help": "whose step is run"},
        "--step-images-per-second": {"type": float, "help": "what the step eats, if it is not to be timed"},
    }
    args = measuring.arguments("input", __doc__, sections, options, given)
    flags.FLAGS.mark_as_parsed()  # or grain's worker processes do not start
    with tempfile.TemporaryDirectory(prefix="saai-input-") as folder:
        index = drawn(folder, args.images, args.stored)
        readers = prepared(folder, index, args.height)
        shape = {"identities": args.identities, "images": 8, "epochs": 1, "seed": 0}
        plan = sampling_plan(index.identity, index.modality, **shape).rows
        kib = np.mean([len(readers["files"][i]) for i in range(len(index))]) / 1024
        print(f"{args.images} pictures of {args.stored} x {args.stored // 2} as JPEG of {kib:.0f} KiB, read at")
        print(f"{args.height} x {args.height // 2} in batches of {plan.shape[1]}; medians of {args.repeats} turns")
        # So many that no loader comes to an end: none has more than 200 batches ready.
        rows = np.tile(plan, (-(-(args.repeats + 1) * (args.batches + args.steps + 400) // len(plan)), 1))
        for name in args.section:
            measuring.show(f"{name}: {sections[name].__doc__}", sections[name](readers, index, rows, args))


if __name__ == "__main__":
    main()
