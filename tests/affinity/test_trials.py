"""Distances of many trials at once are those of each trial alone."""

import numpy as np
import pytest

from saai_jax.affinity import Gallery, aim, aim_trials, cosine, cosine_trials, gallery_mesh
from saai_jax.affinity.trials import shared
from tests.affinity.test_gallery import people, same


def protocol(queries, images, gallery, trials, seed=0):
    """An embedding, and trials of other queries and galleries in any order."""
    random = np.random.default_rng(seed)
    query, image = people(seed, queries=queries, images=images)
    rows = [
        (random.permutation(queries)[: queries - 3], queries + random.permutation(images)[:gallery])
        for _ in range(trials)
    ]
    return np.concatenate([query, image]), rows


@pytest.mark.parametrize(("gallery", "trials"), [(120, 5), (120, 1), (30, 2)])
@pytest.mark.parametrize("variant", ["released", "paper"])
def test_trials_together_are_trials_alone(gallery, trials, variant):
    embedding, rows = protocol(40, 200, gallery, trials)
    assert (shared(embedding, rows) is not None) == (trials * gallery * 37 > 40 * 200)
    how = {"k1": 7, "k2": 3, "variant": variant}
    for (query, images), cosines, revised in zip(
        rows, cosine_trials(embedding, rows), aim_trials(embedding, rows, **how), strict=True
    ):
        same(cosines, cosine(embedding[query], embedding[images]))
        same(revised, aim(embedding[query], embedding[images], **how))


@pytest.mark.parametrize("switches", [{"remove": False}, {"expand": False}, {"remove": False, "expand": False}])
def test_steps_left_out(switches):
    embedding, rows = protocol(40, 200, 120, 5)
    for (query, images), found in zip(rows, aim_trials(embedding, rows, k1=7, k2=3, **switches), strict=True):
        same(found, aim(embedding[query], embedding[images], k1=7, k2=3, **switches))


def test_duplicates_in_trials():
    embedding, rows = protocol(40, 200, 120, 5)
    embedding[60:120] = embedding[60]  # sixty times the same image
    for (query, images), found in zip(rows, aim_trials(embedding, rows, k1=7, k2=3), strict=True):
        same(found, aim(embedding[query], embedding[images], k1=7, k2=3, method="dense"), 1e-5)


def test_known_similarities_are_revised_on_one_device_in_any_number():
    query, images = people(1, queries=50, images=90)
    gallery = Gallery.build(images, k1=6, k2=2)
    similarities = 1 - np.asarray(cosine(query, images))
    same(gallery.revise(similarities), gallery.distances(query))
    object.__setattr__(gallery, "_countable", lambda width: 8)
    same(gallery.revise(similarities), gallery.distances(query))
    with pytest.raises(ValueError, match="the gallery lies on 8 devices, expected one"):
        Gallery.build(images, k1=6, k2=2, mesh=gallery_mesh()).revise(similarities)
