"""Settings of every test and of every process that one starts, and which files come first."""

import gc
import os
from pathlib import Path

from tests.launching import ENVIRONMENT

os.environ.update(ENVIRONMENT)  # before JAX is imported

import hypothesis
import jax
import pytest
from absl import flags

from saai_jax import foreign

flags.FLAGS.mark_as_parsed()  # for grain, outside app.run
jax.config.update("jax_num_cpu_devices", 8)  # what is placed on none stays on the first
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)  # here, shorter ones are rarely met again

hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

# The longest, which workers take in this order, so that they end together. The first compiles what other launches load.
FIRST = [
    "test_launch.py",
    "systems/test_saai.py",
    "systems/test_agw.py",
    "systems/test_mpanet.py",
    "affinity/test_gallery.py",
    "benchmarks/test_faults.py",
    "test_processes.py",
    "test_ahead_of_time.py",
    "models/test_resnet.py",
    "test_train.py",
    "models/test_cpu.py",
    "test_checkpoint.py",
    "test_notebook.py",
]


def pytest_collection_modifyitems(items):
    rank = {Path(__file__).parent / file: number for number, file in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(item.path, len(FIRST)))


@pytest.fixture(autouse=True, scope="module")
def programs_go_with_their_file():
    """A worker that kept all it compiled would hold gigabytes at the end."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def in_this_process(monkeypatch):
    """.mat and .h5 are read without a process for each, which takes half a second."""
    monkeypatch.setattr(foreign, "read_arrays", foreign.read_here)
