"""What comes into a distance: any type, byte order and scale gives what float32 gives, everything else is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saai_jax.affinity import (
    Gallery,
    aim,
    aim_trials,
    cosine,
    cosine_trials,
    euclidean,
    k_reciprocal,
    sim,
    soft_aim,
)
from saai_jax.affinity.explain import contributions
from saai_jax.report.pairs import cosine_distances
from tests.affinity.test_affinity import G, Q, features

KS = {"k1": 4, "k2": 2}
SIM = {"paths": 3, "neighbours": 3, "kq": 5, "kg": 4}
TRIALS = [(np.arange(Q), np.arange(Q, G))] * 3  # of the gallery, as one embedding
NORMALISED = {
    "cosine": cosine,
    "aim": lambda q, g: aim(q, g, **KS),
    "aim sparse": lambda q, g: aim(q, g, **KS, method="sparse"),
    "sim": lambda q, g: sim(q, g, **SIM),
    "k_reciprocal": lambda q, g: k_reciprocal(q, g, **KS),
    "soft_aim": lambda q, g: soft_aim(q, g, **KS),
    "contributions": lambda q, g: contributions(q, g, np.tile(np.arange(G), (Q, 1)), **KS),
    "Gallery.distances": lambda q, g: Gallery.build(g, **KS).distances(q),
    "Gallery.add": lambda q, g: Gallery.build(features(0)[1], **KS).add(g).search(q, 3).distance,
}
EMBEDDING = {
    "cosine_trials": lambda q, g: next(cosine_trials(g, TRIALS)),
    "aim_trials": lambda q, g: next(aim_trials(g, TRIALS, **KS)),
    "pairs": lambda q, g: cosine_distances(g, np.arange(G) // 2, np.arange(G)).impostor,
}
AS_THEY_ARE = {"euclidean": euclidean, "sim as it is": lambda q, g: sim(q, g, **SIM, mutual=False, normalise=False)}
EVERY = NORMALISED | EMBEDDING | AS_THEY_ARE
every = pytest.mark.parametrize("name", EVERY)


@every
def test_every_type_and_byte_order_is_computed_in_float32(name):
    query, gallery = (np.round(3 * x) for x in features(0))
    for convert in (
        *(lambda x, t=t: x.astype(t) for t in ("f2", "f8", ">f2", ">f4", ">f8", "i1", "i8", ">i4", "?", jnp.bfloat16)),
        *(lambda x, t=t: jnp.asarray(x, t) for t in ("float16", "bfloat16", "int32", "bool")),
        np.ndarray.tolist,
    ):
        given = convert(query), convert(gallery)
        expected = EVERY[name](*(np.asarray(x).astype(np.float32) for x in given))
        found = EVERY[name](*given)
        assert found.dtype == (np.float64 if name == "pairs" else np.float32)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("scale", [1e20, 1e-15, 1e-30, 2e38 / 5])
@every
def test_no_scale_is_too_large_or_too_small(name, scale):
    query, gallery = features(1)
    plain = np.asarray(EVERY[name](query, gallery))
    scale = np.float32(min(scale, 1e37) if name in AS_THEY_ARE else scale)
    if name in AS_THEY_ARE:
        np.testing.assert_allclose(EVERY[name](scale * query, scale * gallery), scale * plain, rtol=1e-5)
        # One row of that size is as far from all others as it or they are long, and does not touch the others.
        query[2] *= scale
        found = np.asarray(euclidean(query, gallery))
        np.testing.assert_array_equal(found[[0, 1, 3]], euclidean(query[[0, 1, 3]], gallery))
        length = np.linalg.norm(np.float64(query[2])) if scale > 1 else np.linalg.norm(gallery, axis=1)
        np.testing.assert_allclose(found[2], np.broadcast_to(length, G), rtol=1e-5)
        return
    rows = np.arange(G) % 2 == 0
    for given in ((scale * query, scale * gallery), (query, np.where(rows[:, None], scale * gallery, gallery))):
        np.testing.assert_allclose(EVERY[name](*given), plain, atol=2e-6)
        np.testing.assert_allclose(EVERY[name](*map(jnp.asarray, given)), plain, atol=2e-6)
    np.testing.assert_allclose(EVERY[name](np.float64(query) * 1e-200, np.float64(gallery) * 1e-200), plain, atol=2e-6)


def change(array, value, row):
    array = array.astype(np.result_type(array, np.asarray(value).dtype))
    array[row, 1] = value
    return array


@every
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: change(x, np.nan, 3), "{} row 3 is not finite"),
        (lambda x: jnp.asarray(change(x, -np.inf, 3)), "{} row 3 is not finite"),
        (lambda x: change(np.float64(x), 1e39, 0), "{} row 0 is not finite in float32"),
        (lambda x: x[0], r"{} is f32\[8\], expected \[n, "),
        (lambda x: x[None], r"{} is f32\[1, \d+, 8\], expected \[n, "),
        (lambda x: [[1.0, 2.0], [3.0]], r"{} has rows of several lengths, expected \[n, d\]"),
        (lambda x: x.astype(str), r"{} is <U32\[\d+, 8\], expected real numbers"),
        (lambda x: x.astype(complex), r"{} is complex128\[\d+, 8\], expected real numbers"),
        (lambda x: x.astype(object), r"{} is object\[\d+, 8\], expected real numbers"),
    ],
)
def test_what_is_no_feature_is_refused_by_its_name(name, wrong, message):
    query, gallery = features(2)
    if name not in EMBEDDING:
        with pytest.raises(ValueError, match=message.format("query")):
            EVERY[name](wrong(query), gallery)
    with pytest.raises(ValueError, match=message.format("embedding" if name in EMBEDDING else "gallery")):
        EVERY[name](query, wrong(gallery))


@pytest.mark.parametrize("name", [name for name in EVERY if name not in EMBEDDING])
def test_lengths_that_differ(name):
    query, gallery = features(3)
    with pytest.raises(ValueError, match=r"is f32\[\d+, \d\], expected \[n, \d\]"):
        EVERY[name](query, gallery[:, :7])


def test_traced_arrays_are_checked_by_type_and_shape():
    """Their values are not known; extreme rows are scaled all the same, and gradients go through."""
    query, gallery = features(4)
    for name in ("cosine", "aim", "sim", "soft_aim", "euclidean", "sim as it is"):
        traced = jax.jit(EVERY[name])
        half = query.astype(np.float16), gallery.astype(np.float16)
        np.testing.assert_allclose(traced(*half), EVERY[name](*half), atol=2e-6)
        with pytest.raises(ValueError, match=r"gallery is f32\[11, 7\], expected \[n, 8\]"):
            traced(query, gallery[:, :7])
        with pytest.raises(ValueError, match="query is complex64"):
            traced(query * 1j, gallery)
    slope = jax.grad(lambda x: soft_aim(x, gallery, **KS)[0].sum())
    plain, large = slope(query), slope(np.float32(1e20) * query)
    np.testing.assert_allclose(1e20 * large, plain, atol=1e-5)
