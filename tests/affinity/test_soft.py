"""Soft AIM: loops, finite differences, what it approaches, and what training on it does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saai_jax.affinity import aim
from saai_jax.affinity.soft import soft_aim

Q, G, D = 4, 9, 6
SEEDS = st.integers(0, 2**31)
KS = [(3, 2), (1, 1), (G, 4), (4, G)]
quick = settings(deadline=None, max_examples=8)
both = pytest.mark.parametrize("variant", ["released", "paper"])
counts = pytest.mark.parametrize(("k1", "k2"), KS)


def features(seed, dtype=np.float32):
    random = np.random.default_rng(seed)
    draw = lambda n: (0.5 + random.standard_normal((n, D))).astype(dtype)  # noqa: E731
    return draw(Q), draw(G)


def slow_selected(row, k, temperature):
    if k == len(row):
        return np.ones(len(row))
    ordered = sorted(row, reverse=True)
    threshold = (ordered[k - 1] + ordered[k]) / 2
    return np.array([1 / (1 + np.exp(-(value - threshold) / temperature)) for value in row])


def slow_soft(query, gallery, k1, k2, temperature, variant):
    scaled = lambda rows: np.array([row / np.linalg.norm(row) for row in np.float64(rows)])  # noqa: E731
    query, gallery = scaled(query), scaled(gallery)
    qg, gg = query @ gallery.T, gallery @ gallery.T
    kept = np.array([row * slow_selected(row, k1, temperature) for row in gg])
    expanded = np.zeros_like(gg)
    for i, row in enumerate(gg):
        share = slow_selected(row, k2, temperature)
        for j in range(len(gg)):
            expanded[i] += share[j] / share.sum() * kept[j]
    removed = np.array([row * slow_selected(row, k1, temperature) for row in qg])
    return 1 - qg - removed @ expanded if variant == "paper" else -scaled(removed) @ scaled(expanded).T - qg


@both
@counts
@quick
@given(SEEDS)
def test_soft_aim_is_the_loop(variant, k1, k2, seed):
    query, gallery = features(seed)
    found = soft_aim(query, gallery, k1=k1, k2=k2, temperature=0.1, variant=variant)
    np.testing.assert_allclose(found, slow_soft(query, gallery, k1, k2, 0.1, variant), atol=2e-5)


def slope_by_differences(function, x, direction, step=1e-6):
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


@both
@counts
def test_gradients_are_the_slopes(variant, k1, k2):
    with jax.enable_x64(True):
        query, gallery = features(0, np.float64)
        random = np.random.default_rng(1)
        weights = random.standard_normal((Q, G))  # of the distances, so that no term cancels
        total = jax.jit(lambda q, g: (weights * soft_aim(q, g, k1=k1, k2=k2, temperature=0.1, variant=variant)).sum())
        along_q, along_g = jax.grad(total, (0, 1))(query, gallery)
        for _ in range(4):
            dq, dg = random.standard_normal((Q, D)), random.standard_normal((G, D))
            slope = slope_by_differences(lambda x: total(x, gallery), query, dq)
            np.testing.assert_allclose((along_q * dq).sum(), slope, rtol=1e-5, atol=1e-7)
            slope = slope_by_differences(lambda x: total(query, x), gallery, dg)
            np.testing.assert_allclose((along_g * dg).sum(), slope, rtol=1e-5, atol=1e-7)


@both
@counts
def test_colder_is_closer_to_aim(variant, k1, k2):
    query, gallery = features(2)
    hard = aim(query, gallery, k1=k1, k2=k2, variant=variant)
    off = [
        float(jnp.abs(soft_aim(query, gallery, k1=k1, k2=k2, temperature=t, variant=variant) - hard).max())
        for t in (0.3, 0.03, 1e-5)
    ]
    assert off[0] > off[1] > off[2]
    assert off[2] < 2e-6


@both
@counts
def test_straight_through_has_the_value_of_aim_and_the_gradient_of_the_soft_one(variant, k1, k2):
    query, gallery = features(3)
    weights = np.random.default_rng(3).standard_normal((Q, G)).astype(np.float32)
    options = {"k1": k1, "k2": k2, "variant": variant}
    straight = functools.partial(soft_aim, **options, straight_through=True)
    np.testing.assert_array_equal(straight(query, gallery), aim(query, gallery, **options))
    gradients = [
        jax.grad(lambda q, g, f=f: (weights * f(q, g)).sum(), (0, 1))(query, gallery)
        for f in (straight, functools.partial(soft_aim, **options))
    ]
    for ours, soft in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, soft, rtol=1e-5, atol=1e-6)
        assert np.abs(ours).max() > 0


@both
def test_gradients_are_finite_where_norms_are_not_smooth(variant):
    """Rows of zeros, equal rows and a query at right angles to everything; all at a temperature that saturates."""
    query, gallery = features(4)
    query[0], query[1], gallery[2], gallery[3] = 0, np.eye(D)[0], 0, gallery[4]
    gallery[:, 0] = 0
    for temperature in (0.05, 1e-6):
        for straight_through in (False, True):
            options = {"temperature": temperature, "variant": variant, "straight_through": straight_through}
            total = lambda q, g: soft_aim(q, g, k1=3, k2=2, **options).sum()  # noqa: B023, E731
            value, gradients = jax.value_and_grad(total, (0, 1))(query, gallery)
            assert np.isfinite(value)
            assert all(np.isfinite(x).all() for x in gradients)
            np.testing.assert_array_equal(gradients[0][0], 0)
            np.testing.assert_array_equal(gradients[1][2], 0)


@both
@pytest.mark.parametrize("straight_through", [False, True])
def test_descent_improves_a_ranking(variant, straight_through):
    """Two modalities of three people, an offset between them: queries first meet the wrong person."""
    random = np.random.default_rng(6)
    people = np.arange(12) % 3
    means = random.standard_normal((3, D))
    draw = lambda offset: jnp.asarray(means[people] + offset + random.standard_normal((12, D)), jnp.float32)  # noqa: E731
    same = people[:, None] == people

    def distances(x):
        return soft_aim(*x, k1=4, k2=2, variant=variant, straight_through=straight_through)

    @jax.jit
    def step(x):
        gap = lambda x: jnp.where(same, 2.0, -1.0) * distances(x)  # noqa: E731
        return jax.tree.map(lambda a, g: a - 5 * g, x, jax.grad(lambda x: gap(x).mean())(x))

    first = lambda x: same[np.arange(12), np.argmin(aim(*x, k1=4, k2=2, variant=variant), 1)].mean()  # noqa: E731
    x = draw(0), draw(3 * random.standard_normal(D))
    before = first(x)
    for _ in range(100):
        x = step(x)
    assert before < 0.8
    assert first(x) == 1


@both
@quick
@given(SEEDS)
def test_order_and_scale_of_images(variant, seed):
    query, gallery = features(seed)
    random = np.random.default_rng(seed)
    rows, columns = random.permutation(Q), random.permutation(G)
    scale = np.exp2(random.integers(-9, 9, (G, 1))).astype(np.float32)
    plain = np.asarray(soft_aim(query, gallery, k1=4, k2=2, variant=variant))
    moved = soft_aim(100 * query[rows], (scale * gallery)[columns], k1=4, k2=2, variant=variant)
    np.testing.assert_allclose(moved, plain[rows][:, columns], atol=1e-5)


@both
def test_traced_with_a_traced_temperature(variant):
    query, gallery = features(6)
    plain = soft_aim(query, gallery, k1=3, k2=2, temperature=0.2, variant=variant)
    traced = jax.jit(lambda q, g, t: soft_aim(q, g, k1=3, k2=2, temperature=t, variant=variant))
    np.testing.assert_allclose(traced(query, gallery, 0.2), plain, atol=1e-6)


def test_k_above_the_gallery_warns_and_is_lowered():
    query, gallery = features(7)
    expected = soft_aim(query, gallery, k1=G, k2=G)
    with pytest.warns(UserWarning, match="k1=20 is lowered to the gallery's 9 images") as caught:
        found = soft_aim(query, gallery, k1=20, k2=G, straight_through=False)
    np.testing.assert_array_equal(found, expected)
    assert {w.filename for w in caught} == {__file__}
    with pytest.warns(UserWarning, match="k2=10 is lowered to the gallery's 9 images") as caught:
        soft_aim(query, gallery, k1=G, k2=10, straight_through=True)
    assert len(caught) == 1  # aim within does not warn again


@pytest.mark.parametrize("temperature", [0, -0.1, float("nan"), None, "0.1"])
def test_temperatures_that_are_none(temperature):
    with pytest.raises(ValueError, match=f"temperature is {temperature!r}, expected a positive number"):
        soft_aim(*features(0), k1=3, k2=2, temperature=temperature)


def test_errors():
    query, gallery = features(0)
    with pytest.raises(ValueError, match="k1 is 0, expected a positive integer"):
        soft_aim(query, gallery, k1=0, k2=1)
    with pytest.raises(ValueError, match="k2 is 1.5, expected a positive integer"):
        soft_aim(query, gallery, k1=1, k2=1.5)
    with pytest.raises(ValueError, match="variant is 'printed', expected 'released' or 'paper'"):
        soft_aim(query, gallery, k1=1, k2=1, variant="printed")
    with pytest.raises(ValueError, match="the gallery is empty"):
        soft_aim(query, gallery[:0], k1=1, k2=1)
