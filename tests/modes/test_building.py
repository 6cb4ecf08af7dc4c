"""What modes build from a configuration: the run that is kept in a workdir, or why it cannot be."""

import json

import pytest

from configs import synthetic
from modes import building
from saai_jax.checkpoint import CheckpointError, write_config

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
