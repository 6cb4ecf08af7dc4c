"""AIM against Eq. 6-10 as loops and against the released distances; cosine and Euclidean distances."""

import itertools
import pathlib
import warnings

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saai_jax.affinity import aim, cosine, euclidean
from saai_jax.affinity.aim import keep_largest

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "kernels.npz")
Q, G, D = 5, 11, 8
SEEDS = st.integers(0, 2**31)
KS = st.sampled_from([(1, 1), (4, 1), (2, 2), (3, 6), (G, 1), (G, G)])
quick = settings(deadline=None, max_examples=25)
both = pytest.mark.parametrize("variant", ["released", "paper"])


def features(seed):
    """Somewhat alike, as pictures of people are; with affinities near 0 normalised rows would be mostly rounding."""
    random = np.random.default_rng(seed)
    draw = lambda n: (0.5 + random.standard_normal((n, D))).astype(np.float32)  # noqa: E731
    return draw(Q), draw(G)


def slow_unit(rows):
    norms = np.linalg.norm(np.float64(rows), axis=1)
    return np.array([row / norm if norm else np.zeros_like(row) for row, norm in zip(rows, norms, strict=True)])


def slow_keep(affinity, k):
    """Eq. 6: v is the k-th largest of a row; what is below it becomes 0."""
    kept = np.zeros_like(affinity)
    for i, row in enumerate(affinity):
        v = sorted(row, reverse=True)[k - 1]
        for j, value in enumerate(row):
            kept[i, j] = value if value >= v else 0
    return kept


def slow_aim(query, gallery, k1, k2, variant, remove=True, expand=True):
    query, gallery = slow_unit(query), slow_unit(gallery)
    qg, gg = np.zeros((len(query), len(gallery))), np.zeros((len(gallery), len(gallery)))
    for i, j in np.ndindex(*qg.shape):
        qg[i, j] = query[i] @ gallery[j]
    for i, j in np.ndindex(*gg.shape):
        gg[i, j] = gallery[i] @ gallery[j]
    removed, kept = (slow_keep(qg, k1), slow_keep(gg, k1)) if remove else (qg, gg)
    expanded = np.zeros_like(gg) if expand else kept
    for i in range(len(gallery) if expand else 0):
        for neighbour in np.argsort(-gg[i], kind="stable")[:k2]:
            expanded[i] += kept[neighbour] / k2  # Eq. 7
    if variant == "paper":
        return (1 - qg) - removed @ expanded  # Eq. 8-10
    return -slow_unit(removed) @ slow_unit(expanded).T - qg


@both
@quick
@given(SEEDS, KS)
def test_aim_is_the_loop(variant, seed, ks):
    query, gallery = features(seed)
    found = aim(query, gallery, k1=ks[0], k2=ks[1], variant=variant)
    np.testing.assert_allclose(found, slow_aim(query, gallery, *ks, variant), atol=1e-5)


@both
@pytest.mark.parametrize("remove", [True, False])
@pytest.mark.parametrize("expand", [True, False])
def test_each_step_can_be_left_out(variant, remove, expand):
    """Table 6."""
    query, gallery = features(5)
    expected = slow_aim(query, gallery, 4, 3, variant, remove, expand)
    for method in ("auto", "dense", "sparse") if remove else ("auto", "dense"):
        found = aim(query, gallery, k1=4, k2=3, variant=variant, remove=remove, expand=expand, method=method)
        np.testing.assert_allclose(found, expected, atol=1e-5)


@both
@pytest.mark.parametrize("size", [1500, 40])
def test_the_ways_to_compute_it_give_one_answer(variant, size):
    random = np.random.default_rng(0)
    gallery = (0.3 + random.standard_normal((size, 24))).astype(np.float32)
    query = (0.3 + random.standard_normal((50, 24))).astype(np.float32)
    found = [aim(query, gallery, k1=9, k2=3, variant=variant, method=m) for m in ("auto", "dense", "sparse")]
    np.testing.assert_allclose(found[0], found[1], atol=3e-6)
    np.testing.assert_array_equal(found[0], found[2 if size > 1024 else 1])
    traced = jax.jit(lambda q, g: aim(q, g, k1=9, k2=3, variant=variant))(query, gallery)
    np.testing.assert_allclose(traced, found[1], atol=3e-6)


