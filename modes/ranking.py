"""Ranking: of a run, of features that anything made, and of one result against another."""

from __future__ import annotations

import functools
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags, logging
from ml_collections import ConfigDict

from input_pipeline import custom
from input_pipeline.index import Index, Setting
from modes.building import COSINE, Inference, embed, inferences, largest, settings_of, source_of, trained
from saai_jax import features, parallel
from saai_jax.augment import normalise
from saai_jax.features import read
from saai_jax.log import progress, read_metrics
from saai_jax.models.saai import SAAI, feature_map
from saai_jax.ranking import comparison, evaluate, results
from saai_jax.report import charts, lists, pictures

FLAGS = flags.FLAGS


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


def rank(
    config: ConfigDict,
    index: Index,
    embedding: np.ndarray,
    workdir: str,
    settings: list[Setting],
    extra: dict[str, np.ndarray],
) -> None:
    """Ranks every setting by every inference, prints the table and writes results.json.

    extra: embeddings to rank by cosine beside the model's, by the name of their row.
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
    model: SAAI,
    variables: dict,
    index: Index,
    embedding: np.ndarray,
    setting: Setting,
    workdir: str,
):
    """Writes curves.png, and ranked.png and attention.png of a setting's first trial."""
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
    lists.figure(load, shown, found).savefig(file("ranked.png"), dpi=150)
    if model.pooling == "prototypes":
        names = [f"identity {index.identity[r]}, camera {index.camera[r]}" for r in shown]
        attention = pictures.apply(looks(model, variables)["maps"], load, shown, index.modality[shown])
        pictures.attention_maps(load(shown), attention, names).savefig(file("attention.png"), dpi=150)
    if os.path.exists(file("metrics.jsonl")):
        charts.training(read_metrics(file("metrics.jsonl"))).savefig(file("curves.png"), dpi=120)


def looks(model: SAAI, variables: dict) -> dict:
    """What the report asks of a network: maps f32[b p h w] and before f32[b d], of images u8[b h w 3], modality."""

    @jax.jit
    def outputs(variables, image, modality):
        output = model.apply(variables, normalise(image.astype(jnp.float32) / 255), modality, train=False)
        rows, columns = feature_map(model, *image.shape[1:3])
        return output.attention.reshape(*output.attention.shape[:2], rows, columns), output.feature

    return {"maps": lambda *of: outputs(variables, *of)[0], "before": lambda *of: outputs(variables, *of)[1]}


def evaluated(config: ConfigDict, workdir: str) -> tuple[Index, SAAI, dict, np.ndarray, list[Setting]]:
    """Ranks the test set with the run's weights: its images, the network, their embedding f32[n d], the settings."""
    index = source_of(config).read("test")
    settings = settings_of(config, index)
    for setting in settings:
        inferences(config, setting)  # what is wrong with them is said before all pictures are embedded
    model, variables = trained(config, workdir)
    embedding = embed(config, model, variables, index, "test")
    extra = {}
    if config.eval.baselines:
        batches = source_of(config).eval_batches(index, "test", config.eval.batch)
        chance = np.random.default_rng(0).standard_normal((len(index), 16)).astype(np.float32)
        extra = {"chance (random features)": chance, "nearest pixels": evaluate.pixels(batches)}
    rank(config, index, embedding, workdir, settings, extra)
    return index, model, variables, embedding, settings


def mode_evaluate(config: ConfigDict, workdir: str) -> None:
    """Ranks the test set with the run's weights and draws the pictures."""
    index, model, variables, embedding, settings = evaluated(config, workdir)
    draw_pictures(config, model, variables, index, embedding, largest(settings), workdir)


def mode_extract(config: ConfigDict, workdir: str) -> None:
    """Writes features-<split>.npz of config.eval.extract_split: train, validation or test."""
    split = config.eval.extract_split
    found = source_of(config).splits(config.data.images // 2)
    if split not in found:
        raise ValueError(f"eval.extract_split is {split!r}, this configuration has {', '.join(found)}")
    index = found[split]
    embedding = embed(config, *trained(config, workdir), index, split)
    if not parallel.primary():
        return
    file = os.path.join(workdir, f"features-{split}.npz")
    features.save(file, features.Features(embedding, index.identity, index.camera, index.modality, index.path))
    logging.info("wrote %d features of length %d to %s", *embedding.shape, file)


def read_features(config: ConfigDict) -> tuple[Index, np.ndarray, list[Setting]]:
    """What --features, --gallery and --columns name: its images, their embedding f32[n d], and what to rank of it."""
    named = functools.partial(read.columns, FLAGS.columns)
    if wrong := [camera for camera in FLAGS.infrared_cameras if not camera.isdecimal()]:
        raise ValueError(f"--infrared_cameras has {wrong[0]!r}, expected numbers after commas")
    infrared = [int(camera) for camera in FLAGS.infrared_cameras]
    load = functools.partial(read.read, infrared_cameras=infrared)
    if FLAGS.gallery or "{split}" in FLAGS.columns:
        if len(FLAGS.features) > 1:
            raise ValueError(f"--features names {len(FLAGS.features)} files, expected the queries' one")
        query, gallery = FLAGS.features[0], FLAGS.gallery or FLAGS.features[0]
        f, *trial = read.join(load(query, named("query")), load(gallery, named("gallery")))
    else:
        parts = [load(file, named()) for file in FLAGS.features]  # the folds of RegDB
        f, trial = features.Features(*map(np.concatenate, zip(*parts, strict=True))), None
    index = Index(f.path, f.identity, f.camera, f.modality)
    if trial and config.data.query_list:
        raise ValueError("data.query_list and --gallery both say what is query and gallery, expected one of them")
    if trial and not config.eval.protocol:
        return index, f.embedding, custom.of_rows(index, *trial, config.data.rule, dataset=config.dataset)
    return index, f.embedding, settings_of(config, index)


def mode_rank(config: ConfigDict, workdir: str) -> None:
    """Ranks features, whatever made them, by the data set's protocol, or query against gallery where they are apart."""
    if not FLAGS.features:
        raise ValueError("--mode=rank needs --features=FILE, such as --mode=extract writes")
    index, embedding, settings = read_features(config)
    rank(config, index, embedding, workdir, settings, {})


def mode_compare(files: list[str]) -> None:
    """Compares the rows of two results files, or within one the inferences with cosine: could it be chance?"""
    if len(files) not in (1, 2):
        raise ValueError(f"--mode=compare needs one or two results.json, got {len(files)} files")
    documents = [results.read(file) for file in files]
    print(comparison.comparison_table(comparison.compare(*documents, files=(files[0], files[-1]))), flush=True)
