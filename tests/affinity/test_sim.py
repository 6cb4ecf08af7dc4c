"""SIM against Eq. 1-8 as loops and Eq. 2 as shortest paths; what the paper leaves open, option by option."""

import functools
import warnings

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import shortest_path

from saai_jax.affinity import euclidean
from saai_jax.affinity.cosine import unit
from saai_jax.affinity.sim import sim

Q, G, D = 5, 11, 8
SEEDS = st.integers(0, 2**31)
# The same draws every time: a neighbour that float32 puts elsewhere than float64 would be a jump, not an error.
quick = settings(deadline=None, max_examples=6, derandomize=True)
PLAIN = {"scale": 0.2, "paths": 3, "neighbours": 3, "kq": 5, "kg": 4, "alpha": 0.3}
OPTIONS = [
    PLAIN,
    PLAIN | {"neighbours": 6},
    PLAIN | {"paths": 1, "neighbours": 1},
    PLAIN | {"own": False},
    PLAIN | {"expand": True, "kg": 7},
    PLAIN | {"expand": True, "own": False, "kg": 6},
    PLAIN | {"expand": True, "kg": 1},
    PLAIN | {"edges": "either"},
    PLAIN | {"edges": "either", "own": False, "scale": 0.0},
    PLAIN | {"edges": "either", "paths": 1, "neighbours": 1},
    PLAIN | {"normalise": False, "kq": G, "kg": G},
    PLAIN | {"graph": False},
    PLAIN | {"graph": False, "own": False, "alpha": 0.0},
    PLAIN | {"mutual": False},
]
every = pytest.mark.parametrize("options", OPTIONS, ids=str)


def features(seed, queries=Q):
    random = np.random.default_rng(seed)
    draw = lambda n: (0.5 + random.standard_normal((n, D))).astype(np.float32)  # noqa: E731
    return draw(queries), draw(G)


def slow_distances(a, b, normalise):
    a, b = np.float64(a), np.float64(b)
    if normalise:
        a, b = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True)
    return np.array([[np.sqrt(((x - y) ** 2).sum()) for y in b] for x in a])


def slow_sim(
    query, gallery, scale, paths, neighbours, kq, kg, alpha,
    own=True, edges="nearest", expand=False, normalise=True, graph=True, mutual=True,
):  # fmt: skip
    qg, gg = slow_distances(query, gallery, normalise), slow_distances(gallery, gallery, normalise)
    images = range(len(gallery))

    def near(j, k):
        others = sorted((t for t in images if t != j), key=lambda t: gg[j, t])
        return ([j, *others] if own else others)[:k]

    def reciprocal(j, k):
        return {t for t in near(j, k) if j in near(t, k)}

    lists = [near(j, neighbours) for j in images]
    if edges == "either":
        lists = [[t for t in images if t in lists[j] or j in lists[t]] for j in images]
    reached = qg.copy()
    if graph:
        for i, j in np.ndindex(*qg.shape):
            reached[i, j] = np.mean(sorted(qg[i, t] + scale * gg[t, j] for t in lists[j])[:paths])  # Eq. 5
    if not mutual:
        return reached
    sets = [reciprocal(j, kg) for j in images]
    if expand:
        halves = [reciprocal(j, max(1, round(kg / 2))) for j in images]
        admitted = [[halves[c] for c in r if 3 * len(r & halves[c]) >= 2 * len(halves[c])] for r in sets]
        sets = [r.union(*more) for r, more in zip(sets, admitted, strict=True)]
        sets = [r if own else r - {j} for j, r in enumerate(sets)]
    apart = np.zeros_like(qg)
    for i, j in np.ndindex(*qg.shape):
        around = set(sorted(images, key=lambda t: reached[i, t])[:kq])
        apart[i, j] = 1 - len(around & sets[j]) / len(around | sets[j])  # Eq. 7
    return alpha * reached + (1 - alpha) * apart