@pytest.mark.parametrize(
    ("name", "k1", "k2"),
    [("aim0", 4, 1), ("aim0", 20, 6), ("aim0", 8, 2), ("aim0", 2, 2), ("aim1", 4, 1), ("aim1", 20, 6)],
)
def test_aim_is_the_released_one(name, k1, k2):
    found = aim(GOLDEN[f"{name}/query"], GOLDEN[f"{name}/gallery"], k1=k1, k2=k2)
    np.testing.assert_allclose(found, GOLDEN[f"{name}/released_k{k1}_{k2}"], atol=2e-6, rtol=0)


@both
@quick
@given(SEEDS, KS)
def test_order_of_images_only_reorders_distances(variant, seed, ks):
    query, gallery = features(seed)
    random = np.random.default_rng(seed)
    rows, columns = random.permutation(Q), random.permutation(G)
    plain = np.asarray(aim(query, gallery, k1=ks[0], k2=ks[1], variant=variant))
    moved = aim(query[rows], gallery[columns], k1=ks[0], k2=ks[1], variant=variant)
    np.testing.assert_allclose(moved, plain[rows][:, columns], atol=1e-5)


@both
@quick
@given(SEEDS)
def test_scale_of_features_is_irrelevant(variant, seed):
    query, gallery = features(seed)
    scale = np.exp2(np.random.default_rng(seed).integers(-9, 9, (G, 1))).astype(np.float32)
    plain = aim(query, gallery, k1=4, k2=2, variant=variant)
    np.testing.assert_allclose(aim(1000 * query, scale * gallery, k1=4, k2=2, variant=variant), plain, atol=1e-5)
    np.testing.assert_allclose(cosine(1000 * query, scale * gallery), cosine(query, gallery), atol=2e-6)


@both
def test_a_query_does_not_change_another_ones_distances(variant):
    query, gallery = features(0)
    alone = [aim(query[i : i + 1], gallery, k1=3, k2=2, variant=variant)[0] for i in range(Q)]
    np.testing.assert_allclose(aim(query, gallery, k1=3, k2=2, variant=variant), alone, atol=2e-6)


def test_with_everything_kept_and_no_expansion_the_printed_form_is_plain_affinities():
    query, gallery = features(1)
    qg, gg = slow_unit(query) @ slow_unit(gallery).T, slow_unit(gallery) @ slow_unit(gallery).T
    np.testing.assert_allclose(aim(query, gallery, k1=G, k2=1, variant="paper"), 1 - qg - qg @ gg, atol=2e-6)


def test_a_friend_of_a_near_image_comes_closer():
    """Gallery image 1 is as far from the query as image 2, but it is like image 0, which is near: Section 3.3."""
    query = np.float32([[1, 0, 0]])
    gallery = np.float32([[0.8, 0.6, 0], [0.28, 0.96, 0], [0.28, 0, 0.96]])
    plain, revised = cosine(query, gallery)[0], aim(query, gallery, k1=2, k2=1)[0]
    np.testing.assert_allclose(plain[1], plain[2], atol=1e-6)
    assert revised[1] < revised[2] - 0.05


