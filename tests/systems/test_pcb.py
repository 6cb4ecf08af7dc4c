"""PCB's head in LbA's place of one: what it learns from, what it ranks by, and that it needs no modality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import synthetic
from modes.building import system_of
from saai_jax.models import heads, resnet
from saai_jax.weights.names import to_torch

PEOPLE = np.tile(np.repeat(np.arange(4), 2), 2)
SMALL = {"stages": (1, 1), "width": 4, "bottleneck": False, "stem_pool": False}


def small(words):
    """The system of synthetic words with two stages, and its first variables."""
    c = synthetic.get_config(f"tiny,market,{words}")
    c.model.update(SMALL)
    system = system_of(c, 5)
    params, collections = system.init(jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), params)
    return system, params, collections


@pytest.fixture(scope="module")
def batch():
    image = np.random.default_rng(0).standard_normal((16, 48, 24, 3)).astype(np.float32)
    return {"image": image, "identity": PEOPLE, "camera": np.repeat([1, 2], 8), "modality": np.zeros(16, np.int32)}


def stripes_of(params, collections, image, train):
    """Means, reductions and logits of PCB's stripes by its parts: the backbone's map, and then the head."""
    variables = {"params": params["backbone"], **{name: of["backbone"] for name, of in collections.items()}}
    head = {"params": params["stripes"], **{name: of["stripes"] for name, of in collections.items()}}
    x, _ = resnet.built(**SMALL).apply(variables, image, train, mutable=["batch_stats"])
    return heads.Stripes(5).apply(head, x, train, mutable=["batch_stats"])[0]


def test_pcb_learns_by_the_cross_entropies_of_its_stripes_alone(batch):
    system, params, collections = small("pcb")
    total, (terms, _) = jax.jit(system.loss)(params, collections, batch, jax.random.key(1), jnp.float32(0))
    logits = np.float64(stripes_of(params, collections, batch["image"], True)[2])
    expected = 0.0
    for stripe in range(6):
        for row, person in enumerate(PEOPLE):
            score = logits[row, stripe]
            expected += (np.log(np.exp(score - score.max()).sum()) + score.max() - score[person]) / len(PEOPLE)
    assert terms.keys() == {"identity"}
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_cmalign_reconstructs_what_the_stripes_learn_from_whatever_the_modality(batch):
    system, params, collections = small("pcb-lba")
    loss = jax.jit(jax.value_and_grad(system.loss, has_aux=True))
    (total, (terms, _)), gradient = loss(params, collections, batch, jax.random.key(1), jnp.float32(0))
    own = {"identity", "consistency_lower", "consistency_upper", "dense_lower", "dense_upper"}
    assert terms.keys() == own
    weights = {name: 0.5 if name.startswith("dense") else 1.0 for name in own}
    np.testing.assert_allclose(total, sum(weights[name] * terms[name] for name in own), rtol=1e-5)
    alone = small("pcb")[0].loss(params, collections, batch, jax.random.key(1), jnp.float32(0))[0]
    np.testing.assert_allclose(terms["identity"], alone, rtol=1e-5)
    for name in ("consistency_lower", "consistency_upper"):  # of six classifiers, as the clean one
        assert 0.5 < terms[name] / terms["identity"] < 2
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient["stripes"]))
    other = loss(params, collections, {**batch, "modality": np.arange(16) % 2}, jax.random.key(1), jnp.float32(0))
    jax.tree.map(np.testing.assert_array_equal, other[0], (total, (terms, _)))


def test_pcb_ranks_by_its_stripes_each_of_unit_length(batch):
    system, params, collections = small("pcb")
    pooled = np.float64(stripes_of(params, collections, batch["image"], False)[0])
    expected = pooled / np.sqrt((pooled**2).sum(2))[..., None]
    found = system.embed({"params": params, **collections}, batch["image"], batch["modality"])
    np.testing.assert_allclose(found, expected.reshape(16, -1), rtol=1e-4, atol=1e-6)


def test_stripes_have_the_rate_of_a_head_and_names_of_their_own():
    c = synthetic.get_config("tiny,market,pcb-lba")
    c.train.backbone_factor = 0.1  # as released; on the synthetic set all is learned anew
    system = system_of(c, 5)
    params, collections = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape), jax.eval_shape(system.init, jax.random.key(0))
    )
    ones = jax.tree.map(jnp.ones_like, params)
    moved, _ = system.optimiser.update(ones, system.optimiser.init(ones), jax.tree.map(jnp.zeros_like, params))
    for name, factor in (("stripes", 1.0), ("backbone", 0.1)):
        np.testing.assert_allclose(jax.tree.leaves(moved[name])[0], 1.9 * factor, rtol=1e-6)
    named = to_torch(system, {"params": params, **collections})
    assert {"stripes.reduce0.weight", "stripes.bn5.running_var", "stripes.classifier5.bias"} < named.keys()
    assert not [name for name in named if name.startswith(("bottleneck", "classifier", "visible", "thermal"))]


def test_an_unknown_head_is_refused():
    c = synthetic.get_config("tiny,market,pcb")
    c.model.head = "pbc"
    with pytest.raises(ValueError, match="model.head is 'pbc', expected one of gem, pcb"):
        system_of(c, 5)
