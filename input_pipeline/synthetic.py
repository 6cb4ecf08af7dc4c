"""A procedural set of visible-infrared pedestrians, written in the folder layouts of four real sets."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import tqdm
from absl import logging
from PIL import Image

from input_pipeline.drawing import render
from input_pipeline.images import left_behind
from input_pipeline.index import INFRARED, DataError
from input_pipeline.people import PICTURE_STREAM, person, stream
from input_pipeline.scenes import CAMERAS, Camera
from input_pipeline.synthetic_layouts import SIZES, Picture, Size, llcm, market, regdb, sysu

VERSION = 1  # counts changes that alter the pictures or the lists
DESCRIPTION = "synthetic.json"
LAYOUTS = {"sysu": sysu, "regdb": regdb, "llcm": llcm, "market1501": market}


def draw(seed: int, identity: int, camera: int, shot: int, height: int, width: int) -> np.ndarray:
    """u8[h w 3], one image of an identity (from 1) by camera 1..6; three equal channels from cameras 3 and 6.

    Raises KeyError for any other camera.
    """
    return _draw(seed, identity, CAMERAS[camera], shot, height, width)


def write(root: str | Path, *, layout: str, size: str, seed: int = 0, processes: int | None = None) -> None:
    """Writes a whole set to root; the files depend on layout, size and seed only. processes: one per core if None.

    Nothing is done if root holds this very set; an interrupted call leaves no root. Raises ValueError for an unknown
    layout or size, and DataError if root holds anything else.
    """
    root = Path(root).absolute()
    if layout not in LAYOUTS or size not in SIZES:
        raise ValueError(f"no layout {layout!r} of size {size!r}: choose from {list(LAYOUTS)} and {list(SIZES)}")
    plan = LAYOUTS[layout](SIZES[size], seed)
    description = {"layout": layout, "size": size, "seed": seed, "version": VERSION, "images": len(plan.pictures)}
    if _holds(root, description):
        return
    logging.info("drawing %d images (%s, %s, seed %d) into %s", len(plan.pictures), layout, size, seed, root)
    started = time.monotonic()
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as sibling:
        # A folder inside the temporary one, for that has permissions of its own.
        staging = Path(sibling, root.name)
        for name, content in plan.files.items():
            Path(staging, name).parent.mkdir(parents=True, exist_ok=True)
            Path(staging, name).write_bytes(content)
        _draw_all(staging, plan.pictures, SIZES[size], seed, processes or os.cpu_count() or 1)
        Path(staging, DESCRIPTION).write_text(json.dumps(description) + "\n")
        try:
            os.rename(staging, root)
        except OSError:
            # Another process may have written the same set meanwhile.
            if not _holds(root, description):
                raise
    logging.info("drew %d images in %.1f s", len(plan.pictures), time.monotonic() - started)


def _holds(root: Path, description: dict) -> bool:
    """Whether root holds the described set; False if there is nothing. Raises DataError if it holds anything else."""
    if not root.exists() or (root.is_dir() and all(left_behind(file.name) for file in root.iterdir())):
        return False
    try:
        found = dict(json.loads(Path(root, DESCRIPTION).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{root}: exists, but is no synthetic set with a readable {DESCRIPTION}") from error
    for key, value in description.items():
        if found.get(key) != value:
            raise DataError(
                f"{root}: holds a synthetic set whose {key} is {found.get(key)!r}, not {value!r}; "
                "remove it or choose another folder"
            )
    return True


def _draw_all(staging: Path, pictures: list[Picture], size: Size, seed: int, processes: int) -> None:
    people = [list(group) for _, group in itertools.groupby(pictures, key=lambda picture: picture.identity)]
    work = functools.partial(_draw_identity, staging, seed, size.height, size.width)
    processes = min(processes, len(people))
    # Spawned, not forked: the caller may hold threads of JAX, which a fork would break.
    several = multiprocessing.get_context("spawn").Pool(processes) if processes > 1 else contextlib.nullcontext()
    with several as pool, tqdm.tqdm(total=len(pictures), desc="drawing people", unit="image", disable=None) as bar:
        for drawn in pool.imap_unordered(work, people) if pool else map(work, people):
            bar.update(drawn)


def _draw_identity(staging: Path, seed: int, height: int, width: int, pictures: list[Picture]) -> int:
    """Draws and stores all pictures of one identity; their number."""
    for picture in pictures:
        image = _draw(seed, picture.identity, picture.camera, picture.shot, height, width)
        path = Path(staging, picture.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        infrared = picture.camera.modality == INFRARED
        Image.fromarray(image[..., 0] if infrared else image).save(path, quality=92)
    return len(pictures)


def _draw(seed: int, identity: int, camera: Camera, shot: int, height: int, width: int) -> np.ndarray:
    random = stream(PICTURE_STREAM, seed, identity, camera.number, camera.modality, shot)
    return render(person(seed, identity), camera, random, height, width)
