"""Train, evaluate, extract, rank, prepare or examine: python launch.py [--config=FILE[:words]] [--mode=MODE] ..."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from configs import ablation as ablations
from input_pipeline import custom
from input_pipeline import pictures as own_pictures
from input_pipeline.batches import eval_batches
from input_pipeline.images import collect, refuse_unreadable
from input_pipeline.index import DataError, Index, Setting
from input_pipeline.sampling import sampling_plan
from input_pipeline.source import Source
from saai_jax import (
    ablation,
    affinity,
    comparison,
    evaluate,
    feature_files,
    features,
    plots,
    projection,
    report,
    results,
    search,
    torch_weights,
    train,
)
from saai_jax.checkpoint import CheckpointError, Checkpoints, read_config, refuse_other_run, write_config
from saai_jax.log import MetricsLog, progress, read_metrics
from saai_jax.models.saai import SAAI, feature_map
from saai_jax.state import TrainState, adam_l2, initial_variables, new_state

HERE = os.path.dirname(os.path.abspath(__file__))
# What a run may change when it goes on: where things are, what is reported and how often, not what is learned.
FREE = ("inference", "eval.", "aim.", "sim.", "k_reciprocal.")
FREE += ("data.root", "data.split_dir", "data.packed", "data.threads", "data.workers", "data.verify")
FREE += ("train.log_every", "train.save_every", "train.validate_every")
FREE += ("model.weights", "model.identities", "data.query_list", "data.gallery_list", "data.rule")
# What does not matter any more once it is trained.
TRAINED_FREE = (*FREE, "seed", "train.", "loss.", "augment.", "data.identities", "data.images", "data.published")
TRAINED_FREE += ("data.skip_incomplete",)
EXPECTED = (
    DataError,
    CheckpointError,
    features.FeaturesError,
    results.ResultsError,
    torch_weights.WeightsError,
    ValueError,
    FloatingPointError,
    OSError,
)
IMAGENET = "https://download.pytorch.org/models/resnet50-19c8e357.pth"
FLAGS = flags.FLAGS


def source_of(config: ConfigDict) -> Source:
    """The configured data set; a synthetic one without a root has a folder of its own in data/."""
    d = config.data
    options = {k: v for k, v in d.items() if k not in ("identities", "images", "verify")}
    if d.synthetic and not d.root:
        options["root"] = os.path.join("data", f"synthetic-{config.dataset}-{d.synthetic}-{d.synthetic_seed}")
    return Source(config.dataset, **options)


def model_of(config: ConfigDict, identities: int) -> SAAI:
    """The configured network for so many training identities. Raises ValueError for one that cannot be built."""
    m = {**config.model, "identities": identities}
    del m["weights"]
    if m["dtype"] not in ("float32", "bfloat16"):
        raise ValueError(f"model.dtype is {m['dtype']!r}, expected float32 or bfloat16")
    model = SAAI(**{**m, "dtype": jnp.dtype(m["dtype"])})
    feature_map(model, config.data.height, config.data.width)
    return model


def initial_state(config: ConfigDict, model: SAAI) -> TrainState:
    """Step 0: drawn weights, or those that config.model.weights has. Raises WeightsError if they do not fit."""
    variables, teacher = initial_variables(model, config.data.height, config.data.width, seed=config.seed), None
    if config.model.weights:
        stored = torch_weights.read_pth(config.model.weights)
        variables, teacher = torch_weights.from_torch(stored, variables, partial="classifier.weight" not in stored)
    state = new_state(variables, adam_l2(config.train.weight_decay), teacher)
    # Fresh and restored states must be placed alike, or the step compiles twice.
    return jax.device_put(state, jax.sharding.SingleDeviceSharding(jax.devices()[0]))


def trained(config: ConfigDict, workdir: str) -> tuple[SAAI, dict]:
    """The network with the weights to evaluate: those of the run in workdir or, without one, config.model.weights.

    Raises CheckpointError for neither, for both if the run did not start from them, and for another configuration.
    """
    folder, file, weights = (
        os.path.join(workdir, "checkpoints"),
        os.path.join(workdir, "config.json"),
        config.model.weights,
    )
    if os.path.isdir(folder) and os.path.exists(file):
        kept = read_config(file)
        if weights and weights != kept["model"]["weights"]:
            raise CheckpointError(f"{workdir} holds a run of its own; use another --workdir to evaluate {weights}")
        refuse_other_run(file, json.loads(config.to_json()), TRAINED_FREE)
        model = model_of(config, kept["model"]["identities"])
        checkpoints = Checkpoints(folder)
        state = checkpoints.restore(initial_state(config, model), config.eval.checkpoint)
        checkpoints.close()
        if state is not None:
            logging.info("weights of step %d in %s", int(state.step), folder)
            return model, {"params": state.params, "batch_stats": state.batch_stats}
    classifier = torch_weights.read_pth(weights).get("classifier.weight") if weights else None
    if classifier is None:
        what = f"and {weights} is a backbone alone" if weights else "and --config.model.weights names no SAAI model"
        raise CheckpointError(f"{folder} has no checkpoint; train first ({what})")
    model = model_of(config, len(classifier))
    logging.info("weights of %s", weights)
    state = initial_state(config, model)
    return model, {"params": state.params, "batch_stats": state.batch_stats}


def embed(config: ConfigDict, model: SAAI, variables: dict, index: Index, split: str) -> np.ndarray:
    """Retrieval features f32[n d] of a split, with a bar."""
    size = config.eval.batch
    batches = source_of(config).eval_batches(index, split, size)
    bar = progress(batches, total=-(-len(index) // size), description=f"embed {split}")
    return evaluate.extract(model, variables, bar)


class Inference(NamedTuple):
    """A distance, the same for all trials together where there is such a form, and the parameters of both."""

    distance: evaluate.Distance
    together: evaluate.TrialDistances | None
    parameters: dict[str, Any]


COSINE = Inference(affinity.cosine, affinity.cosine_trials, {})


def inferences(config: ConfigDict, setting: Setting) -> dict[str, Inference]:
    """The configured inferences for a setting, by name."""
    family, place = setting.protocol.split("-")[0], setting.protocol.split("-")[-1]
    return inferences_of(config, *config.aim[f"sysu_{place}_{setting.shots}" if family == "sysu" else family])


def inferences_of(config: ConfigDict, k1: int, k2: int) -> dict[str, Inference]:
    """The configured inferences, by name, AIM with k1 and k2."""
    aim = {"k1": k1, "k2": k2} | {key: config.aim[key] for key in ("variant", "remove", "expand")}
    functions = {
        "cosine": (affinity.cosine, affinity.cosine_trials, {}),
        "euclidean": (affinity.euclidean, None, {}),
        "aim": (affinity.aim, affinity.aim_trials, aim),
        "sim": (affinity.sim, None, dict(config.sim)),
        "k_reciprocal": (affinity.k_reciprocal, None, dict(config.k_reciprocal)),
    }
    known = {
        name: Inference(
            functools.partial(distance, **how), functools.partial(together, **how) if together else None, how
        )
        for name, (distance, together, how) in functions.items()
    }
    names = config.inference.split(",")
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"inference={config.inference!r}: {unknown[0]!r} is none of {', '.join(known)}")
    return {name: known[name] for name in names}


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


def settings_of(config: ConfigDict, index: Index) -> list[Setting]:
    """What the configuration reports of a test set."""
    return source_of(config).settings(index, config.eval.search, config.eval.shots, config.eval.protocol)


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
    if "k_reciprocal" in config.inference.split(","):
        logging.warning("k_reciprocal looks at all queries at once: not comparable with methods that see one at a time")
    plans = [(s, other, name, COSINE) for s in settings for name, other in extra.items()]
    plans += [(s, embedding, name, how) for s in settings for name, how in inferences(config, s).items()]
    plans.sort(key=lambda plan: settings.index(plan[0]))  # stable: a setting's rows together, baselines first
    rows = [row(s, index, e, *rest) for s, e, *rest in progress(plans, total=len(plans), description="rank")]
    file = os.path.join(workdir, "results.json")
    results.write(file, rows, command=sys.argv, config=config)
    print(results.table(rows), flush=True)
    logging.info("wrote %s", file)


def pictures(config: ConfigDict, model: SAAI, variables: dict, index: Index, embedding: np.ndarray, workdir: str):
    """Writes curves.png, ranked.png and attention.png."""
    source, file = source_of(config), functools.partial(os.path.join, workdir)
    # The largest gallery shows most: all-search multi-shot of SYSU-MM01.
    setting = max(settings_of(config, index), key=lambda s: len(s.trials[0].gallery))
    query, gallery = setting.trials[0]
    shown, load = report.examples(index.identity, query, gallery), functools.partial(source.pictures, index, "test")
    valid = setting.valid(index.identity[shown], index.camera[shown], index.identity[gallery], index.camera[gallery])
    methods = {name: how.distance for name, how in inferences(config, setting).items()}
    report.ranked_lists(file("ranked.png"), load, embedding, index.identity, shown, (query, gallery), valid, methods)
    if model.pooling == "prototypes":
        names = [f"identity {index.identity[r]}, camera {index.camera[r]}" for r in shown]
        report.attention_maps(file("attention.png"), load, model, variables, shown, index.modality[shown], names)
    if os.path.exists(file("metrics.jsonl")):
        plots.curves(read_metrics(file("metrics.jsonl")), file("curves.png"))


def mode_report(config: ConfigDict, workdir: str) -> None:
    """Writes report.html: of the features file --features, or of the run in workdir with its pictures."""
    file, shown = os.path.join(workdir, "report.html"), {}
    if FLAGS.features:
        index, embedding, settings = read_features(config)
        rank(config, index, embedding, workdir, settings, {})
    else:
        index = source_of(config).read("test")
        model, variables = trained(config, workdir)
        embedding, settings = embed(config, model, variables, index, "test"), settings_of(config, index)
        if not os.path.exists(os.path.join(workdir, "results.json")):
            rank(config, index, embedding, workdir, settings, {})
        load = functools.partial(source_of(config).pictures, index, "test")
    setting = max(settings, key=lambda s: len(s.trials[0].gallery))
    query, gallery = trial = setting.trials[0]
    if not FLAGS.features:
        rows, mapped = (
            report.examples(index.identity, query, gallery),
            projection.people(index.identity, index.modality),
        )
        feature = report.before_neck(load, model, variables, mapped, index.modality[mapped], config.eval.batch)
        shown = {"pictures": load, "shown": rows, "mapped": mapped, "feature": feature}
        if model.pooling == "prototypes":
            shown["attention"] = report.attention(load, model, variables, rows, index.modality[rows])
    every = config.copy_and_resolve_references()
    every.inference = "cosine,sim,k_reciprocal,aim"
    methods = {name: (how.distance, how.parameters) for name, how in inferences(every, setting).items()}
    rules = index.identity[query], index.camera[query], index.identity[gallery], index.camera[gallery]
    report.write_page(
        file,
        results.read(os.path.join(workdir, "results.json")),
        features.Features(embedding, index.identity, index.camera, index.modality, index.path),
        trial,
        setting.valid(*rules),
        methods,
        title=f"saai-jax: {setting.dataset}",
        setting=f"{setting.protocol}, {setting.shots} shot, trial 1 of {len(setting.trials)}",
        unique_identities=setting.unique_identities,
        **shown,
    )
    logging.info("wrote %s and the figures beside it", file)


def refuse_late_failures(config: ConfigDict, test: Index, validation: Index | None) -> None:
    """Looks at everything that the evaluation will need before hours are spent on training."""
    for setting in settings_of(config, test):
        inferences(config, setting)
    if config.eval.checkpoint not in ("last", "best"):
        raise ValueError(f"eval.checkpoint is {config.eval.checkpoint!r}, expected 'last' or 'best'")
    if config.eval.checkpoint == "best" and validation is None:
        raise ValueError("eval.checkpoint=best needs identities to choose by: add the preset 'validate'")


def mode_train(config: ConfigDict, workdir: str) -> None:
    """Trains, or goes on where the run in workdir stopped, and evaluates."""
    c, t, source, file = config, config.train, source_of(config), os.path.join(workdir, "config.json")
    splits = source.splits(c.data.images // 2)
    index, validation = splits["train"], splits.get("validation")
    refuse_late_failures(c, splits["test"], validation)
    shape = {"identities": c.data.identities, "images": c.data.images, "epochs": t.epochs, "seed": c.seed}
    plan = sampling_plan(index.identity, index.modality, **shape)
    c.model.identities = int(index.labels().max()) + 1
    model = model_of(c, c.model.identities)
    counted = plan.steps_per_epoch
    counts = len(index), c.model.identities, len(plan.rows), counted.min(), counted.max()
    logging.info("%d images of %d identities; %d steps, %d to %d an epoch", *counts)
    if not (c.model.weights or source.synthetic):
        logging.warning(
            "training from random weights: published results start from ImageNet. Fetch %s and name it with "
            "--config.model.weights",
            IMAGENET,
        )
    if c.data.verify:
        source.verify(splits)
    checkpoints = Checkpoints(os.path.join(workdir, "checkpoints"))
    fresh = initial_state(c, model)
    if checkpoints.any():
        refuse_other_run(file, json.loads(c.to_json()), FREE)
    state = checkpoints.restore(fresh) or fresh
    write_config(file, json.loads(c.to_json()))
    start = int(state.step)
    if start:
        logging.info("going on after step %d of %d", start, len(plan.rows))

    def validate(variables: dict) -> dict[str, float]:
        assert validation is not None
        vector = embed(c, model, variables, validation, "validation")
        scored = row(source.validation_setting(validation), validation, vector, "cosine", COSINE)
        return {key: scored[key] for key in ("rank1", "map")}

    with MetricsLog(os.path.join(workdir, "metrics.jsonl"), start) as log:
        state = train.fit(
            state,
            source.train_batches(index, plan.rows[start:]),
            plan.epoch,
            train.learning_rate(
                plan.epoch, base=t.learning_rate, warmup=t.warmup, milestones=t.milestones, decay=t.decay
            ),
            train.teacher_rate(plan.epoch, base=t.teacher_rate),
            model=model,
            recipe=train.Recipe(**c.loss, **c.augment, weight_decay=t.weight_decay),
            seed=c.seed,
            checkpoints=checkpoints,
            log=log,
            log_every=t.log_every,
            save_every=t.save_every,
            validate=validate if validation is not None else None,
            validate_every=t.validate_every,
        )
    checkpoints.close()
    mode_evaluate(c, workdir)


def mode_evaluate(config: ConfigDict, workdir: str) -> None:
    """Ranks the test set with the run's weights and draws the pictures."""
    index = source_of(config).read("test")
    model, variables = trained(config, workdir)
    embedding = embed(config, model, variables, index, "test")
    extra = {}
    if config.eval.baselines:
        batches = source_of(config).eval_batches(index, "test", config.eval.batch)
        chance = np.random.default_rng(0).standard_normal((len(index), 16)).astype(np.float32)
        extra = {"chance (random features)": chance, "nearest pixels": evaluate.pixels(batches)}
    rank(config, index, embedding, workdir, settings_of(config, index), extra)
    pictures(config, model, variables, index, embedding, workdir)


