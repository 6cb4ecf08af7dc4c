"""What training refuses of a data set, and what of the configuration reaches the loop."""

import importlib

import numpy as np
import pytest

from configs import synthetic
from input_pipeline import regdb
from input_pipeline import synthetic as drawn
from input_pipeline.index import DataError
from modes import reporting, training
from saai_jax import train
from saai_jax.log import read_metrics
from saai_jax.ranking import results
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


@pytest.mark.parametrize(
    ("words", "sampler", "message"),
    [
        ("", "cameras", "market1501 has visible images alone, and the system 'saai' learns from two modalities"),
        ("dukemtmc,agw", "cameras", "dukemtmc has visible images alone, and the system 'agw' .*--mode=rank"),
        ("lba", "replacement", "visible images alone: data.sampler is 'replacement', expected 'cameras'"),
    ],
)
def test_what_needs_two_modalities_is_refused_of_visible_images(tmp_path, words, sampler, message):
    c = importlib.import_module("configs.market").get_config(words)
    c.data.sampler = sampler
    with pytest.raises(ValueError, match=message):
        training.train(c, str(tmp_path))


def test_visible_images_alone_train_validate_and_rank(tmp_path, monkeypatch):
    """PCB with CMAlign on the drawn set in Market-1501's layout, from pictures to results and to the page."""
    c = synthetic.get_config("tiny,market,pcb-lba")
    drawn.write(tmp_path / "data", layout="market1501", size="tiny", processes=1)
    c.data.root, c.inference, c.eval.baselines = str(tmp_path / "data"), "cosine", False
    c.model.stages, c.model.width, c.train.epochs = (1, 1), 4, 1
    training.train(c, str(tmp_path / "work"))
    (row,) = results.read(tmp_path / "work" / "results.json")["rows"]
    assert (row["protocol"], row["direction"]) == ("market1501", "visible-to-visible")
    assert row["queries"] == len(list((tmp_path / "data" / "query").iterdir()))
    entries = {entry["kind"]: entry for entry in read_metrics(tmp_path / "work" / "metrics.jsonl")}
    assert entries["train"]["consistency_upper"] > 1
    assert entries["validation"]["map"] > 0
    page = {}
    monkeypatch.setattr(reporting.page, "write_page", lambda *a, **how: page.update(how))
    reporting.report(c, str(tmp_path / "work"))
    assert not len(page["mapped"])  # nobody is seen in two modalities
    assert "feature" not in page
