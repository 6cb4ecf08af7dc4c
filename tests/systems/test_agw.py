"""AGW and its base method against figures of the original, run in PyTorch on deterministic weights and images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saai_jax.systems import agw
from tests.golden_files import load
from tests.systems.originals import differences, first_step, images, of, variables_of
from tests.tensors import tensor

IDENTITY, MODALITY = jnp.tile(jnp.repeat(jnp.arange(4), 2), 2), jnp.repeat(jnp.arange(2), 8)
METHODS = {
    "agw": {"non_local": (0, 2, 3, 0)},
    "base": {"pooling": "mean", "triplet": "hard"},
}
# Zero in exact arithmetic: batch normalisation, of the block or of what follows it, takes them out.
NOISE = ("W.0.bias", "NL_2.1.W.1.bias", "NL_3.2.W.1.bias")


def scaled(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The original's weights; those of the non-local blocks are scaled down, or evaluation overflows."""
    found = tensor(name, shape).astype(np.float32)
    if name.startswith("NL_") and name.endswith(("theta.weight", "phi.weight", "g.0.weight")):
        return found * np.float32(2**-6)
    return found * np.float32(2**-3) if name.startswith("NL_") and name.endswith("W.1.weight") else found


@pytest.fixture(scope="module", params=METHODS)
def case(request):
    """The system, its variables, and the original's figures."""
    system = agw.build(identities=12, size=(288, 144), **METHODS[request.param])
    yield system, variables_of(system, scaled), of(load("agw"), f"{request.param}/")
    jax.clear_caches()


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_evaluation_features(case):
    system, variables, golden = case
    image = images(100)
    found = np.asarray(jax.jit(system.embed)(variables, image, MODALITY))[:, ::16]
    pooled = unit(np.asarray(jax.jit(system.pooled)(variables, image, MODALITY)))[:, ::16]
    for ours, expected in ((found, golden["eval_fc"]), (pooled, golden["eval_pool"])):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        # Rows of a random network are nearly parallel; the original in float32 is 3e-8 from itself in float64.
        np.testing.assert_allclose(ours - ours.mean(0), expected - expected.mean(0), rtol=0, atol=4e-8)


def test_first_step(case):
    system, variables, golden = case
    batch = {"image": images(100), "identity": IDENTITY, "modality": MODALITY}
    terms, gradients, running = first_step(system, variables, batch)
    for ours, theirs in (("loss", "loss"), ("identity", "id"), ("triplet", "tri")):
        np.testing.assert_allclose(terms[ours], golden[f"float64/step0/{theirs}"], rtol=2e-5, err_msg=ours)
    found = differences(gradients, golden, "grad_norm")
    # Those of the non-local blocks' single channel are sums that cancel: 1.3e-2 was measured, the others 6e-3.
    bound = {name: max(2e-2 if name.startswith("NL_") else 1e-2, gap) for name, (_, gap) in found.items()}
    assert not {name: gap for name, (gap, _) in found.items() if not name.endswith(NOISE) and gap > bound[name]}
    moved = differences(running, golden, "running_after_step0")
    assert not {name: gap for name, gap in moved.items() if gap[0] > 1e-6}


@pytest.mark.parametrize(("method", "count"), [("agw", 24_357_263), ("base", 24_328_576)])
def test_parameters_of_the_published_model(method, count):
    system = agw.build(identities=395, size=(288, 144), **METHODS[method])
    params, _ = jax.eval_shape(system.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
