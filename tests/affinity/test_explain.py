"""What moved AIM's results: the terms sum to the correction, and each is a product of two affinities of Eq. 6-9."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saai_jax.affinity import aim, cosine
from saai_jax.affinity.explain import contributions

Q, G, D = 4, 12, 6
quick = settings(deadline=None, max_examples=25)
STEPS = [(True, True), (True, False), (False, True), (False, False)]


def features(seed):
    draw = np.random.default_rng(seed).standard_normal
    return tuple((0.5 + draw((n, D))).astype(np.float32) for n in (Q, G))


def slow_terms(query, gallery, k1, k2, variant):
    """Eq. 6 to 9 as loops in float64: the product of both factors at every t."""
    query, gallery = (np.float64(x) / np.linalg.norm(np.float64(x), axis=1, keepdims=True) for x in (query, gallery))
    qg, gg = query @ gallery.T, gallery @ gallery.T
    keep = lambda row: np.where(row >= np.sort(row)[-k1], row, 0)  # noqa: E731
    own, kept = np.stack([*map(keep, qg)]), np.stack([*map(keep, gg)])
    expanded = np.stack([np.mean([kept[u] for u in np.argsort(-row, kind="stable")[:k2]], axis=0) for row in gg])
    terms = np.zeros((Q, G, G))
    for q, g, t in np.ndindex(*terms.shape):
        if variant == "paper":
            terms[q, g, t] = own[q, t] * expanded[t, g]
        else:
            norms = np.linalg.norm(own[q]) * np.linalg.norm(expanded[g])
            terms[q, g, t] = own[q, t] * expanded[g, t] / max(norms, 1e-12)
    return terms


@quick
@given(st.integers(0, 2**31), st.sampled_from([(1, 1), (4, 1), (2, 2), (3, 6), (G, G)]), st.sampled_from([0, 1]))
def test_terms_are_those_of_the_equations(seed, ks, variant):
    query, gallery = features(seed)
    options = dict(k1=ks[0], k2=ks[1], variant=("released", "paper")[variant])
    result = np.tile(np.arange(G), (Q, 1))
    got = contributions(query, gallery, result, **options)
    np.testing.assert_allclose(got, slow_terms(query, gallery, *ks, options["variant"]), atol=2e-6)


@pytest.mark.parametrize("variant", ["released", "paper"])
@pytest.mark.parametrize(("remove", "expand"), STEPS)
def test_terms_sum_to_the_correction(variant, remove, expand):
    query, gallery = features(3)
    options = dict(k1=4, k2=3, variant=variant, remove=remove, expand=expand)
    result = np.random.default_rng(0).integers(0, G, (Q, 5))  # some rows several times, in any order
    moved = contributions(query, gallery, result, **options).sum(2)
    plain = np.asarray(cosine(query, gallery)) - (variant == "released")
    correction = np.take_along_axis(plain - np.asarray(aim(query, gallery, **options)), result, 1)
    np.testing.assert_allclose(moved, correction, atol=2e-6)
    assert np.abs(correction).max() > 0.1


def test_an_image_without_neighbours_in_common_moves_nothing():
    """Two groups at right angles: only images of the query's own group have a part."""
    gallery = np.float32([[1, 0.1, 0, 0], [1, -0.1, 0, 0], [0, 0, 1, 0.1], [0, 0, 1, -0.1]])
    terms = contributions(gallery[:1], gallery, np.array([[1, 2]]), k1=2, k2=2)
    assert (terms[0, 0, :2] > 0.1).all()
    assert not terms[0, 0, 2:].any()
    assert not terms[0, 1].any()


@pytest.mark.parametrize(
    ("result", "change", "message"),
    [
        ([[0, G]] * Q, {}, f"result has rows 0 to {G}, the gallery has {G}"),
        ([[-1]] * Q, {}, "result has rows -1 to -1"),
        ([[0.0]] * Q, {}, r"result is float64\[4, 1\], expected whole numbers \[4, r\]"),
        ([[0]], {}, r"expected whole numbers \[4, r\]"),
        ([[0]] * Q, {"variant": "published"}, "variant is 'published'"),
        ([[0]] * Q, {"k1": 0}, "k1 is 0"),
    ],
)
def test_wrong_arguments_are_refused(result, change, message):
    with pytest.raises(ValueError, match=message):
        contributions(*features(0), np.array(result), **{"k1": 2, "k2": 2, **change})
