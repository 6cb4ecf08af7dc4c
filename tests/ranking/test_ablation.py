"""Studies: what they rank, what they average, which runs they ask for, and what they draw."""

import functools
import itertools
import json

import jax
import numpy as np
import pytest

from configs import ablation as plans
from configs import synthetic
from modes.building import system_of
from saai_jax import affinity
from saai_jax.features.store import Features, FeaturesError, save
from saai_jax.ranking import ablation, results
from saai_jax.ranking.ablation import Inference, Point

RANDOM = np.random.RandomState(0)
INFERENCES = ("cosine", "aim")


class Rules:
    """A setting of one protocol: rows 0-9 search rows 10-39, in two trials."""

    protocol, direction, shots, unique_identities = "custom", "infrared-to-visible", "-", False
    trials = ((np.arange(10), np.arange(10, 40)), (np.arange(10), np.arange(40, 70)))

    @staticmethod
    def valid(query_identity, query_camera, gallery_identity, gallery_camera):
        return np.ones((len(query_identity), len(gallery_identity)), bool)


def features(noise=1.0):
    identity = np.arange(70, dtype=np.int32) % 10
    person = np.random.RandomState(1).standard_normal((10, 8))[identity]
    embedding = (person + noise * RANDOM.standard_normal(person.shape)).astype(np.float32)
    modality = (np.arange(70) >= 10).astype(np.int32)
    return Features(embedding, identity, modality + 1, 1 - modality, np.array([f"{i}.png" for i in range(70)]))


def naive(kept, distance):
    """rank-1 and mAP of each trial in percent, one query at a time."""
    scores = []
    for query, gallery in Rules.trials:
        matrix = np.asarray(distance(kept.embedding[query], kept.embedding[gallery]), np.float64)
        first, precision = [], []
        for row, i in zip(matrix, query, strict=True):
            match = kept.identity[gallery][np.argsort(row, kind="stable")] == kept.identity[i]
            first.append(match[0])
            precision.append(np.mean([match[: k + 1].mean() for k in np.flatnonzero(match)]))
        scores.append((100 * np.mean(first), 100 * np.mean(precision)))
    return np.array(scores)


def test_a_study_ranks_as_a_loop_does():
    kept = features(1.5)
    points = ablation.study({"ours": kept}, [Rules()], ablation.methods(k1=4, k2=2))
    assert [p.label for p in points] == ["cosine", "SGR", "MNNR", "SIM", "AIM"]
    aim = functools.partial(affinity.aim, k1=4, k2=2)
    parts = [functools.partial(affinity.sim, **{part: False}) for part in ("mutual", "graph")]
    for point, distance in zip(points, (affinity.cosine, *parts, affinity.sim, aim), strict=True):
        expected = naive(kept, distance)
        assert (point.series, point.draws) == ("custom infrared-to-visible", 2)
        np.testing.assert_allclose(list(point.mean.values()), expected.mean(0), atol=1e-4)
        np.testing.assert_allclose(list(point.std.values()), expected.std(0), atol=1e-4)


def test_several_features_are_named_and_of_the_same_images():
    kept = {"a": features(), "b": features(2.0)}
    points = ablation.study(kept, [Rules()], {"cosine": Inference(affinity.cosine)})
    assert [p.label for p in points] == ["a, cosine", "b, cosine"]
    kept["b"] = kept["b"]._replace(path=kept["b"].path[::-1])
    with pytest.raises(ValueError, match="features 'b' are not of the same images"):
        ablation.study(kept, [Rules()], {"cosine": Inference(affinity.cosine)})


def test_grids_are_the_papers():
    query, gallery = RANDOM.standard_normal((2, 5, 8)).astype(np.float32)
    assert list(ablation.over_k1(range(5, 31, 5), k2=6)) == [5, 10, 15, 20, 25, 30]
    k1 = ablation.over_k1([3], k2=2, variant="paper")[3].distance
    k2 = ablation.over_k2([2], k1=3, variant="paper")[2].distance
    released, paper = (inference.distance for inference in ablation.variants(k1=3, k2=2).values())
    np.testing.assert_array_equal(k1(query, gallery), k2(query, gallery))
    np.testing.assert_array_equal(k1(query, gallery), paper(query, gallery))
    assert np.abs(released(query, gallery) - paper(query, gallery)).max() > 0.1
    for (name, step), how in zip(
        ablation.steps(k1=3, k2=2).items(), [(False, False), (True, False), (False, True), (True, True)], strict=True
    ):
        expected = affinity.aim(query, gallery, k1=3, k2=2, remove=how[0], expand=how[1])
        np.testing.assert_array_equal(step.distance(query, gallery), expected, err_msg=str(name))


