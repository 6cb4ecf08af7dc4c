"""Settings of every test and of every process that one starts; see CONTRIBUTING.md for the two that can be changed."""

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Most of the suite's time is compilation of programs that run once: they are compiled quickly rather than well.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
DEFAULTS = {
    "MPLBACKEND": "Agg",
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "XLA_FLAGS": QUICK,
}
os.environ |= DEFAULTS | os.environ  # before JAX is imported; child processes inherit it

import hypothesis
import jax
from absl import flags

flags.FLAGS.mark_as_parsed()  # for grain, outside app.run
jax.config.update("jax_num_cpu_devices", 8)  # what is placed on none stays on the first
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)  # here, shorter ones are rarely met again

hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))
