"""Distances from query to gallery: every function takes f32[q d], f32[g d] and gives f32[q g], smaller is closer."""

from saai_jax.affinity.aim import aim
from saai_jax.affinity.cosine import cosine, euclidean

__all__ = ["aim", "cosine", "euclidean"]
