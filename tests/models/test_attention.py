"""Instance normalisation against loops; MAM itself is compared within the ResNet."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from saai_jax.models.normalisation import instance_norm
from tests.models.test_resnet import normal, slow_instance_norm

SEEDS = st.integers(0, 2**31)
quick = settings(deadline=None, max_examples=20)


@quick
@given(SEEDS)
def test_instance_norm_is_the_loop_and_forgets_scale_and_offset(seed):
    x = normal(seed, 2, 3, 4, 5)
    np.testing.assert_allclose(instance_norm(x), slow_instance_norm(x), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(instance_norm(50 * x + 7), instance_norm(x), atol=1e-3)


def test_instance_norm_of_a_flat_channel_is_zero_and_pulls_nowhere():
    flat = jnp.full((1, 2, 3, 2), 4.0)
    np.testing.assert_array_equal(instance_norm(flat), 0)
    assert np.isfinite(jax.grad(lambda x: (x * instance_norm(x)).sum())(flat)).all()
