"""Modes are functions of a configuration, a folder and arguments: here without a command line."""

import json

import numpy as np
import pytest

from configs import ablation as plans
from input_pipeline.index import DataError
from modes import reporting, studies
from modes.ranking import rank, read_features
from saai_jax import affinity
from saai_jax.ranking import results
from tests.ranking.test_ablation import document


def test_studies_of_the_inference_rank_kept_features(kept, tmp_path):
    """No training: only the axis changes, and at the configured value a point is what --mode=rank gives."""
    folder, config = kept
    studies.ablate(config, str(tmp_path), features=[str(folder / "features.npz")])
    assert sorted(p.name for p in tmp_path.glob("*.json")) == ["k1.json", "sim-alpha.json"]
    assert not list(tmp_path.glob("*/"))
    config = config.copy_and_resolve_references()
    config.inference = "aim,sim"
    rank(config, str(tmp_path / "ranked"), features=[str(folder / "features.npz")])
    rows = {row["inference"]: row for row in results.read(tmp_path / "ranked" / "results.json")["rows"]}
    for study, inference, value in (("k1", "aim", 20), ("sim-alpha", "sim", 0.3)):
        points = {point["label"]: point for point in json.loads((tmp_path / f"{study}.json").read_text())}
        assert list(points) == list(plans.INFERENCES[study])
        assert points[value]["mean"]["map"] == pytest.approx(rows[inference]["map"])
        assert len({point["mean"]["map"] for point in points.values()}) > 3


@pytest.mark.parametrize(
    ("name", "value", "distance", "changes"),
    [
        ("k2", 4, affinity.aim, {"k1": 6, "k2": 4}),
        ("k1", 8, affinity.aim, {"k1": 8, "k2": 3}),
        ("sim-K", 5, affinity.sim, {"paths": 5, "neighbours": 5}),
        ("sim-lambda", 0.1, affinity.sim, {"scale": 0.1}),
        ("sim-alpha", 0.5, affinity.sim, {"alpha": 0.5}),
        ("sim-parts", "SGR", affinity.sim, {"mutual": False}),
        ("sim-parts", "MNNR", affinity.sim, {"graph": False}),
        ("sim-parts", "both", affinity.sim, {}),
    ],
)
def test_a_point_of_a_study_is_the_distance_with_one_thing_changed(kept, name, value, distance, changes):
    query, gallery = np.random.default_rng(1).standard_normal((2, 12, 5)).astype(np.float32)
    config = kept[1].copy_and_resolve_references()
    config.sim.kq = config.sim.kg = 4
    config.sim.paths = config.sim.neighbours = 3
    found = studies.studied(config, name, 6, 3)[value].distance(query, gallery)
    given = dict(config.sim) | changes if distance is affinity.sim else changes
    np.testing.assert_array_equal(found, distance(query, gallery, **given))


def test_a_report_of_features_is_titled_by_their_file(kept, tmp_path, monkeypatch):
    folder, config = kept
    titles = []
    monkeypatch.setattr(reporting.page, "write_page", lambda *_, title, **__: titles.append(title))
    reporting.report(config, str(tmp_path), features=[str(folder / "features.npz")])
    assert titles == ["saai-jax: sysu: features.npz"]


def test_sim_without_its_parts_ranks_as_cosine(kept):
    query, gallery = np.random.default_rng(2).standard_normal((2, 20, 5)).astype(np.float32)
    config = kept[1].copy_and_resolve_references()
    config.sim.kq = config.sim.kg = 4
    found = studies.studied(config, "sim-parts", 6, 3)["neither"].distance(query, gallery)
    np.testing.assert_array_equal(np.argsort(found), np.argsort(affinity.cosine(query, gallery)))


def test_carriers_are_averaged_over_their_seeds_and_not_trained_again(tmp_path):
    config = plans.get_config("tiny,carriers").lock()  # without a data set: a training would fail
    for place, runs in enumerate(plans.plan(config)["carriers"].values()):
        for seed, run in enumerate(runs):
            (tmp_path / run.folder).mkdir(parents=True)
            document(tmp_path / run.folder / "results.json", 10 * place + seed, json.loads(run.config.to_json()))
    studies.ablate(config, str(tmp_path))
    points = json.loads((tmp_path / "carriers.json").read_text())
    points = [point for point in points if "single aim" in point["series"]]
    assert [point["label"] for point in points] == list(plans.CARRIERS)
    assert [point["mean"]["map"] for point in points] == [11 + 10 * place for place in range(5)]


def test_features_of_others_give_the_table_of_carriers(kept, tmp_path):
    folder, _ = kept
    file, config = str(folder / "features.npz"), plans.get_config("tiny,carriers")
    config.data.root = str(folder / "data")
    studies.ablate(config, str(tmp_path), features=[f"{name}={file}" for name in ("AGW", "MPANet")])
    points = json.loads((tmp_path / "carriers.json").read_text())
    assert [point["label"] for point in points] == ["AGW"] * 5 + ["MPANet"] * 5
    assert [point["series"].split()[-1] for point in points[:5]] == plans.RANKED.split(",")
    config.inference = plans.RANKED
    rank(config, str(tmp_path), features=[file])
    rows = results.read(tmp_path / "results.json")["rows"]
    assert [point["mean"]["map"] for point in points] == pytest.approx([row["map"] for row in rows] * 2)
    assert len({row["map"] for row in rows}) == 5
    for studied, given in (("carriers", [file]), ("carriers,k1", [f"a={file}"]), ("losses", [file])):
        config.ablation.studies = studied
        with pytest.raises(ValueError, match=r"expected FILE for steps, .*NAME=FILE,NAME=FILE for carriers alone"):
            studies.ablate(config, str(tmp_path), features=given)
    with pytest.raises(
        DataError, match="2 files of the same images, expected RegDB's ten folds; for a table of several"
    ):
        read_features(config, [file, file])
