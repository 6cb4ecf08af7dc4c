"""k-reciprocal encoding against sets and loops; both variants; neighbours among the queries only."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saai_jax.affinity import cosine
from saai_jax.affinity.k_reciprocal import _expanded, k_reciprocal

Q, G, D = 9, 12, 6
SEEDS = st.integers(0, 2**31)
# The same draws every time: a neighbour that float32 puts elsewhere than float64 would be a jump, not an error.
quick = settings(deadline=None, max_examples=12, derandomize=True)
both = pytest.mark.parametrize("variant", ["released", "paper"])
either = pytest.mark.parametrize("neighbours", ["all", "query"])
numbers = pytest.mark.parametrize(
    ("k1", "k2", "weight"), [(4, 3, 0.3), (5, 1, 0.0), (1, 2, 0.5), (7, 6, 0.1), (2, 8, 0.3)]
)


def features(seed, q=Q, g=G, people=3):
    """Pictures of a few people, so that reciprocal sets hold more than the image itself."""
    random = np.random.default_rng(seed)
    means = random.standard_normal((people, D))
    draw = lambda n: (means[random.integers(people, size=n)] + 0.5 * random.standard_normal((n, D))).astype(np.float32)  # noqa: E731
    return draw(q), draw(g)


def slow_k_reciprocal(query, gallery, k1=20, k2=6, weight=0.3, neighbours="all", variant="released"):
    rows = [row / (np.linalg.norm(row) or 1) for row in np.float64(np.concatenate([query, gallery]))]
    n, q = len(rows), len(query)
    d = np.array([[((a - b) ** 2).sum() for b in rows] for a in rows])
    ranked = range(n if neighbours == "all" else q)
    order = [sorted(ranked, key=lambda j: -1 if j == i else d[i, j]) for i in range(n)]
    if variant == "released":
        d = d / d.max(1, keepdims=True)

    def reciprocal(i, k):
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    encoded = []
    for i in range(n):
        mutual = reciprocal(i, k1)
        grown = set(mutual)
        for c in mutual:
            half = reciprocal(c, round(k1 / 2))
            enough = 3 * len(mutual & half) - 2 * len(half)
            if enough > 0 or (variant == "paper" and enough == 0):
                grown |= half
        v = np.zeros(n)
        for j in grown:
            v[j] = np.exp(-d[i, j])
        encoded.append(v / (v.sum() or 1) if variant == "released" else v)
    encoded = [np.mean([encoded[j] for j in order[i][:k2]], 0) for i in range(n)] if k2 > 1 else encoded
    found = np.zeros((q, n - q))
    for i, j in np.ndindex(*found.shape):
        a, b = encoded[i], encoded[q + j]
        largest = np.maximum(a, b).sum()
        jaccard = 1 - np.minimum(a, b).sum() / largest if largest else 1
        found[i, j] = (1 - weight) * jaccard + weight * d[i, q + j]
    return found


@both
@either
@numbers
@quick
@given(SEEDS)
def test_k_reciprocal_is_the_loop(variant, neighbours, k1, k2, weight, seed):
    options = {"k1": k1, "k2": k2, "weight": weight, "neighbours": neighbours, "variant": variant}
    query, gallery = features(seed)
    found = k_reciprocal(query, gallery, **options)
    np.testing.assert_allclose(found, slow_k_reciprocal(query, gallery, **options), atol=2e-5)


@both
@either
def test_defaults_on_more_images(variant, neighbours):
    query, gallery = features(1, q=60, g=70, people=5)
    found = k_reciprocal(query, gallery, neighbours=neighbours, variant=variant)
    expected = slow_k_reciprocal(query, gallery, neighbours=neighbours, variant=variant)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert found.dtype == np.float32


@both
@either
@quick
@given(SEEDS)
def test_order_of_images_only_reorders_distances(variant, neighbours, seed):
    query, gallery = features(seed)
    random = np.random.default_rng(seed)
    rows, columns = random.permutation(Q), random.permutation(G)
    options = {"k1": 4, "k2": 3, "neighbours": neighbours, "variant": variant}
    plain = np.asarray(k_reciprocal(query, gallery, **options))
    moved = k_reciprocal(query[rows], gallery[columns], **options)
    np.testing.assert_allclose(moved, plain[rows][:, columns], atol=1e-5)


@both
@either
@quick
@given(SEEDS)
def test_scale_of_features_is_irrelevant_and_distances_are_bounded(variant, neighbours, seed):
    query, gallery = features(seed)
    lengths = np.exp2(np.random.default_rng(seed).integers(-9, 9, (G, 1))).astype(np.float32)
    options = {"k1": 4, "k2": 2, "neighbours": neighbours, "variant": variant}
    plain = np.asarray(k_reciprocal(query, gallery, **options))
    np.testing.assert_allclose(k_reciprocal(100 * query, lengths * gallery, **options), plain, atol=1e-5)
    assert plain.min() >= 0
    assert plain.max() <= (1.0 if variant == "released" else 0.7 + 0.3 * 4) + 1e-6


@both
@either
def test_all_weight_on_the_plain_distance_is_the_cosine_order(variant, neighbours):
    query, gallery = features(2)
    found = k_reciprocal(query, gallery, k1=3, k2=2, weight=1, neighbours=neighbours, variant=variant)
    np.testing.assert_array_equal(np.argsort(found), np.argsort(cosine(query, gallery)))
    if variant == "paper":
        np.testing.assert_allclose(found, 2 * cosine(query, gallery), atol=1e-6)


@either
def test_it_is_transductive(neighbours):
    """What another query does to a query's distances, unlike in aim and sim."""
    query, gallery = features(3)
    options = {"k1": 4, "k2": 3, "neighbours": neighbours}
    together, fewer = k_reciprocal(query, gallery, **options), k_reciprocal(query[:6], gallery, **options)
    assert np.abs(together[:6] - fewer).max() > 0.05


