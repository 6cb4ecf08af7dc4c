"""Ranking: of a run, of a features file of any program, and of one result against another."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from input_pipeline import custom, protocols
from input_pipeline.images import raise_all
from input_pipeline.index import DataError, Index, Setting
from modes.building import COSINE, Inference, embed, inferences, largest, settings_of, source_of, splits_of, trained
from saai_jax import features, parallel
from saai_jax.features import read
from saai_jax.log import progress, read_metrics
from saai_jax.ranking import comparison, evaluate, results
from saai_jax.report import charts, lists, pictures
from saai_jax.systems.system import System, Tree


def row(setting: Setting, index: Index, embedding: np.ndarray, name: str, how: Inference) -> dict:
    """One line of the results: a setting ranked by one inference."""
    scores = evaluate.score_trials(
        embedding,
        index.identity,
        index.camera,
        setting.trials,
        setting.valid,
        how.distance,
        together=how.together,
        unique_identities=setting.unique_identities,
    )
    labels = {key: getattr(setting, key) for key in ("dataset", "protocol", "direction", "shots")}
    return results.row(
        **labels, inference=name, parameters=how.parameters, per_trial=scores, path=index.path, identity=index.identity
    )


def write_results(
    config: ConfigDict,
    index: Index,
    embedding: np.ndarray,
    workdir: str,
    settings: list[Setting],
    extra: dict[str, np.ndarray],
) -> None:
    """Ranks every setting by every inference, prints the table and writes results.json.

    extra: embeddings to rank by cosine beside the system's, by the name of their row.
    """
    if not parallel.primary():
        return
    plans = [(s, other, name, COSINE) for s in settings for name, other in extra.items()]
    plans += [(s, embedding, name, how) for s in settings for name, how in inferences(config, s).items()]
    if any(name == "k_reciprocal" for _, _, name, _ in plans):
        logging.warning("k_reciprocal looks at all queries at once: not comparable with methods that see one at a time")
    plans.sort(key=lambda plan: settings.index(plan[0]))  # stable: a setting's rows together, baselines first
    rows = [row(s, index, e, *rest) for s, e, *rest in progress(plans, total=len(plans), description="rank")]
    file = os.path.join(workdir, "results.json")
    results.write(file, rows, command=sys.argv, config=config)
    print(results.table(rows), flush=True)
    logging.info("wrote %s", file)


def draw_pictures(
    config: ConfigDict,
    system: System,
    variables: Tree,
    index: Index,
    embedding: np.ndarray,
    setting: Setting,
    workdir: str,
) -> None:
    """Writes curves.png, ranked.png of a setting's first trial and, if the system has maps, attention.png."""
    if not parallel.primary():
        return
    source, file = source_of(config), functools.partial(os.path.join, workdir)
    query, gallery = trial = setting.trials[0]
    shown, load = lists.examples(index.identity, query, gallery), functools.partial(source.pictures, index, "test")
    images = features.Features(embedding, index.identity, index.camera, index.modality, index.path)
    valid = setting.valid(index.identity[query], index.camera[query], index.identity[gallery], index.camera[gallery])
    found = {
        name: lists.ranked(
            images, trial, valid, shown, how.distance, how.parameters, unique_identities=setting.unique_identities
        )
        for name, how in inferences(config, setting).items()
    }
    lists.figure(load, shown, found).savefig(file("ranked.png"), dpi=100)
    if system.maps:
        names = [f"identity {index.identity[r]}, camera {index.camera[r]}" for r in shown]
        maps = looked_at(system.maps, variables, load, shown, index)
        pictures.attention_maps(load(shown), maps, names).savefig(file("attention.png"), dpi=100)
    if os.path.exists(file("metrics.jsonl")):
        charts.training(read_metrics(file("metrics.jsonl"))).savefig(file("curves.png"), dpi=120)


def looked_at(
    function: Callable[..., Any], variables: Tree, load: pictures.Pictures, rows: np.ndarray, index: Index
) -> np.ndarray:
    """The result of a system's maps or pooled for the pictures of some rows."""
    of = functools.partial(evaluate.of_pixels, function, variables)
    return pictures.apply(of, load, rows, index.modality[rows])


def evaluated(config: ConfigDict, workdir: str) -> tuple[Index, System, Tree, np.ndarray, list[Setting]]:
    """Ranks the test set with the run's weights: its images, the system, their embedding f32[n d], the settings."""
    index = source_of(config).read("test")
    settings = settings_of(config, index)
    for setting in settings:
        inferences(config, setting)  # what is wrong with them is said before all pictures are embedded
    system, variables = trained(config, workdir)
    embedding = embed(config, system, variables, index, "test")
    extra = {}
    if config.eval.baselines:
        batches = source_of(config).eval_batches(index, "test", config.eval.batch)
        chance = np.random.default_rng(0).standard_normal((len(index), 16)).astype(np.float32)
        extra = {"chance (random features)": chance, "nearest pixels": evaluate.pixels(batches)}
    write_results(config, index, embedding, workdir, settings, extra)
    return index, system, variables, embedding, settings


