"""Settings every test shares: 8 CPU devices, one compilation cache, absl flags readable by grain outside app.run."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import pytest
from absl import flags

from saai_jax import foreign

flags.FLAGS.mark_as_parsed()
jax.config.update("jax_num_cpu_devices", 8)  # what is placed on none stays on the first
jax.config.update("jax_compilation_cache_dir", os.path.join(os.path.dirname(__file__), "..", ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture
def in_this_process(monkeypatch):
    """.mat and .h5 are read without a process for each, which takes half a second."""
    monkeypatch.setattr(foreign, "read_arrays", foreign.read_here)