def test_among_queries_only_other_gallery_images_do_not_matter():
    query, gallery = features(4)
    options = {"k1": 4, "k2": 3, "variant": "paper"}  # the other scales d by the largest
    some = slice(0, 5)
    found = k_reciprocal(query, gallery, **options, neighbours="query")[:, some]
    np.testing.assert_allclose(k_reciprocal(query, gallery[some], **options, neighbours="query"), found, atol=1e-6)
    found = k_reciprocal(query, gallery, **options)[:, some]
    assert np.abs(k_reciprocal(query, gallery[some], **options) - found).max() > 0.05


@both
def test_among_queries_only_and_without_averaging_nothing_is_in_common(variant):
    query, gallery = features(5)
    options = {"k1": 4, "k2": 1, "neighbours": "query", "variant": variant}
    plain = np.asarray(k_reciprocal(query, gallery, **options, weight=1))
    np.testing.assert_allclose(k_reciprocal(query, gallery, **options, weight=0.3), 0.7 + 0.3 * plain, atol=1e-6)


def test_two_thirds_are_enough_in_the_paper_only():
    """Image 0 is reciprocal with 0 to 4. Of these 1 has {0, 1, 5} at half k1, two thirds in them; the rest add none."""
    lists = np.array(
        [[0, 1, 2, 3, 4], [1, 0, 5, 2, 3], [2, 3, 4, 0, 1], [3, 2, 4, 0, 1], [4, 2, 3, 0, 5], [5, 1, 2, 3, 4]]
    )
    for inclusive, expected in ((False, {0, 1, 2, 3, 4}), (True, {0, 1, 2, 3, 4, 5})):
        assert set(_expanded(lists, 4, inclusive)[[0]].indices) == expected


@both
def test_a_shared_friend_brings_an_image_closer(variant):
    """Gallery images 0 and 1 are as far from the query; 0 has its neighbours around the query, 1 has its own."""
    turn = lambda *degrees: np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], 1).astype(np.float32)  # noqa: E731
    query, gallery = turn(0), turn(12, -12, 4, 8, -40, -42, -41, -43)
    found = k_reciprocal(query, gallery, k1=3, k2=2, variant=variant)[0]
    assert found[0] < found[1] - 0.1


@both
@either
def test_numbers_above_the_images_warn_and_are_lowered(variant, neighbours):
    query, gallery = features(6)
    options = {"neighbours": neighbours, "variant": variant}
    most, called = (Q + G, "21 query and gallery images") if neighbours == "all" else (Q, "9 query images")
    expected = k_reciprocal(query, gallery, k1=most, k2=most, **options)
    with pytest.warns(UserWarning, match=f"k1=40 is lowered to the {called}"):
        np.testing.assert_array_equal(k_reciprocal(query, gallery, k1=40, k2=most, **options), expected)
    with pytest.warns(UserWarning, match=f"k2=30 is lowered to the {called}") as caught:
        np.testing.assert_array_equal(k_reciprocal(query, gallery, k1=most, k2=30, **options), expected)
    assert {w.filename for w in caught} == {__file__}
    found = slow_k_reciprocal(query, gallery, k1=most, k2=most, **options)
    np.testing.assert_allclose(expected, found, atol=1e-5)


@both
@either
def test_smallest_sets_equal_images_and_empty_features(variant, neighbours):
    query, gallery = features(7)
    options = {"k1": 1, "k2": 1, "neighbours": neighbours, "variant": variant}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = k_reciprocal(query[:1], gallery[:1], **options)
        np.testing.assert_allclose(one, slow_k_reciprocal(query[:1], gallery[:1], **options), atol=1e-5)
        assert k_reciprocal(query[:0], gallery, **options).shape == (0, G)
        query[1], gallery[2:] = 0, gallery[0]
        assert np.isfinite(k_reciprocal(query, gallery, k1=3, k2=2, neighbours=neighbours, variant=variant)).all()
        assert np.isfinite(k_reciprocal(0 * query, 0 * gallery, **options)).all()


@pytest.mark.parametrize("k", [0, -1, 2.0, True, None])
def test_counts_that_are_none(k):
    with pytest.raises(ValueError, match=f"k1 is {k!r}, expected a positive integer"):
        k_reciprocal(*features(0), k1=k)
    with pytest.raises(ValueError, match=f"k2 is {k!r}, expected a positive integer"):
        k_reciprocal(*features(0), k1=4, k2=k)


def test_errors():
    query, gallery = features(0)
    with pytest.raises(ValueError, match="neighbours is 'gallery', expected 'all' or 'query'"):
        k_reciprocal(query, gallery, neighbours="gallery")
    with pytest.raises(ValueError, match="variant is 'printed', expected 'released' or 'paper'"):
        k_reciprocal(query, gallery, variant="printed")
    with pytest.raises(ValueError, match="weight is 2, expected a number from 0 to 1"):
        k_reciprocal(query, gallery, weight=2)
    with pytest.raises(ValueError, match="the gallery is empty"):
        k_reciprocal(query, gallery[:0])
