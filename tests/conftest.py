"""Settings every test shares: 8 CPU devices, one compilation cache, absl flags readable by grain outside app.run."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

import jax
from absl import flags

flags.FLAGS.mark_as_parsed()
jax.config.update("jax_num_cpu_devices", 8)  # what is placed on none stays on the first
jax.config.update("jax_compilation_cache_dir", os.path.join(os.path.dirname(__file__), "..", ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