def test_features_are_made_once(tmp_path):
    file = tmp_path / "f.npz"
    save(tmp_path / "source.npz", features())
    commands = [["cp", str(tmp_path / "source.npz"), str(tmp_path / "part.npz")]]
    commands += [["mv", str(tmp_path / "part.npz"), str(file)]]
    made = ablation.load_or_make(file, *commands)
    (tmp_path / "source.npz").unlink()
    np.testing.assert_array_equal(ablation.load_or_make(file, *commands).embedding, made.embedding)
    with pytest.raises(FeaturesError, match="no such file"):
        ablation.load_or_make(tmp_path / "other.npz", ["true"])


def document(file, rank1, config=None, shots=("single", "multi")):
    """A results file in which AIM is ten percent better than cosine."""
    rows = []
    for name, inference in itertools.product(shots, INFERENCES):
        labels = dict(dataset="sysu", protocol="all", direction="-", shots=name, inference=inference)
        percent = dict.fromkeys(results.METRICS, rank1 + 10 * (inference == "aim"))
        spread = dict.fromkeys(results.METRICS, 0.0)
        rows.append(labels | percent | dict(parameters={}, trials=1, queries=5, gallery=10, std=spread, per_trial=[]))
    results.write(file, rows, command="test", config=config or {})
    return file


def test_trainings_are_averaged_over_the_seeds(tmp_path):
    files = {label: [document(tmp_path / f"{label}{n}.json", label + n) for n in (0, 2, 4)] for label in (20, 40)}
    points = ablation.trained(files)
    assert [(p.label, p.series) for p in points] == [
        (label, f"all {shots} {inference}")
        for label in (20, 40)
        for shots in ("single", "multi")
        for inference in INFERENCES
    ]
    assert points[0].mean == {"rank1": 22.0, "map": 22.0}
    assert points[0].std == {"rank1": 2.0, "map": 2.0}
    assert points[1].mean["map"] == 32.0
    assert {p.draws for p in points} == {3}
    assert all(np.isnan(p.std["map"]) for p in ablation.trained({20: files[20][:1]}))  # one seed cannot tell
    document(tmp_path / "202.json", 1, shots=["multi"])
    with pytest.raises(results.ResultsError, match=r"202\.json: has other rows than .*200\.json: all single aim"):
        ablation.trained(files)


def test_finished_runs_are_those_of_the_same_configuration(tmp_path):
    config = {"seed": 0, "model": {"parts": 7, "identities": 0}, "train": {"milestones": (1, 2)}}
    file = tmp_path / "results.json"
    assert not ablation.finished(file, config)
    document(file, 1, {**config, "model": {"parts": 7, "identities": 96}})
    assert ablation.finished(file, config)
    assert not ablation.finished(file, {**config, "seed": 1})
    assert not ablation.finished(file, {**config, "model": {"parts": 6, "identities": 0}})
    file.write_text("{")
    with pytest.raises(results.ResultsError, match=r"results\.json: not a readable JSON"):
        ablation.finished(file, config)


def points(labels, series=("all single cosine", "all single aim"), std=1.0):
    values = [{"rank1": 10.0 + i, "map": 20.0 + i} for i in range(len(labels) * len(series))]
    deviation = dict.fromkeys(("rank1", "map"), std)
    every = itertools.product(labels, series)
    return [Point(label, name, value, deviation, 3) for (label, name), value in zip(every, values, strict=True)]


def test_table():
    assert ablation.table(points([1, 3]), "p").splitlines() == [
        "| p | cosine: rank-1 |  cosine: mAP |  aim: rank-1 |     aim: mAP |",
        "| - | -------------: | -----------: | -----------: | -----------: |",
        "| 1 |   10.00 ± 1.00 | 20.00 ± 1.00 | 11.00 ± 1.00 | 21.00 ± 1.00 |",
        "| 3 |   12.00 ± 1.00 | 22.00 ± 1.00 | 13.00 ± 1.00 | 23.00 ± 1.00 |",
    ]
    alone = ablation.table(points(["a"], ["all single"], float("nan")), "losses").splitlines()
    assert alone[0] == "| losses | all single: rank-1 | all single: mAP |"
    assert alone[2] == "| a      |              10.00 |           20.00 |"
    gap = ablation.table(points([1, 3])[:-1], "p").splitlines()[-1]
    assert gap == "| 3 |   12.00 ± 1.00 | 22.00 ± 1.00 |              |              |"
    wide = ablation.table(points([1], ["cosine", "aim", "sim", "k_reciprocal"]), "p", 100).split("\n\n")
    assert [text.count("rank-1") for text in wide] == [3, 1]
    assert max(len(line) for text in wide for line in text.splitlines()) <= 100


