"""One's own pictures: folders of one modality, embedded and ranked against each other."""

from __future__ import annotations

import os

import numpy as np
from absl import flags, logging
from ml_collections import ConfigDict

from input_pipeline import pictures as own_pictures
from input_pipeline.batches import eval_batches
from input_pipeline.images import refuse_unreadable
from input_pipeline.index import Index
from modes.building import embed_batches, inferences_of, trained
from saai_jax import affinity, features
from saai_jax.models.saai import SAAI
from saai_jax.ranking import search
from saai_jax.report.pictures import search_lists

FLAGS = flags.FLAGS


def embed_folder(
    config: ConfigDict, model: SAAI, variables: dict, folder: str, modality: str, *, identities: bool = False
) -> features.Features:
    """The retrieval features of all images below a folder, all of one modality.

    model, variables: as `building.trained` gives them. identities: first-level folders are named by identity.
    """
    d = config.data
    index = own_pictures.read_folder(folder, modality, identities=identities)
    images = own_pictures.Pictures(folder, index)
    refuse_unreadable(images, folder, d.threads)
    how = {"height": d.height, "width": d.width, "batch": config.eval.batch, "threads": d.threads, "workers": d.workers}
    embedding = embed_batches(config, model, variables, eval_batches(images, index, **how), len(index), folder)
    return features.Features(embedding, index.identity, index.camera, index.modality, index.path)


def mode_embed(config: ConfigDict, workdir: str) -> None:
    """Writes pictures-<folder>.npz of one's own pictures, all of one modality, with the run's weights."""
    if not FLAGS.pictures:
        raise ValueError("--mode=embed needs --pictures=DIR and --modality=visible or infrared")
    found = embed_folder(config, *trained(config, workdir), FLAGS.pictures, FLAGS.modality, identities=FLAGS.identities)
    file = os.path.join(workdir, f"pictures-{os.path.basename(os.path.abspath(FLAGS.pictures))}.npz")
    features.save(file, found)
    logging.info("wrote %d features of length %d to %s", *found.embedding.shape, file)


def mode_search(config: ConfigDict, workdir: str) -> None:
    """Ranks one folder of one's own pictures against another by every configured inference: tables and a picture."""
    if not FLAGS.query or not FLAGS.gallery:
        raise ValueError("--mode=search needs --query=DIR of infrared and --gallery=DIR of visible pictures, or turned")
    methods = inferences_of(config, *config.aim.own)
    model, variables = trained(config, workdir)
    other = {"infrared": "visible", "visible": "infrared"}[FLAGS.modality]
    query = embed_folder(config, model, variables, FLAGS.query, FLAGS.modality)
    gallery = embed_folder(config, model, variables, FLAGS.gallery, other)
    rows = np.arange(min(8, len(query.path)))
    size = config.data.height, config.data.width
    images = own_pictures.decoded(FLAGS.query, Index(*query[-1:], *query[1:-1]), rows, *size)
    for name, how in methods.items():
        found = search.search(query.embedding, gallery.embedding, how.distance, FLAGS.top)
        file = os.path.join(workdir, f"ranked-{name}")
        search.write_csv(f"{file}.csv", found, query.path, gallery.path)
        shown = affinity.Nearest(found.index[rows], found.distance[rows])
        of = own_pictures.decoded(FLAGS.gallery, Index(*gallery[-1:], *gallery[1:-1]), shown.index, *size)
        search_lists(images, of, shown, query.path[rows]).savefig(f"{file}.png", dpi=120)
        logging.info("wrote %s.csv and %s.png", file, file)
