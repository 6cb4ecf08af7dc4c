"""Distances from query to gallery: every function takes [q d], [g d] and gives f32[q g], smaller is closer.

Lists, and arrays of any real type, are computed in float32 (`checks.checked`).
`Gallery` is the same for galleries that are kept, changed, or too large for matrices.
"""

from saai_jax.affinity.aim import aim
from saai_jax.affinity.cosine import cosine, euclidean
from saai_jax.affinity.gallery import Gallery
from saai_jax.affinity.k_reciprocal import k_reciprocal
from saai_jax.affinity.mesh import gallery_mesh
from saai_jax.affinity.nearest import Nearest, agreement
from saai_jax.affinity.sim import sim
from saai_jax.affinity.soft import soft_aim
from saai_jax.affinity.storage import StorageError
from saai_jax.affinity.trials import aim_trials, cosine_trials

__all__ = [
    "Gallery",
    "Nearest",
    "StorageError",
    "agreement",
    "aim",
    "aim_trials",
    "cosine",
    "cosine_trials",
    "euclidean",
    "gallery_mesh",
    "k_reciprocal",
    "sim",
    "soft_aim",
]
