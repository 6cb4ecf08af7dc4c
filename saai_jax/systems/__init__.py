"""The systems of the papers: each a tuple of pure functions, in a file of its own."""

from saai_jax.systems import agw, mpanet, saai, sim_baseline

SYSTEMS = {  # by the name that config.system has
    "saai": saai.build,
    "agw": agw.build,
    "mpanet": mpanet.build,
    "sim-baseline": sim_baseline.build,
}
