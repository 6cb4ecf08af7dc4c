"""One's own pictures: folders of one modality, embedded and ranked against each other."""

from __future__ import annotations

import os

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from input_pipeline import pictures as own_pictures
from input_pipeline.batches import eval_batches
from input_pipeline.images import refuse_unreadable
from input_pipeline.index import DataError
from modes.building import embed_batches, inferences_of, source_of, trained
from saai_jax import affinity, parallel
from saai_jax.features import Features, load, save
from saai_jax.ranking import search as ranked
from saai_jax.report.pictures import search_lists
from saai_jax.systems.system import System, Tree


def readable(
    config: ConfigDict, folder: str, modality: str, *, identities: bool = False, skip_unreadable: bool = False
) -> own_pictures.Pictures:
    """The pictures below a folder, all of one modality, each of which can be decoded; this process's part of them.

    identities: first-level folders are named by identity. skip_unreadable: leaves out what cannot be decoded, with a
    warning. DataError: as `pictures.read_folder`, a picture that cannot be decoded, none that can, or fewer pictures
    than processes.
    """
    index = own_pictures.read_folder(folder, modality, identities=identities)
    own = parallel.share(len(index))
    if own.stop == own.start:
        raise DataError(f"{folder}: {len(index)} pictures leave none for a process, expected fewer processes")
    images = own_pictures.Pictures(folder, index.take(np.arange(len(index))[own]))
    bad: dict[int, str] = {}
    refuse_unreadable(images, folder, config.data.threads, bad)
    if bad and not (skip_unreadable and len(bad) < len(images)):
        hint = "\n--skip_unreadable leaves such pictures out" if len(bad) < len(images) else ""
        raise DataError("\n".join(bad.values()) + hint)
    if bad:
        logging.warning("%s: %d of %d are left out:\n%s", folder, len(bad), len(images), "\n".join(bad.values()))
        images = own_pictures.Pictures(folder, images.index.take(np.delete(np.arange(len(images)), list(bad))))
    return images


def embed_pictures(config: ConfigDict, system: System, variables: Tree, images: own_pictures.Pictures) -> Features:
    """The retrieval features of pictures. system, variables: as `building.trained` gives them."""
    d, index = config.data, images.index
    how = {"size": source_of(config).size, "batch": config.eval.batch, "threads": d.threads, "workers": d.workers}
    embedding = embed_batches(config, system, variables, eval_batches(images, index, **how), len(index), images.root)
    return Features(embedding, index.identity, index.camera, index.modality, index.path)


def embed(
    config: ConfigDict,
    workdir: str,
    *,
    pictures: str | None = None,
    modality: str = "infrared",
    identities: bool = False,
    skip_unreadable: bool = False,
) -> None:
    """Writes pictures-<folder>.npz of the folder `pictures`, all of one modality, with the run's weights.

    Of several processes each writes a part, and the first one joins them. The other arguments are those of `readable`.
    """
    if not pictures:
        raise ValueError("--mode=embed needs --pictures=DIR and --modality=visible or infrared")
    images = readable(config, pictures, modality, identities=identities, skip_unreadable=skip_unreadable)
    found = embed_pictures(config, *trained(config, workdir), images)
    file = os.path.join(workdir, f"pictures-{os.path.basename(os.path.abspath(pictures))}.npz")
    if (number := jax.process_count()) > 1:
        parts = [f"{file.removesuffix('.npz')}.part-{i + 1}-of-{number}.npz" for i in range(number)]
        save(parts[jax.process_index()], found)
        parallel.barrier("every part is written")
        if not parallel.primary():
            return
        found = Features(*map(np.concatenate, zip(*map(load, parts), strict=True)))
        for part in parts:
            os.remove(part)
    save(file, found)
    logging.info("wrote %d features of length %d to %s", *found.embedding.shape, file)


def search(
    config: ConfigDict,
    workdir: str,
    *,
    query: str | None = None,
    gallery: str | None = None,
    modality: str = "infrared",
    top: int = 10,
    skip_unreadable: bool = False,
) -> None:
    """Ranks the folder `query`, of one modality, against the folder `gallery`, of the other: tables and a picture.

    By every configured inference; `top` images are listed for a query. skip_unreadable: as in `readable`.
    """
    if not query or not gallery:
        raise ValueError("--mode=search needs --query=DIR of infrared and --gallery=DIR of visible pictures, or turned")
    methods = inferences_of(config, *config.aim.own)
    other = {"infrared": "visible", "visible": "infrared"}[modality]
    sides = ((query, modality), (gallery, other))
    images = [readable(config, *side, skip_unreadable=skip_unreadable) for side in sides]
    network = trained(config, workdir)
    asked, listed = (embed_pictures(config, *network, side) for side in images)
    rows, size = np.arange(min(8, len(asked.path))), source_of(config).size
    queries = own_pictures.decoded(query, images[0].index, rows, size)
    for name, how in methods.items():
        found = ranked.search(asked.embedding, listed.embedding, how.distance, top)
        file = os.path.join(workdir, f"ranked-{name}")
        ranked.write_csv(f"{file}.csv", found, asked.path, listed.path)
        shown = affinity.Nearest(found.index[rows], found.distance[rows])
        of = own_pictures.decoded(gallery, images[1].index, shown.index, size)
        search_lists(queries, of, shown, asked.path[rows]).savefig(f"{file}.png", dpi=120)
        logging.info("wrote %s.csv and %s.png", file, file)
