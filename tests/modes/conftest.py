"""What the tests of several modes rank: a tiny drawn set, and features of it that cost no network."""

import numpy as np
import pytest

from configs import ablation as plans
from modes.building import source_of
from saai_jax.features import Features, save
from tests.launching import drawn


@pytest.fixture(scope="package")
def kept(tmp_path_factory):
    """A tiny drawn set, and random features of its test pictures."""
    folder = tmp_path_factory.mktemp("kept")
    config = plans.get_config("tiny,multishot,k1,sim-alpha")
    config.data.root = str(drawn(folder / "data"))
    index = source_of(config).read("test")
    embedding = np.random.default_rng(0).standard_normal((len(index), 8)).astype(np.float32)
    save(folder / "features.npz", Features(embedding, index.identity, index.camera, index.modality, index.path))
    return folder, config
