"""What modes build from a configuration: the run that is kept in a workdir, or why it cannot be."""

import json

import pytest

from configs import regdb, synthetic
from modes import building
from saai_jax.checkpoint import CheckpointError, write_config
from tests.input_pipeline.test_regdb import write_regdb

LOST = object()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        *(("identities", value, "holds model.identities ") for value in (LOST, "8", 8.0, -8, True)),
        *(("weights", value, "and model.weights ") for value in (LOST, None, 8)),
        (None, LOST, "cannot be read: .*No such file"),
    ],
)
def test_a_runs_damaged_or_lost_configuration_is_named_and_what_to_type(tmp_path, field, value, message):
    config = synthetic.get_config("tiny")
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    kept = json.loads(config.to_json())
    kept["model"] |= {"identities": 8, field: value}
    if value is LOST:
        kept["model"].pop(field)
    if field:
        write_config(tmp_path / "config.json", kept)
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{message}.*--mode=train --accept_changes writes it"):
        building.trained(config, tmp_path)


def test_an_identity_needs_the_images_that_its_sampler_draws(tmp_path):
    """Two of each modality fill no batch of 4 + 4 without replacement, and any with it."""
    write_regdb(tmp_path, {1: {"train": (1, 10), "test": (3, 11)}}, images=2)
    c = regdb.get_config("agw")
    c.data.root, c.data.published, c.data.skip_incomplete = str(tmp_path), False, True
    assert len(building.splits_of(c)["train"]) == 8
    c.data.sampler = "paired"
    assert len(building.splits_of(c)["train"]) == 0
    c.data.sampler = "pared"
    with pytest.raises(ValueError, match="data.sampler is 'pared', expected one of paired, replacement"):
        building.splits_of(c)
