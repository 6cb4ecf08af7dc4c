"""Random features of the data sets' sizes, and the trials of SYSU-MM01's test: what the distances are measured on."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from benchmarks import torch_affinity
from input_pipeline import sysu
from saai_jax.affinity import aim, aim_trials, cosine, cosine_trials

# Of SYSU-MM01's test set: images of a camera (as published), and its identities as a range, chosen so that the
# galleries have the published 301 and 112 images of the single-shot settings.
CAMERAS = {1: (1374, 0, 53), 2: (1565, 0, 59), 3: (1883, 0, 96), 4: (1918, 1, 96), 5: (1918, 2, 96), 6: (1920, 0, 96)}
TEST_IMAGES = sum(images for images, _, _ in CAMERAS.values())


def clusters(identity: np.ndarray, infrared: np.ndarray, d: int, noise: float = 1.0) -> np.ndarray:
    """f32[n d]: a random centre for every identity plus noise, and a shift common to infrared images."""
    rng = np.random.default_rng(0)
    centre, shift = (rng.standard_normal((n, d), np.float32) for n in (identity.max() + 1, 1))
    rows = np.empty((len(identity), d), np.float32)
    for start in range(0, len(rows), 4096):  # in parts, as the peak memory that is printed counts this too
        part = slice(start, start + 4096)
        rows[part] = centre[identity[part]] + infrared[part, None] * shift
        rows[part] += np.float32(noise) * rng.standard_normal(rows[part].shape, np.float32)
    return rows


def pair(q: int, g: int, identities: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Infrared queries and a visible gallery, f32[q d] and f32[g d], all identities about equally often in both."""
    n = np.arange(q + g)
    rows = clusters(np.where(n < q, n, n - q) % identities, n < q, d)
    return rows[:q], rows[q:]


def sysu_test(place: str, shots: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[tuple]]:
    """Features f32[n 2048], identity, camera and ten trials (query rows, gallery rows) of a setting of SYSU-MM01."""
    camera = np.repeat([*CAMERAS], [images for images, _, _ in CAMERAS.values()])
    identity = np.concatenate([np.arange(n) % (end - start) + start for n, start, end in CAMERAS.values()])
    infrared, cell = np.isin(camera, sysu.INFRARED_CAMERAS), identity * 10 + camera

    def drawn(trial: int) -> tuple[np.ndarray, np.ndarray]:
        order = np.random.default_rng(trial).permutation(len(identity))
        order = order[np.isin(camera[order], sysu.GALLERY_CAMERAS[place])]
        gallery = [order[cell[order] == c][:shots] for c in np.unique(cell[order])]
        return np.flatnonzero(infrared), np.concatenate(gallery)

    # So noisy that scores are neither 0 nor 100, and can differ.
    return clusters(identity, infrared, 2048, noise=5.0), identity, camera, list(map(drawn, range(sysu.TRIALS)))


def distances(name: str, k1: int, k2: int) -> tuple[Callable, Callable, Callable]:
    """Cosine or AIM: ours of a pair, ours of all trials together, and torch's of a pair."""
    if name == "cosine":
        return cosine, cosine_trials, torch_affinity.cosine
    of_pair, together, torchs = (functools.partial(f, k1=k1, k2=k2) for f in (aim, aim_trials, torch_affinity.aim))
    return of_pair, together, torchs
