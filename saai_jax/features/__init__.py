"""Features on disk: our own file, and what other programs write."""

from saai_jax.features.store import Features, FeaturesError, load, save

__all__ = ["Features", "FeaturesError", "load", "save"]
