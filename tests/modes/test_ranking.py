"""Features files of queries and of gallery: the protocol that ranks them is the configured one, or an error."""

import importlib

import numpy as np
import pytest

from input_pipeline.index import DataError
from modes.ranking import read_features
from saai_jax.features import Features, load, save


@pytest.fixture(scope="module")
def apart(kept):
    """Files of the infrared and of the visible images of a whole file, and the configuration that they fit."""
    folder, config = kept
    whole = load(folder / "features.npz")
    for name, modality in (("infrared", 1), ("visible", 0)):
        save(folder / f"{name}.npz", Features(*(column[whole.modality == modality] for column in whole)))
    return folder, config


def test_two_files_are_ranked_by_the_configured_protocol(apart):
    """By the draws that one file of both is ranked by, under the same names."""
    folder, config = apart
    one, _, (expected,) = read_features(config, [str(folder / "features.npz")])
    other, _, (found,) = read_features(config, [str(folder / "infrared.npz")], str(folder / "visible.npz"))
    assert (found.dataset, found.protocol, found.shots) == ("sysu", "sysu-official-all", "multi")
    assert found.valid is expected.valid
    for a, b in zip(expected.trials, found.trials, strict=True):
        assert one.path[a.query].tolist() == other.path[b.query].tolist()
        assert one.path[a.gallery].tolist() == other.path[b.gallery].tolist()


@pytest.mark.parametrize(
    ("query", "gallery", "message"),
    [
        ("visible", "infrared", "no setting has its queries in --features and its gallery in --gallery"),
        ("infrared", "renamed", "row-000000: expected a file number"),
    ],
)
def test_two_files_that_the_protocol_does_not_fit_are_refused(apart, query, gallery, message):
    folder, config = apart
    whole = load(folder / "visible.npz")
    save(folder / "renamed.npz", whole._replace(path=np.array([f"row-{i:06d}" for i in range(len(whole.path))])))
    files = [str(folder / f"{query}.npz")], str(folder / f"{gallery}.npz")
    with pytest.raises(DataError, match=message) as error:
        read_features(config, *files)
    assert "to rank all of --features against all of --gallery: --config=configs/custom.py" in str(error.value)
    custom = importlib.import_module("configs.custom").get_config()
    named = config.copy_and_resolve_references()
    named.eval.protocol = "custom"
    for c, dataset in ((custom, "custom"), (named, "sysu")):
        index, _, (setting,) = read_features(c, *files)
        assert (setting.dataset, setting.protocol) == (dataset, "custom-same-camera")
        assert set(index.modality[setting.trials[0].query]) == {int(query == "infrared")}


def test_two_files_say_which_of_two_directions(apart):
    folder, config = apart
    config = config.copy_and_resolve_references()
    config.dataset = "regdb"
    index, _, (setting,) = read_features(config, [str(folder / "infrared.npz")], str(folder / "visible.npz"))
    assert (setting.protocol, setting.direction) == ("regdb", "infrared-to-visible")
    assert len(setting.trials[0].query) == (index.modality == 1).sum()
