"""One's own pictures: folders of one modality, embedded and ranked against each other."""

from __future__ import annotations

import os

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from input_pipeline import pictures as own_pictures
from input_pipeline.batches import eval_batches
from input_pipeline.images import refuse_unreadable
from input_pipeline.index import Index
from modes.building import embed_batches, inferences_of, source_of, trained
from saai_jax import affinity, features
from saai_jax.ranking import search as ranked
from saai_jax.report.pictures import search_lists
from saai_jax.systems.system import System, Tree


def embed_folder(
    config: ConfigDict, system: System, variables: Tree, folder: str, modality: str, *, identities: bool = False
) -> features.Features:
    """The retrieval features of all images below a folder, all of one modality.

    system, variables: as `building.trained` gives them. identities: first-level folders are named by identity.
    """
    d = config.data
    index = own_pictures.read_folder(folder, modality, identities=identities)
    images = own_pictures.Pictures(folder, index)
    refuse_unreadable(images, folder, d.threads)
    size = source_of(config).size
    how = {"size": size, "batch": config.eval.batch, "threads": d.threads, "workers": d.workers}
    embedding = embed_batches(config, system, variables, eval_batches(images, index, **how), len(index), folder)
    return features.Features(embedding, index.identity, index.camera, index.modality, index.path)


def embed(
    config: ConfigDict,
    workdir: str,
    *,
    pictures: str | None = None,
    modality: str = "infrared",
    identities: bool = False,
) -> None:
    """Writes pictures-<folder>.npz of the folder `pictures`, all of one modality, with the run's weights."""
    if not pictures:
        raise ValueError("--mode=embed needs --pictures=DIR and --modality=visible or infrared")
    found = embed_folder(config, *trained(config, workdir), pictures, modality, identities=identities)
    file = os.path.join(workdir, f"pictures-{os.path.basename(os.path.abspath(pictures))}.npz")
    features.save(file, found)
    logging.info("wrote %d features of length %d to %s", *found.embedding.shape, file)


def search(
    config: ConfigDict,
    workdir: str,
    *,
    query: str | None = None,
    gallery: str | None = None,
    modality: str = "infrared",
    top: int = 10,
) -> None:
    """Ranks the folder `query`, of one modality, against the folder `gallery`, of the other: tables and a picture.

    By every configured inference; `top` images are listed for a query.
    """
    if not query or not gallery:
        raise ValueError("--mode=search needs --query=DIR of infrared and --gallery=DIR of visible pictures, or turned")
    methods = inferences_of(config, *config.aim.own)
    system, variables = trained(config, workdir)
    other = {"infrared": "visible", "visible": "infrared"}[modality]
    asked = embed_folder(config, system, variables, query, modality)
    listed = embed_folder(config, system, variables, gallery, other)
    rows = np.arange(min(8, len(asked.path)))
    images = _pictures(config, query, asked, rows)
    for name, how in methods.items():
        found = ranked.search(asked.embedding, listed.embedding, how.distance, top)
        file = os.path.join(workdir, f"ranked-{name}")
        ranked.write_csv(f"{file}.csv", found, asked.path, listed.path)
        shown = affinity.Nearest(found.index[rows], found.distance[rows])
        of = _pictures(config, gallery, listed, shown.index)
        search_lists(images, of, shown, asked.path[rows]).savefig(f"{file}.png", dpi=120)
        logging.info("wrote %s.csv and %s.png", file, file)


def _pictures(config: ConfigDict, folder: str, of: features.Features, rows: np.ndarray) -> np.ndarray:
    index = Index(path=of.path, identity=of.identity, camera=of.camera, modality=of.modality)
    return own_pictures.decoded(folder, index, rows, source_of(config).size)