@pytest.mark.parametrize(("labels", "style"), [([0.0, 0.5, 1.0], "-"), (["L_id", "all of the losses", "x"], "None")])
def test_chart(labels, style):
    figure = ablation.chart(points(labels), "axis")
    for axes, key in zip(figure.axes, (10, 20), strict=True):
        assert axes.get_xlabel() == "axis"
        assert [tick.get_text() for tick in axes.get_xticklabels()] == [str(label) for label in labels]
        assert len(axes.containers) == 2
        for n, (line, _, (bars,)) in enumerate(axes.containers):
            assert line.get_linestyle() == style
            np.testing.assert_array_equal(line.get_ydata(), [key + n, key + n + 2, key + n + 4])
            ends = np.array(bars.get_segments())[:, :, 1]
            np.testing.assert_allclose(ends[:, 1] - ends[:, 0], 2)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cosine", "aim"]
    assert not ablation.chart(points(labels, ["all"], float("nan")), "axis").legends


def test_a_study_is_written(tmp_path):
    text = ablation.write(tmp_path / "new", "parts", points([1, 3], std=float("nan")), "prototypes p")
    assert (tmp_path / "new" / "parts.md").read_text() == text + "\n"
    kept = json.loads((tmp_path / "new" / "parts.json").read_text())
    assert kept[0]["label"] == 1
    assert kept[0]["std"] == {"rank1": None, "map": None}
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == [
        *(f"parts.{ending}" for ending in ("json", "md", "png", "svg"))
    ]


def test_the_studies_are_the_papers_and_share_their_runs():
    config = plans.get_config().lock()  # as the command line gives it
    plan = plans.plan(config)
    assert list(plan) == ["pooling", "losses", "lambda", "parts", "rho1", "rho2", "carriers"]
    assert [*plan, *plans.INFERENCES] == plans.named(config)
    assert [*plans.STUDIES, "carriers", *plans.INFERENCES] == list(plans.TITLES)
    carriers = plan.pop("carriers")
    assert [runs[2].folder for runs in carriers.values()] == [f"{word}/seed2" for word in plans.CARRIERS.values()]
    runs = plans.ordered(plan)
    assert len(runs) == 3 * 23
    assert len(plans.ordered(plan | {"carriers": carriers})) == 3 * 28
    assert len({run.folder for run in runs}) == len(runs)
    assert [run.config.seed for run in runs] == [seed for seed in (0, 1, 2) for _ in range(23)]
    everything = {run.folder: run for points in plan.values() for seeds in points.values() for run in seeds}
    for run in runs:  # one folder, one configuration
        assert run.config.to_json() == everything[run.folder].config.to_json()
        assert "ablation" not in run.config
    # the full model is a point of every study
    assert all("unchanged/seed0" in [seeds[0].folder for seeds in points.values()] for points in plan.values())
    assert plan["rho2"][0.1][2].folder == "loss.rho2=0.1/seed2"
    assert plan["losses"]["L_id"][0].config.loss.to_dict() == config.loss.to_dict() | {
        "separation": 0.0,
        "diversity": 0.0,
    }
    baseline = plan["pooling"]["baseline: stripes, one neck, L_id"][0].config
    one_word = synthetic.get_config("baseline")
    for part in ("model", "loss", "train"):
        assert baseline[part].to_dict() == one_word[part].to_dict()


WRIMNET = ["miim-aicl", "miim-blocks", "miim-sharing", "miim-fusion", "auxiliary"]


def test_studies_of_another_system_are_those_of_its_word():
    """WRIM-Net's: its supplement's tables, what it is without its parts, and nothing of SAAI."""
    config = plans.get_config("wrimnet").lock()
    assert plans.named(config) == [*WRIMNET, "carriers", *plans.INFERENCES]
    plan = plans.plan(config)
    assert list(plan) == [*WRIMNET, "carriers"]
    del plan["carriers"]
    assert [len(points) for points in plan.values()] == [4, 8, 3, 3, 2]
    assert len(plans.ordered(plan)) == 3 * (3 + 6 + 2 + 2 + 1 + 1)  # the full model and the one without MIIM once
    assert all("unchanged/seed0" in [seeds[0].folder for seeds in points.values()] for points in plan.values())
    assert plan["miim-blocks"]["1+2"][2].folder == "model.miim=(1,2)/seed2"
    changed = {name: {label: runs[0].config for label, runs in points.items()} for name, points in plan.items()}
    assert [c.model.miim for c in changed["miim-blocks"].values()] == [
        *((), (1,), (2,), (3,), (4,), (1, 2), (3, 4), (1, 2, 3, 4))
    ]
    assert [c.model.separate for c in changed["miim-sharing"].values()] == [(), (1, 2, 3, 4), (1, 2)]
    assert [c.model.fusion for c in changed["miim-fusion"].values()] == ["multiply", "add", "multiply-sigmoid"]
    assert [c.model.auxiliary for c in changed["auxiliary"].values()] == [False, True]
    parts = [(bool(c.model.miim), c.model.auxiliary, c.loss.lambda2) for c in changed["miim-aicl"].values()]
    assert parts == [(False, False, 0.0), (True, False, 0.0), (False, True, 0.1), (True, True, 0.1)]
    for points in changed.values():
        for c in points.values():
            jax.eval_shape(system_of(c, 5).init, jax.random.key(0))  # each can be built


