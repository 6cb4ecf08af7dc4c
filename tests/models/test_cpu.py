"""Convolutions in a CPU's forms against loops and against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saai_jax.models import cpu, resnet
from tests.models.test_resnet import normal
from tests.naive import slow_conv

NUMBERS = ("NHWC", "HWIO", "NHWC")


def convolved(form, x, kernel, stride):
    pad = len(kernel) // 2
    return form(x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=NUMBERS)


@pytest.mark.parametrize("form", [cpu.convolution, cpu.narrow_convolution, jax.lax.conv_general_dilated])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize("shape", [(6, 4), (7, 5)])
def test_convolution_is_the_loop_with_its_gradients(form, size, stride, shape):
    x, kernel = normal(0, 2, *shape, 3), normal(1, size, size, 3, 4)
    expected = slow_conv(np.float64(x), np.float64(kernel), stride, size // 2)
    found = resnet.conv(4, size, stride, conv_general_dilated=form).apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    # It is linear in both: what goes in and what comes out meet in the same sum.
    weight = normal(2, *expected.shape)
    gradients = jax.vjp(lambda x, k: convolved(form, x, k, stride), x, kernel)[1](weight)
    for side, gradient in zip((x, kernel), gradients, strict=True):
        np.testing.assert_allclose((side * gradient).sum(), (weight * expected).sum(), rtol=1e-3, atol=1e-3)


# 64 and 128 channels are where Winograd's form begins, and its own kernel gradient.
@pytest.mark.parametrize(
    ("size", "stride", "channels"),
    [(1, 2, (3, 4)), (1, 2, (130, 2)), (3, 1, (63, 64)), (3, 1, (64, 65)), (3, 1, (128, 130)), (3, 2, (64, 64))],
)
@pytest.mark.parametrize("shape", [(1, 1), (2, 6), (7, 4)])
def test_convolutions_for_a_cpu_are_the_others_with_their_gradients(size, stride, channels, shape):
    x, kernel, results = normal(0, 2, *shape, channels[0]), normal(1, size, size, *channels), []
    for form in (cpu.convolution, jax.lax.conv_general_dilated):
        y, gradients = jax.vjp(lambda x, k, form=form: convolved(form, x, k, stride), x, kernel)
        results.append((y, *gradients(normal(2, *y.shape))))
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (6, 3), (7, 8)])
def test_winograd_is_as_exact_as_the_convolution(shape):
    x, kernel = normal(0, 2, *shape, 32), normal(1, 3, 3, 32, 8)
    expected = slow_conv(np.float64(x), np.float64(kernel), 1, 1)
    np.testing.assert_allclose(cpu.winograd(x, kernel), expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("form", "dtype", "channels"),
    [
        (cpu.convolution, jnp.bfloat16, 64),
        (cpu.convolution, jnp.float32, 63),
        (cpu.narrow_convolution, jnp.float32, 64),
    ],
)
def test_only_wide_float32_is_transformed(monkeypatch, form, dtype, channels):
    """bfloat16 would lose digits in the sums around the products; narrow networks gain nothing."""
    monkeypatch.setattr(cpu, "winograd", lambda *_: pytest.fail("transformed"))
    x, kernel = (jnp.asarray(v, dtype) for v in (normal(0, 1, 4, 4, channels), normal(1, 3, 3, channels, 64)))
    assert convolved(form, x, kernel, 1).dtype == dtype


@pytest.mark.parametrize(("size", "strides"), [((1, 3), (1, 1)), ((1, 1), (2, 1)), ((3, 1), (1, 1))])
def test_what_is_not_square_is_left_to_xla(size, strides):
    x, kernel, how = normal(0, 1, 5, 5, 4), normal(1, *size, 4, 4), {"dimension_numbers": NUMBERS}
    pad = [(0, 0)] * 2
    expected = jax.lax.conv_general_dilated(x, kernel, strides, pad, **how)
    for form in (cpu.convolution, cpu.narrow_convolution):
        np.testing.assert_array_equal(form(x, kernel, strides, pad, **how), expected)


@pytest.mark.parametrize("other", [{"feature_group_count": 2}, {"rhs_dilation": (2, 2)}, {"padding": [(0, 0)] * 2}])
def test_what_is_no_plain_convolution_is_left_to_xla(other):
    groups = other.get("feature_group_count", 1)
    x, kernel = normal(0, 1, 5, 5, 4), normal(1, 3, 3, 4 // groups, 4)
    how = {"padding": [(1, 1)] * 2, "dimension_numbers": NUMBERS} | other
    found, expected = (form(x, kernel, (1, 1), **how) for form in (cpu.convolution, jax.lax.conv_general_dilated))
    np.testing.assert_array_equal(found, expected)