@every
@quick
@given(SEEDS)
def test_sim_is_the_loop(options, seed):
    query, gallery = features(seed)
    np.testing.assert_allclose(sim(query, gallery, **options), slow_sim(query, gallery, **options), atol=2e-5)


@quick
@given(SEEDS)
def test_one_path_over_any_image_is_the_shortest_path_of_the_graph(seed):
    """Eq. 2, which searches all paths, against Eq. 4, which needs one image between."""
    query, gallery = features(seed)
    qg, gg = slow_distances(query, gallery, True), slow_distances(gallery, gallery, True)
    for scale in (0.01, 0.3):
        graph = np.block([[np.zeros((Q, Q)), qg], [np.zeros((G, Q)), scale * gg]])
        found = sim(query, gallery, mutual=False, scale=scale, paths=1, neighbours=G)
        np.testing.assert_allclose(found, shortest_path(graph)[:Q, Q:], atol=1e-5)


def test_defaults_are_the_documented_ones():
    query, _ = features(0)
    gallery = np.random.default_rng(1).standard_normal((30, D)).astype(np.float32)
    expected = slow_sim(query, gallery, scale=0.01, paths=9, neighbours=9, kq=20, kg=20, alpha=0.3)
    np.testing.assert_allclose(sim(query, gallery), expected, atol=1e-5)


def test_each_reasoning_alone():
    query, gallery = features(2)
    plain = euclidean(unit(query), unit(gallery))
    found = sim(query, gallery, mutual=False, paths=1, neighbours=1)  # the way over the image itself
    np.testing.assert_allclose(found, plain, atol=1e-6)
    options = {**PLAIN, "alpha": 1}
    found = sim(query, gallery, **options)
    np.testing.assert_allclose(found, sim(query, gallery, **options, mutual=False), atol=1e-6)
    np.testing.assert_allclose(sim(query, gallery, **options, graph=False), plain, atol=1e-6)


def test_neighbours_in_common_by_hand():
    """Two people of two pictures each: the query's two nearest are the first's, whose sets are all of them or none."""
    query = np.float32([[1, 0.1]])
    gallery = np.float32([[1, 0], [1, 0.01], [0, 1], [0.01, 1]])
    apart = functools.partial(sim, query, gallery, graph=False, alpha=0, kg=2)
    np.testing.assert_allclose(apart(kq=2), [[0, 0, 1, 1]], atol=1e-7)
    np.testing.assert_allclose(apart(kq=4), [[0.5, 0.5, 0.5, 0.5]], atol=1e-7)
    np.testing.assert_allclose(apart(kq=1), [[0.5, 0.5, 1, 1]], atol=1e-7)  # own images in the sets
    np.testing.assert_allclose(apart(kq=2, kg=1, own=False), [[0.5, 0.5, 1, 1]], atol=1e-7)  # and not


@every
def test_order_of_images_only_reorders_distances(options):
    query, gallery = features(3)
    random = np.random.default_rng(3)
    rows, columns = random.permutation(Q), random.permutation(G)
    plain = np.asarray(sim(query, gallery, **options))
    moved = sim(query[rows], gallery[columns], **options)
    np.testing.assert_allclose(moved, plain[rows][:, columns], atol=1e-5)


def test_queries_in_blocks_do_not_change_each_others_distances():
    query, gallery = features(4, queries=70)
    together = sim(query, gallery, **PLAIN)
    for few in (slice(0, 1), slice(31, 33), slice(60, 70), slice(0, 0)):
        np.testing.assert_allclose(sim(query[few], gallery, **PLAIN), together[few], atol=2e-6)


def test_scale_of_features_matters_only_where_they_are_not_normalised():
    query, gallery = features(5)
    lengths = np.exp2(np.random.default_rng(5).integers(-9, 9, (G, 1))).astype(np.float32)
    plain = sim(query, gallery, **PLAIN)
    np.testing.assert_allclose(sim(100 * query, lengths * gallery, **PLAIN), plain, atol=1e-5)
    longer = sim(4 * query, 4 * gallery, **PLAIN, mutual=False, normalise=False)
    np.testing.assert_allclose(longer, 4 * sim(query, gallery, **PLAIN, mutual=False, normalise=False), rtol=1e-5)


