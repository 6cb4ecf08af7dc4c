"""The page about a run or a features file."""

from __future__ import annotations

import functools
import os

from absl import flags, logging
from ml_collections import ConfigDict

from modes.building import inferences, largest, source_of
from modes.ranking import evaluated, looks, rank, read_features
from saai_jax import features
from saai_jax.ranking import results
from saai_jax.report import lists, page, pictures, projection

FLAGS = flags.FLAGS


def mode_report(config: ConfigDict, workdir: str) -> None:
    """Writes report.html: of the features file --features, or of the run in workdir with its pictures."""
    file, shown = os.path.join(workdir, "report.html"), {}
    if FLAGS.features:
        index, embedding, settings = read_features(config)
        if any(setting.protocol == "regdb-ten-folds" for setting in settings):
            raise ValueError("a report draws the features of one network, expected one fold in --features, not ten")
        rank(config, index, embedding, workdir, settings, {})
    else:
        index, model, variables, embedding, settings = evaluated(config, workdir)
        load = functools.partial(source_of(config).pictures, index, "test")
    setting = largest(settings)
    query, gallery = trial = setting.trials[0]
    if not FLAGS.features:
        rows = lists.examples(index.identity, query, gallery)
        mapped, of = projection.people(index.identity, index.modality), looks(model, variables)
        feature = pictures.apply(of["before"], load, mapped, index.modality[mapped], config.eval.batch)
        shown = {"pictures": load, "shown": rows, "mapped": mapped, "feature": feature}
        if model.pooling == "prototypes":
            shown["attention"] = pictures.apply(of["maps"], load, rows, index.modality[rows])
    every = config.copy_and_resolve_references()
    every.inference = "cosine,sim,k_reciprocal,aim"
    methods = {name: (how.distance, how.parameters) for name, how in inferences(every, setting).items()}
    rules = index.identity[query], index.camera[query], index.identity[gallery], index.camera[gallery]
    page.write_page(
        file,
        results.read(os.path.join(workdir, "results.json")),
        features.Features(embedding, index.identity, index.camera, index.modality, index.path),
        trial,
        setting.valid(*rules),
        methods,
        title=f"saai-jax: {setting.dataset}",
        setting=", ".join(
            [setting.protocol, setting.direction]
            + [f"{setting.shots} shot"] * (setting.shots != "-")
            + [f"trial 1 of {len(setting.trials)}"]
        ),
        unique_identities=setting.unique_identities,
        **shown,
    )
    logging.info("wrote %s and the figures beside it", file)
