"""The systems of the papers: each a tuple of pure functions, in a file of its own."""

from saai_jax.systems import agw, mpanet, saai

SYSTEMS = {"saai": saai.build, "agw": agw.build, "mpanet": mpanet.build}  # by the name that config.system has