def mode_extract(config: ConfigDict, workdir: str) -> None:
    """Writes features-<split>.npz of config.eval.extract_split: train, validation or test."""
    split = config.eval.extract_split
    found = source_of(config).splits(config.data.images // 2)
    if split not in found:
        raise ValueError(f"eval.extract_split is {split!r}, this configuration has {', '.join(found)}")
    index = found[split]
    embedding = embed(config, *trained(config, workdir), index, split)
    file = os.path.join(workdir, f"features-{split}.npz")
    features.save(file, features.Features(embedding, index.identity, index.camera, index.modality, index.path))
    logging.info("wrote %d features of length %d to %s", *embedding.shape, file)


def read_features(config: ConfigDict) -> tuple[Index, np.ndarray, list[Setting]]:
    """What --features, --gallery and --columns name: its images, their embedding f32[n d], and what to rank of it."""
    named = functools.partial(feature_files.columns, FLAGS.columns)
    infrared = [int(camera) for camera in FLAGS.infrared_cameras]
    read = functools.partial(feature_files.read, infrared_cameras=infrared)
    if FLAGS.gallery or "{split}" in FLAGS.columns:
        if len(FLAGS.features) > 1:
            raise ValueError(f"--features names {len(FLAGS.features)} files, expected the queries' one")
        query, gallery = FLAGS.features[0], FLAGS.gallery or FLAGS.features[0]
        f, *trial = feature_files.join(read(query, named("query")), read(gallery, named("gallery")))
    else:
        parts = [read(file, named()) for file in FLAGS.features]  # the folds of RegDB
        f, trial = features.Features(*map(np.concatenate, zip(*parts, strict=True))), None
    index = Index(f.path, f.identity, f.camera, f.modality)
    if trial and not config.eval.protocol:
        return index, f.embedding, custom.of_rows(index, *trial, config.data.rule, dataset=config.dataset)
    return index, f.embedding, settings_of(config, index)


def mode_rank(config: ConfigDict, workdir: str) -> None:
    """Ranks features, whatever made them, by the data set's protocol, or query against gallery where they are apart."""
    if not FLAGS.features:
        raise ValueError("--mode=rank needs --features=FILE, such as --mode=extract writes")
    index, embedding, settings = read_features(config)
    rank(config, index, embedding, workdir, settings, {})


def embed_folder(config: ConfigDict, model: SAAI, variables: dict, folder: str, modality: str) -> features.Features:
    """The retrieval features of all images below a folder, all of one modality."""
    d, size = config.data, config.eval.batch
    index = own_pictures.read_folder(folder, modality, identities=FLAGS.identities)
    images = own_pictures.Pictures(folder, index)
    refuse_unreadable(images, folder, d.threads)
    how = {"height": d.height, "width": d.width, "batch": size, "threads": d.threads, "workers": d.workers}
    bar = progress(eval_batches(images, index, **how), total=-(-len(index) // size), description=f"embed {folder}")
    embedding = evaluate.extract(model, variables, bar)
    return features.Features(embedding, index.identity, index.camera, index.modality, index.path)


def mode_embed(config: ConfigDict, workdir: str) -> None:
    """Writes features-<folder>.npz of one's own pictures, all of one modality, with the run's weights."""
    if not FLAGS.pictures:
        raise ValueError("--mode=embed needs --pictures=DIR and --modality=visible or infrared")
    found = embed_folder(config, *trained(config, workdir), FLAGS.pictures, FLAGS.modality)
    file = os.path.join(workdir, f"features-{os.path.basename(os.path.normpath(FLAGS.pictures))}.npz")
    features.save(file, found)
    logging.info("wrote %d features of length %d to %s", *found.embedding.shape, file)


def mode_search(config: ConfigDict, workdir: str) -> None:
    """Ranks one folder of one's own pictures against another by every configured inference: tables and a picture."""
    if not FLAGS.query or not FLAGS.gallery:
        raise ValueError("--mode=search needs --query=DIR of infrared and --gallery=DIR of visible pictures, or turned")
    model, variables = trained(config, workdir)
    other = {"infrared": "visible", "visible": "infrared"}[FLAGS.modality]
    query = embed_folder(config, model, variables, FLAGS.query, FLAGS.modality)
    gallery = embed_folder(config, model, variables, FLAGS.gallery, other)
    rows = np.arange(min(8, len(query.path)))
    size = config.data.height, config.data.width
    images = own_pictures.decoded(FLAGS.query, Index(*query[-1:], *query[1:-1]), rows, *size)
    for name, how in inferences_of(config, *config.aim.own).items():
        found = search.search(query.embedding, gallery.embedding, how.distance, FLAGS.top)
        file = os.path.join(workdir, f"ranked-{name}")
        search.write_csv(f"{file}.csv", found, query.path, gallery.path)
        shown = affinity.Nearest(found.index[rows], found.distance[rows])
        of = own_pictures.decoded(FLAGS.gallery, Index(*gallery[-1:], *gallery[1:-1]), shown.index, *size)
        search.lists_figure(images, of, shown, query.path[rows]).savefig(f"{file}.png", dpi=120)
        logging.info("wrote %s.csv and %s.png", file, file)


def mode_ablate(config: ConfigDict, workdir: str) -> None:
    """Trains every run of the configured studies that is not finished; writes a table and a plot of each."""
    plan = ablations.plan(config)
    runs = ablations.ordered(plan)

    def file(run) -> str:
        return os.path.join(workdir, run.folder, "results.json")

    for number, run in enumerate(runs, 1):
        logging.info("run %d of %d: %s", number, len(runs), run.folder)
        if not ablation.finished(file(run), json.loads(run.config.to_json())):
            mode_train(run.config, os.path.dirname(file(run)))
    for name, points in plan.items():
        found = ablation.trained({label: [file(run) for run in of_seeds] for label, of_seeds in points.items()})
        print(ablation.write(workdir, name, found, ablations.TITLES[name]), flush=True)


def mode_compare(files: list[str]) -> None:
    """Compares the rows of two results files, or within one the inferences with cosine: could it be chance?"""
    if len(files) not in (1, 2):
        raise ValueError(f"--mode=compare needs one or two results.json, got {len(files)} files")
    documents = [results.read(file) for file in files]
    print(comparison.comparison_table(comparison.compare(*documents, files=(files[0], files[-1]))), flush=True)


def mode_prepare(config: ConfigDict, workdir: str) -> None:
    """Packs every split into array_record files below config.data.packed, or workdir/packed."""
    source, folder = source_of(config), config.data.packed or os.path.join(workdir, "packed")
    splits = source.splits(config.data.images // 2)
    collect(lambda name: source.pack(splits[name], name, folder), splits)
    logging.info("packed %s; train from it with --config.data.packed=%s", ", ".join(splits), folder)


def mode_doctor(config: ConfigDict, workdir: str) -> None:
    """Lists everything that is wrong with the data set on disk; exits with 1 if anything is that stops training."""
    del workdir
    source = source_of(config)
    found = source.examine()
    print("\n".join(found) if found else f"{source.root}: nothing wrong was found")
    if any(not line.startswith("warning:") for line in found):
        sys.exit(1)


MODES = {
    "train": mode_train,
    "evaluate": mode_evaluate,
    "extract": mode_extract,
    "rank": mode_rank,
    "report": mode_report,
    "embed": mode_embed,
    "search": mode_search,
    "ablate": mode_ablate,
    "prepare": mode_prepare,
    "doctor": mode_doctor,
}

config_flags.DEFINE_config_file(
    "config", os.path.join(HERE, "configs", "synthetic.py"), "A file in configs/, with presets after a colon."
)
flags.DEFINE_enum("mode", "train", [*MODES, "compare"], "What to do; train evaluates too.")
flags.DEFINE_string("workdir", None, "Where the run is kept; workdir/<config> by default.")
flags.DEFINE_bool("traceback", False, "Where an error came from, not only what it is.")
flags.DEFINE_list("features", None, "--mode=rank: the features file; RegDB's ten folds after commas.")
flags.DEFINE_string("gallery", None, "rank: the gallery's features, if --features has the queries'; search: a folder.")
flags.DEFINE_string("query", None, "--mode=search: the folder of the query pictures.")
flags.DEFINE_string("pictures", None, "--mode=embed: the folder of the pictures.")
flags.DEFINE_enum("modality", "infrared", ["infrared", "visible"], "embed: of the pictures; search: of the queries.")
flags.DEFINE_bool("identities", False, "--mode=embed: folders directly below --pictures are named by identity.")
flags.DEFINE_integer("top", 10, "--mode=search: how many images are listed for a query.", lower_bound=1)
flags.DEFINE_string("columns", "", "--mode=rank: their names of our fields, embedding=feat,identity=label,...")
flags.DEFINE_list("infrared_cameras", [], "--mode=rank: cameras of infrared images, where no modality is stored.")


def main(arguments: list[str]) -> None:
    """Runs the mode; an expected error is one message, not a traceback."""
    logging.set_verbosity(logging.INFO)
    # The libraries log every step they take to the same place; of theirs only warnings are for the user.
    logging.get_absl_handler().addFilter(lambda r: r.levelno >= 30 or "site-packages" not in r.pathname)
    name = config_flags.get_config_filename(FLAGS["config"])
    name = os.path.basename(name).replace(".py", "").replace(":", "-")
    # What ranks other people's features must not write over a run's own results.
    workdir = FLAGS.workdir or os.path.join("workdir", f"rank-{name}" if FLAGS.features else name)
    started = time.monotonic()
    try:
        if FLAGS.mode == "compare":
            mode_compare(arguments[1:])
        elif arguments[1:]:
            raise ValueError(f"{arguments[1]!r} is no flag; did you mean --config={arguments[1]} or --features?")
        else:
            MODES[FLAGS.mode](FLAGS.config, workdir)
    except EXPECTED as error:
        if FLAGS.traceback:
            raise
        sys.exit(f"launch.py: {error} (--traceback shows where)")
    logging.info("%s took %.0f s", FLAGS.mode, time.monotonic() - started)


def parse(argv: list[str]) -> list[str]:
    """absl's flags, with a wrong one as a message instead of a traceback."""
    try:
        return FLAGS(argv)
    except (flags.Error, AttributeError, OSError) as error:
        # ml_collections puts the whole traceback of a config file's error into the message.
        message = str(error).strip()
        sys.exit(f"launch.py: {message.splitlines()[-1] if 'Traceback' in message else message}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
