"""Modes are functions of a configuration, a folder and arguments: here without a command line."""

import json

import numpy as np
import pytest

from configs import ablation as plans
from modes import reporting, studies
from modes.ranking import rank
from saai_jax import affinity
from saai_jax.ranking import results


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
