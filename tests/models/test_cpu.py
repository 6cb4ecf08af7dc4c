"""Convolution and max pooling against loops, in both ways in which they are written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saai_jax.models import spatial
from tests.models.test_resnet import normal
from tests.naive import slow_conv, slow_max_pool


@pytest.fixture(params=["cpu", "native"])
def written_for(request, monkeypatch):
    """Both ways in which they are written: a CPU's, and the others'."""
    monkeypatch.setattr(spatial, "on_cpu", lambda: request.param == "cpu")


@pytest.mark.usefixtures("written_for")
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize("shape", [(6, 4), (7, 5)])
def test_convolution_is_the_loop_with_its_gradients(size, stride, shape):
    x, kernel = normal(0, 2, *shape, 3), normal(1, size, size, 3, 4)
    expected = slow_conv(np.float64(x), np.float64(kernel), stride, size // 2)
    found = spatial.convolution(x, kernel, stride)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    # It is linear in both: what goes in and what comes out meet in the same sum.
    weight = normal(2, *expected.shape)
    gradients = jax.vjp(lambda x, k: spatial.convolution(x, k, stride), x, kernel)[1](weight)
    for side, gradient in zip((x, kernel), gradients, strict=True):
        np.testing.assert_allclose((side * gradient).sum(), (weight * expected).sum(), rtol=1e-3, atol=1e-3)


# 64 and 128 channels are where Winograd's form begins, and its own kernel gradient.
@pytest.mark.parametrize(
    ("size", "stride", "channels"),
    [(1, 2, (3, 4)), (1, 2, (130, 2)), (3, 1, (63, 64)), (3, 1, (64, 65)), (3, 1, (128, 130)), (3, 2, (64, 64))],
)
@pytest.mark.parametrize("shape", [(1, 1), (2, 6), (7, 4)])
def test_convolutions_for_a_cpu_are_the_others_with_their_gradients(monkeypatch, size, stride, channels, shape):
    x, kernel, results = normal(0, 2, *shape, channels[0]), normal(1, size, size, *channels), []
    for cpu in (True, False):
        monkeypatch.setattr(spatial, "on_cpu", lambda cpu=cpu: cpu)
        y, gradients = jax.vjp(lambda x, k: spatial.convolution(x, k, stride), x, kernel)
        results.append((y, *gradients(normal(2, *y.shape))))
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (6, 3), (7, 8)])
def test_winograd_is_as_exact_as_the_convolution(shape):
    x, kernel = normal(0, 2, *shape, 32), normal(1, 3, 3, 32, 8)
    expected = slow_conv(np.float64(x), np.float64(kernel), 1, 1)
    np.testing.assert_allclose(spatial.winograd(x, kernel), expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_only_float32_is_transformed(monkeypatch):
    """bfloat16 would lose digits in the sums around the products."""
    monkeypatch.setattr(spatial, "on_cpu", lambda: True)
    monkeypatch.setattr(spatial, "winograd", lambda *_: pytest.fail("transformed"))
    x, kernel = (jnp.asarray(v, jnp.bfloat16) for v in (normal(0, 1, 4, 4, 64), normal(1, 3, 3, 64, 64)))
    assert spatial.convolution(x, kernel, 1).dtype == jnp.bfloat16


@pytest.mark.usefixtures("written_for")
@pytest.mark.parametrize("shape", [(6, 4), (7, 5), (1, 2)])
@pytest.mark.parametrize("levels", [None, 2])  # few levels: nearly every window has equal maxima
def test_max_pool_is_the_loop_and_the_first_maximum_has_the_gradient(shape, levels):
    x = normal(0, 2, *shape, 3)
    x = x if levels is None else np.float32(np.clip(np.round(x), 0, levels - 1))
    expected = slow_max_pool(np.float64(x), 3, 2, 1)
    np.testing.assert_array_equal(spatial.max_pool(x), expected)
    weight, gradient = normal(1, *expected.shape), np.zeros(x.shape)
    for b, i, j, c in np.ndindex(*expected.shape):
        rows, columns = (range(max(2 * k - 1, 0), min(2 * k + 2, n)) for k, n in zip((i, j), shape, strict=True))
        r, q = next((r, q) for r in rows for q in columns if x[b, r, q, c] == expected[b, i, j, c])
        gradient[b, r, q, c] += weight[b, i, j, c]
    np.testing.assert_allclose(jax.vjp(spatial.max_pool, x)[1](weight)[0], gradient, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("written_for")
def test_max_pool_hides_nothing_that_is_not_a_number():
    x = normal(0, 1, 5, 4, 1)
    for i, j in np.ndindex(5, 4):
        spoilt = x.copy()
        spoilt[0, i, j] = np.nan
        assert np.isnan(spatial.max_pool(spoilt)).any(), (i, j)


def test_max_pool_of_half_precision_keeps_it():
    x = jnp.asarray(normal(0, 2, 5, 4, 3), jnp.bfloat16)
    assert spatial.max_pool(x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(spatial.max_pool(x), slow_max_pool(np.float32(x), 3, 2, 1))