def evaluate_run(config: ConfigDict, workdir: str) -> None:
    """Ranks the test set with the run's weights and draws the pictures."""
    index, system, variables, embedding, settings = evaluated(config, workdir)
    draw_pictures(config, system, variables, index, embedding, largest(settings), workdir)


def extract(config: ConfigDict, workdir: str) -> None:
    """Writes features-<split>.npz of config.eval.extract_split: train, validation or test."""
    split = config.eval.extract_split
    found = splits_of(config)
    if split not in found:
        raise ValueError(f"eval.extract_split is {split!r}, this configuration has {', '.join(found)}")
    index = found[split]
    embedding = embed(config, *trained(config, workdir), index, split)
    if not parallel.primary():
        return
    file = os.path.join(workdir, f"features-{split}.npz")
    features.save(file, features.Features(embedding, index.identity, index.camera, index.modality, index.path))
    logging.info("wrote %d features of length %d to %s", *embedding.shape, file)


def read_features(
    config: ConfigDict,
    files: Sequence[str],
    gallery: str | None = None,
    columns: str = "",
    infrared_cameras: Sequence[int | str] = (),
) -> tuple[Index, np.ndarray, list[Setting]]:
    """The images of features files, their embedding f32[n d], and what to rank of it.

    files: one, the ten folds of RegDB, or the queries', with those of the gallery in `gallery`. columns: their names of
    our fields, see `features.read.columns`. infrared_cameras: where no modality is stored. DataError: two files that
    the configured protocol does not rank one against the other.
    """
    named = functools.partial(read.columns, columns)
    if wrong := [camera for camera in infrared_cameras if not str(camera).isdecimal()]:
        raise ValueError(f"--infrared_cameras has {wrong[0]!r}, expected numbers after commas")
    load = functools.partial(read.read, infrared_cameras=[int(camera) for camera in infrared_cameras])
    if gallery or "{split}" in columns:
        if len(files) > 1:
            raise ValueError(f"--features names {len(files)} files, expected the queries' one")
        sides = load(files[0], named("query")), load(gallery or files[0], named("gallery"))
        f, *trial = read.join(*sides)
    else:
        parts = [load(file, named()) for file in files]  # the folds of RegDB
        if any(np.array_equal(parts[0].path, other.path) for other in parts[1:]):
            raise DataError(
                f"--features names {len(files)} files of the same images, expected RegDB's ten folds; for a table of "
                "several systems: --mode=ablate --config=configs/ablation.py:DATASET,carriers --features=NAME=FILE,..."
            )
        f, trial = features.Features(*map(np.concatenate, zip(*parts, strict=True))), None
    index = Index(path=f.path, identity=f.identity, camera=f.camera, modality=f.modality)
    if trial and config.data.query_list:
        raise ValueError("data.query_list and --gallery both say what is query and gallery, expected one of them")
    if trial and protocols.named(config.dataset, config.eval.protocol) == ("custom",):
        return index, f.embedding, custom.of_rows(index, *trial, config.data.rule, dataset=config.dataset)
    return index, f.embedding, settings_between(config, index, *trial) if trial else settings_of(config, index)


def settings_between(config: ConfigDict, index: Index, query: np.ndarray, gallery: np.ndarray) -> list[Setting]:
    """The configured settings with queries and galleries among these rows i32[q], i32[g]. DataError: there is none."""
    try:
        found = [
            s
            for s in settings_of(config, index)
            if all(np.isin(t.query, query).all() and np.isin(t.gallery, gallery).all() for t in s.trials)
        ]
        raise_all([] if found else ["no setting has its queries in --features and its gallery in --gallery"])
    except DataError as error:
        raise DataError(
            f"{error}\nthe protocol of {config.dataset} does not rank these two files; to rank all of --features "
            "against all of --gallery: --config=configs/custom.py"
        ) from error
    return found


def rank(
    config: ConfigDict,
    workdir: str,
    *,
    features: Sequence[str] | None = None,
    gallery: str | None = None,
    columns: str = "",
    infrared_cameras: Sequence[int | str] = (),
) -> None:
    """Ranks features of any program by the data set's protocol, or the file of queries against that of the gallery.

    The arguments are those of `read_features`; writes results.json and prints the table.
    """
    if not features:
        raise ValueError("--mode=rank needs --features=FILE, such as --mode=extract writes")
    index, embedding, settings = read_features(config, features, gallery, columns, infrared_cameras)
    write_results(config, index, embedding, workdir, settings, {})


def compare(files: Sequence[str]) -> None:
    """Tests whether the rows of two results files, or those of one and its cosine rows, differ by chance."""
    if len(files) not in (1, 2):
        raise ValueError(f"--mode=compare needs one or two results.json, got {len(files)} files")
    documents = [results.read(file) for file in files]
    print(comparison.comparison_table(comparison.compare(*documents, files=(files[0], files[-1]))), flush=True)