@pytest.mark.parametrize(
    ("words", "field", "fitting"),
    [
        ("miim-blocks", "model.miim, which the system 'saai'", "wrimnet"),
        ("sysu,mpanet,auxiliary", "model.auxiliary, which the system 'mpanet'", "wrimnet"),
        ("wrimnet,losses", "loss.separation, which the system 'wrimnet'", "saai, baseline"),
        ("agw,losses,k1", "loss.separation, which the system 'agw'", "saai, baseline"),
    ],
)
def test_a_study_that_does_not_fit_the_system_is_refused(words, field, fitting):
    config, study = plans.get_config(words), next(word for word in words.split(",") if word in plans.STUDIES)
    message = f"ablation.studies: '{study}' changes {field} does not have; use a word of those that do: {fitting}$"
    for refuses in (plans.named, plans.plan):
        with pytest.raises(ValueError, match=message):
            refuses(config)
    assert plans.named(plans.get_config("agw")) == ["carriers", *plans.INFERENCES]


def test_what_is_changed_is_counted_from_the_configuration():
    config = plans.get_config("parts")
    config.model.parts, config.seed, config.ablation.seeds = 3, 5, 1
    folders = [run.folder for run in plans.ordered(plans.plan(config))]
    assert folders == [
        f"{what}/seed5" for what in ("model.parts=1", "unchanged", *(f"model.parts={p}" for p in (5, 7, 9)))
    ]


def test_carriers_are_their_words_and_what_the_command_line_changed():
    config = plans.get_config("carriers,agw")  # whose own word makes no difference
    config.train.epochs, config.seed = 3, 5
    for word, (run, *_) in zip(plans.CARRIERS.values(), plans.plan(config)["carriers"].values(), strict=True):
        own = synthetic.get_config(word)
        own.train.epochs, own.seed, own.inference = 3, 5, plans.RANKED
        own.eval = config.eval  # one protocol for all, multi-shot as in the papers
        assert run.config.to_json() == own.to_json()
    assert (config.eval.search, config.eval.shots) == ("all", "multi")
    assert plans.get_config("carriers,singleshot").eval.shots == "single"
    assert plans.get_config("carriers,sysu").eval.search == "all"
    config.model.mirror = True
    with pytest.raises(
        ValueError, match=r"model\.mirror=True: the study carriers trains saai, which has no such field"
    ):
        plans.plan(config)


@pytest.mark.parametrize("name", ["sysu", "regdb", "llcm"])
def test_a_word_names_the_data_set(name):
    config = plans.get_config(f"{name},losses,k1")
    assert (config.dataset, config.data.root, config.data.synthetic) == (name, f"data/{name}", "")
    assert config.train.epochs == 160
    runs = plans.ordered(plans.plan(config))
    assert len(runs) == 3 * 4
    assert {run.config.dataset for run in runs} == {name}
    assert plans.get_config(f"{name},losses,quick").train.milestones == (27, 40)
    assert plans.get_config("sysu,multishot,losses").eval.shots == "multi"


def test_words():
    assert plans.get_config("synthetic,regdb,tiny").data.synthetic == "tiny"
    with pytest.raises(ValueError, match="unknown preset 'tiny'.*Studies are pooling"):
        plans.get_config("sysu,tiny")
    config = plans.get_config("losses,quick,tiny,parts")
    assert config.ablation.studies == "losses,parts"
    assert config.data.synthetic == "tiny"
    assert config.train.epochs == 2
    assert plans.get_config("quick").train.epochs < plans.get_config().train.epochs
    with pytest.raises(ValueError, match="Did you mean 'losses'"):
        plans.get_config("loses")
    config.ablation.studies = "losses,pars"
    with pytest.raises(ValueError, match=r"ablation\.studies: 'pars' is none of pooling, losses"):
        plans.plan(config)
    config.ablation.studies = ""
    with pytest.raises(ValueError, match="0 studies"):
        plans.plan(config)
    del config["ablation"]
    with pytest.raises(ValueError, match=r"use --config=configs/ablation\.py"):
        plans.plan(config)