@every
def test_of_equal_distances_the_earlier_image_is_nearer(options):
    """Axes of a cross lie exactly 0, sqrt(2) or 2 apart, so that all lists are cut within ties."""
    axes = np.concatenate([np.eye(4), np.eye(4), np.eye(4)[:2], -np.eye(4)[:1]]).astype(np.float32)
    np.testing.assert_allclose(sim(axes[:4], axes, **options), slow_sim(axes[:4], axes, **options), atol=2e-6)


def test_traced_and_plain_are_the_same():
    query, gallery = features(6)
    traced = jax.jit(functools.partial(sim, **PLAIN))(query, gallery)
    np.testing.assert_allclose(traced, sim(query, gallery, **PLAIN), atol=1e-6)


def test_numbers_above_the_gallery_warn_and_are_lowered():
    query, gallery = features(7)
    expected = sim(query, gallery, paths=2, neighbours=G, kq=G, kg=G)
    with pytest.warns(UserWarning, match="is lowered to") as caught:
        found = sim(query, gallery, paths=2, neighbours=20, kq=21, kg=22)
    np.testing.assert_array_equal(found, expected)
    lowered = [f"{name}={k} is lowered to the gallery's 11 images" for name, k in
               (("neighbours", 20), ("kq", 21), ("kg", 22))]  # fmt: skip
    assert [str(w.message) for w in caught] == lowered
    assert {w.filename for w in caught} == {__file__}
    with pytest.warns(UserWarning, match="kg=11 is lowered to the 10 other images of the gallery"):
        sim(query, gallery, paths=2, neighbours=2, kq=G, kg=G, own=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sim(query, gallery, paths=2, neighbours=2, mutual=False)  # kq and kg are not in use
        sim(query, gallery, kq=2, kg=2, graph=False)


def test_smallest_gallery_and_empty_features():
    query, gallery = features(8)
    alone = {"paths": 1, "neighbours": 1, "kq": 1, "kg": 1}
    expected = 0.3 * slow_distances(query, gallery[:1], True)  # the one image is everyone's neighbour
    np.testing.assert_allclose(sim(query, gallery[:1], **alone), expected, atol=1e-6)
    query[1], gallery[4] = 0, 0
    for options in OPTIONS:
        assert np.isfinite(sim(query, gallery, **options)).all()


@pytest.mark.parametrize("k", [0, -1, 2.0, True, None])
@pytest.mark.parametrize("name", ["paths", "neighbours", "kq", "kg"])
def test_counts_that_are_none(name, k):
    with pytest.raises(ValueError, match=f"{name} is {k!r}, expected a positive integer"):
        sim(*features(0), **{**PLAIN, name: k})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"graph": False, "mutual": False}, "graph and mutual are both False, expected at least one of them"),
        ({"edges": "all"}, "edges is 'all', expected 'nearest' or 'either'"),
        ({"paths": 4}, "paths is 4, expected at most neighbours=3"),
        ({"alpha": 1.1}, "alpha is 1.1, expected a number from 0 to 1"),
        ({"alpha": float("nan")}, "alpha is nan, expected a number from 0 to 1"),
        ({"scale": -0.1}, "scale is -0.1, expected a number from 0 to 1"),
        ({"scale": "0.1"}, "scale is '0.1', expected a number from 0 to 1"),
    ],
)
def test_errors(wrong, message):
    with pytest.raises(ValueError, match=message):
        sim(*features(0), **(PLAIN | wrong))


def test_errors_of_galleries():
    query, gallery = features(0)
    with pytest.raises(ValueError, match="the gallery is empty"):
        sim(query, gallery[:0], **PLAIN)
    with pytest.raises(ValueError, match="own is False, expected True for a gallery of one image"):
        sim(query, gallery[:1], **PLAIN, own=False)