@both
def test_ties_with_the_kth_affinity_are_kept(variant):
    """Axes of a cross have affinities of exactly 0, 1 and -1, so that all duplicates tie."""
    axes = np.concatenate([np.eye(4), np.eye(4), np.eye(4)[:2], -np.eye(4)[:1]]).astype(np.float32)
    for k1, k2 in ((1, 1), (2, 1), (3, 3), (5, 2)):
        found = aim(axes[:4], axes, k1=k1, k2=k2, variant=variant)
        np.testing.assert_allclose(found, slow_aim(axes[:4], axes, k1, k2, variant), atol=1e-6)
    affinity = np.float32([[3, 1, 3, 2, 2], [-1, -2, -3, -4, -5]])
    np.testing.assert_array_equal(keep_largest(affinity, 1), [[3, 0, 3, 0, 0], [-1, 0, 0, 0, 0]])
    np.testing.assert_array_equal(keep_largest(affinity, 3), [[3, 0, 3, 2, 2], [-1, -2, -3, 0, 0]])


@both
def test_k_above_the_gallery_warns_and_is_lowered(variant):
    query, gallery = features(2)
    expected = aim(query, gallery, k1=G, k2=G, variant=variant)
    with pytest.warns(UserWarning, match="k1=20 is lowered to the gallery's 11 images"):
        np.testing.assert_array_equal(aim(query, gallery, k1=20, k2=G, variant=variant), expected)
    with pytest.warns(UserWarning, match="k2=12 is lowered to the gallery's 11 images"):
        np.testing.assert_array_equal(aim(query, gallery, k1=G, k2=12, variant=variant), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        aim(query, gallery, k1=G, k2=G, variant=variant)


@both
def test_smallest_galleries_and_empty_features(variant):
    query, gallery = features(3)
    one = aim(query, gallery[:1], k1=1, k2=1, variant=variant)
    np.testing.assert_allclose(one, slow_aim(query, gallery[:1], 1, 1, variant), atol=2e-6)
    gallery[4], query[1] = 0, 0  # an image without a feature is far from everything, not NaN
    found = aim(query, gallery, k1=G, k2=2, variant=variant)
    np.testing.assert_allclose(found[1], slow_aim(query, gallery, G, 2, variant)[1], atol=2e-6)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("k", [0, -1, 2.0, True, None])
def test_errors(k):
    query, gallery = features(0)
    with pytest.raises(ValueError, match=f"k1 is {k!r}, expected a positive integer"):
        aim(query, gallery, k1=k, k2=1)
    with pytest.raises(ValueError, match=f"k2 is {k!r}, expected a positive integer"):
        aim(query, gallery, k1=1, k2=k)
    with pytest.raises(ValueError, match="variant is 'printed', expected 'released' or 'paper'"):
        aim(query, gallery, k1=1, k2=1, variant="printed")
    with pytest.raises(ValueError, match="method is 'quick', expected 'auto' or 'dense' or 'sparse'"):
        aim(query, gallery, k1=1, k2=1, method="quick")
    with pytest.raises(ValueError, match="needs remove=True"):
        aim(query, gallery, k1=1, k2=1, method="sparse", remove=False)


@quick
@given(SEEDS)
def test_plain_distances_are_the_loops(seed):
    query, gallery = features(seed)
    similar, apart = np.zeros((Q, G)), np.zeros((Q, G))
    for i, j in itertools.product(range(Q), range(G)):
        a, b = np.float64(query[i]), np.float64(gallery[j])
        similar[i, j] = a @ b / np.sqrt((a @ a) * (b @ b))
        apart[i, j] = np.sqrt(((a - b) ** 2).sum())
    np.testing.assert_allclose(cosine(query, gallery), 1 - similar, atol=1e-6)
    np.testing.assert_allclose(euclidean(query, gallery), apart, rtol=1e-5, atol=1e-5)


def test_plain_distances_of_equal_opposite_and_empty_rows():
    query, _ = features(4)
    np.testing.assert_allclose(np.diag(cosine(query, query)), 0, atol=1e-6)
    np.testing.assert_allclose(np.diag(cosine(query, -query)), 2, atol=1e-6)
    np.testing.assert_allclose(np.diag(euclidean(query, query)), 0, atol=3e-3)  # and not NaN: 1e-6 below its root
    np.testing.assert_array_equal(cosine(0 * query, query), 1)
