"""What every system gives beside its loss, of small networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saai_jax.models.heads import gem
from saai_jax.systems import SYSTEMS

SMALL = {"identities": 3, "size": (32, 16), "stages": (1, 1), "width": 4, "bottleneck": False, "stem_pool": False}
POOLS = {"saai": lambda x: x.mean((1, 2)), "agw": gem}
POOLS |= {"mpanet": POOLS["saai"], "sim-baseline": POOLS["saai"]}


@pytest.mark.parametrize("name", POOLS)
def test_the_dense_map_is_what_is_pooled(name):
    """Its mean, or generalised mean, is the last part of the feature before the neck, for any mix of modalities."""
    system = SYSTEMS[name](**SMALL)
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(system.init, jax.random.key(0))
    params, collections = jax.tree.map(lambda leaf: np.abs(random.standard_normal(leaf.shape)).astype("f"), shapes)
    image, modality = random.standard_normal((3, 32, 16, 3)).astype("f"), np.int32([1, 0, 1])
    both = jax.jit(lambda *given: (system.dense(*given), system.pooled(*given)))
    dense, pooled = both({"params": params, **collections}, image, modality)
    assert dense.shape == (3, 8, 4, 8)
    assert dense.std() > 0
    np.testing.assert_allclose(POOLS[name](jnp.asarray(dense)), pooled[:, -8:], rtol=1e-5)
