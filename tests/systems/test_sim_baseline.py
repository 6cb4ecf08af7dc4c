"""SIM's baseline: one network for both modalities, and what its paper says of the images; its losses are AGW's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import sysu
from modes.building import system_of
from saai_jax.augment import normalise
from saai_jax.systems import sim_baseline
from saai_jax.weights.names import from_torch, to_torch

SMALL = {"identities": 3, "size": (32, 16), "stages": (1, 1, 1, 1), "width": 4, "bottleneck": False}


def test_the_published_model_and_what_it_starts_from():
    """ResNet-50, a neck without bias, a classifier; the backbone is torchvision's."""
    system = system_of(sysu.get_config("sim-baseline"), 395)
    params, collections = jax.eval_shape(system.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 23_508_032 + 2048 + 2048 * 395
    empty = jax.tree.map(lambda s: np.zeros(s.shape, np.float32), {"params": params, **collections})
    torchvision = {
        name.removeprefix("backbone."): np.ones(array.shape, np.float32)
        for name, array in to_torch(system, empty).items()
        if name.startswith("backbone.")
    }
    filled = from_torch(torchvision, system, empty)
    assert all(leaf.all() for leaf in jax.tree.leaves(filled["params"]["backbone"]))


def test_modalities_share_every_weight():
    system = sim_baseline.build(**SMALL)
    params, collections = system.init(jax.random.key(0))
    image = jax.random.normal(jax.random.key(1), (4, 32, 16, 3))
    embed = jax.jit(system.embed)
    found = [embed({"params": params, **collections}, image, jnp.full(4, m)) for m in (0, 1)]
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(jnp.linalg.norm(found[0], axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("erasing", [0.0, 1.0])
def test_images_are_flipped_and_erased_and_nothing_else(erasing):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 16, 3), np.uint8)
    found = sim_baseline.build(**SMALL, erasing=erasing).augment(jax.random.key(0), {"image": image})["image"]
    given = normalise(image)
    ways = [np.isclose(found, given[:, :, ::way], atol=1e-5).all(-1).mean((1, 2)) for way in (1, -1)]
    same = np.max(ways, 0)  # the share of pixels that stay
    assert same.min() == 1 if erasing == 0 else same.min() > 0.6 and same.max() < 1
    assert 6 < np.argmax(ways, 0).sum() < 26


@pytest.mark.parametrize(("wrong", "message"), [({"pooling": "max"}, "model.pooling is 'max'"), ({"pad": 4}, "'pad'")])
def test_what_cannot_be_built_is_refused(wrong, message):
    with pytest.raises((ValueError, TypeError), match=message):
        sim_baseline.build(**SMALL, **wrong)
