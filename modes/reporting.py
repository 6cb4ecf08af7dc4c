"""The page about a run or a features file."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

from absl import logging
from ml_collections import ConfigDict

from modes.building import inferences, largest, source_of
from modes.correspond import aligned
from modes.ranking import evaluated, looked_at, read_features, write_results
from saai_jax.features import Features
from saai_jax.ranking import results
from saai_jax.report import lists, page, projection


def report(
    config: ConfigDict,
    workdir: str,
    *,
    features: Sequence[str] | None = None,
    gallery: str | None = None,
    columns: str = "",
    infrared_cameras: Sequence[int | str] = (),
) -> None:
    """Writes report.html: of features files (`ranking.read_features`), or of the run in workdir with its pictures."""
    file, shown = os.path.join(workdir, "report.html"), {}
    if features:
        index, embedding, settings = read_features(config, features, gallery, columns, infrared_cameras)
        if any(setting.protocol == "regdb-ten-folds" for setting in settings):
            raise ValueError("a report draws the features of one network, expected one fold in --features, not ten")
        write_results(config, index, embedding, workdir, settings, {})
    else:
        index, system, variables, embedding, settings = evaluated(config, workdir)
    setting = largest(settings)
    query, gallery_rows = trial = setting.trials[0]
    images = Features(embedding, index.identity, index.camera, index.modality, index.path)
    rules = index.identity[query], index.camera[query], index.identity[gallery_rows], index.camera[gallery_rows]
    valid = setting.valid(*rules)
    if not features:
        load = functools.partial(source_of(config).pictures, index, "test")
        rows = lists.examples(index.identity, query, gallery_rows)
        mapped = projection.people(index.identity, index.modality)
        shown = {"pictures": load, "shown": rows, "mapped": mapped}
        if system.pooled and len(mapped):  # none of a data set of one modality
            shown["feature"] = looked_at(system.pooled, variables, load, mapped, index)
        if system.maps:
            shown["attention"] = looked_at(system.maps, variables, load, rows, index)
        if system.dense:
            couples = shown["couples"] = lists.matched(images, trial, valid, rows)
            shown["aligned"] = [aligned(system.dense, variables, load(of), index.modality[of]) for of in couples]
    every = config.copy_and_resolve_references()
    every.inference += ",cosine,sim,k_reciprocal,aim"  # each once, the configured ones first
    methods = {name: (how.distance, how.parameters) for name, how in inferences(every, setting).items()}
    page.write_page(
        file,
        results.read(os.path.join(workdir, "results.json")),
        images,
        trial,
        valid,
        methods,
        title=": ".join(["saai-jax", setting.dataset, *(os.path.basename(name) for name in features or ())]),
        setting=", ".join(
            [setting.protocol, setting.direction]
            + [f"{setting.shots} shot"] * (setting.shots != "-")
            + [f"trial 1 of {len(setting.trials)}"]
        ),
        unique_identities=setting.unique_identities,
        **shown,
    )
    logging.info("wrote %s and the figures beside it", file)
