"""The systems of the papers: each a tuple of pure functions, in a file of its own."""

from saai_jax.systems import saai

SYSTEMS = {"saai": saai.build}  # by the name that config.system has
