"""What training refuses of a data set, and what of the configuration reaches the loop."""

import importlib

import numpy as np
import pytest

from configs import synthetic
from input_pipeline import regdb
from input_pipeline.index import DataError
from modes import training
from saai_jax import train
from tests.input_pipeline.test_regdb import write_regdb
from tests.input_pipeline.test_sysu import SMALL, write_sysu

SHARED = {1: {"train": (1, 10, 3), "test": (2, 3, 11)}}


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(
    ("name", "validation", "message"),
    [
        ("regdb", False, "identities 3 are in train and in test, expected in one split"),
        ("sysu", False, "identities 1 are in train and in test, expected in one split"),
        ("sysu", True, "identities 3 are in validation and in test, expected in one split"),
    ],
)
def test_an_identity_of_two_splits_is_refused_before_training(tmp_path, monkeypatch, capsys, name, validation, message):
    """In RegDB although the counts are the published ones: an identity was swapped for another."""
    c = importlib.import_module(f"configs.{name}").get_config()
    c.data.root, c.data.validation, c.data.published = str(tmp_path), validation, name == "regdb"
    if name == "regdb":
        counts = {"identities": 3, "visible images": 12, "thermal images": 12}
        monkeypatch.setattr(regdb, "_PUBLISHED", counts)
        write_regdb(tmp_path, SHARED)
    else:
        write_sysu(tmp_path, SMALL)
        (tmp_path / "exp/test_id.txt").write_text(f"{3 if validation else 1},4,5,6")
    with pytest.raises(DataError, match=message):
        training.train(c, str(tmp_path / "work"))
    with pytest.raises(SystemExit):
        training.doctor(c)
    assert message.replace("validation", "val") in capsys.readouterr().out


@pytest.mark.parametrize("words", ["tiny", "tiny,wrimnet"])
def test_the_loop_is_given_what_the_configuration_says(kept, tmp_path, monkeypatch, caplog, words):
    """The seed, the rate of every step, how often it saves: with a loop that only takes notes. And a system's note."""
    c = synthetic.get_config(words)
    c.data.root, c.seed = str(kept[0] / "data"), 7
    t = c.train
    t.epochs, t.learning_rate, t.warmup, t.milestones, t.decay = 5, 0.5, 2, (3, 4), 0.25
    t.log_every, t.save_every, t.validate_every = 3, 2, 4
    given = {}

    def fit(state, batches, epoch, rate, system, **how):
        given.update(how, epoch=epoch, rate=rate)

    monkeypatch.setattr(training.loop, "fit", fit)
    monkeypatch.setattr(training, "initial_state", lambda *_: train.TrainState(np.int32(0), {}, {}, ()))
    training.train_in(c, str(tmp_path))
    said = [record.message for record in caplog.records if "unconfirmed, docs/paper_versus_code.md" in record.message]
    assert len(said) == words.count("wrimnet")
    assert given["seed"] == 7
    assert given["every"] == (3, 2, 4)
    assert sorted(set(given["epoch"].tolist())) == [0, 1, 2, 3, 4]
    by_epoch = [0.25, 0.5, 0.5, 0.125, 0.03125]
    np.testing.assert_allclose(given["rate"], np.array(by_epoch)[given["epoch"]])
    assert given["skip_not_finite"] is False
    assert given["validate"] is not None
