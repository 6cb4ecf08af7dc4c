"""Ranks, average precision and inverse negative penalty against one sorted list for each query."""

import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saai_jax.affinity import cosine
from saai_jax.metrics import ABSENT, cmc, rank_metrics
from saai_jax.ranking.evaluate import score_trials

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "regdb.npz")
GALLERY = np.repeat([2, 3, 5, 8, 9, 14], [6, 5, 1, 4, 3, 2])  # unequal numbers of images
Q, G = 8, len(GALLERY)


def slow_query(distance, own, identity, valid):
    """(rank, identity rank, average precision, inverse negative penalty, matched) of one query."""
    ranking = sorted((j for j in range(len(identity)) if valid[j]), key=lambda j: (distance[j], j))
    places = [place for place, j in enumerate(ranking, 1) if identity[j] == own]
    if not places:
        return ABSENT, ABSENT, 0, 0, False
    met = []  # every identity once, where its first image is
    for j in ranking:
        if identity[j] not in met:
            met.append(identity[j])
    precision = np.mean([k / place for k, place in enumerate(places, 1)])
    return places[0] - 1, met.index(own), precision, len(places) / places[-1], True


def assert_is_slow(distance, query, gallery, valid):
    found = rank_metrics(np.float32(distance), query, gallery, valid)
    expected = [slow_query(*row) for row in zip(distance, query, [gallery] * len(query), valid, strict=True)]
    for name, column in zip(found._fields, zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(getattr(found, name), column, rtol=1e-5, err_msg=name)
    return found


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from([3, 8, 1000]), st.sampled_from([0.0, 0.3, 0.9]))
def test_metrics_are_the_loop(seed, levels, skipped):
    """Few levels make ties, most of them between identities; queries of 0, 4 and 20 are of nobody in the gallery."""
    random = np.random.default_rng(seed)
    distance = random.integers(0, levels, (Q, G)) / 8 - 1
    query = random.choice([0, 2, 3, 4, 5, 8, 9, 14, 20], Q)
    assert_is_slow(distance, query, random.permutation(GALLERY), random.random((Q, G)) >= skipped)


def test_skipping_whole_cameras():
    random = np.random.default_rng(0)
    query, camera, gallery_camera = random.choice(GALLERY, Q), random.integers(1, 4, Q), random.integers(1, 3, G)
    valid = camera[:, None] != gallery_camera
    found = assert_is_slow(random.random((Q, G)), query, GALLERY, valid)
    only = np.array([(ok & (i == GALLERY)).any() for i, ok in zip(query, valid, strict=True)])
    np.testing.assert_array_equal(found.matched, only)
    none = assert_is_slow(random.random((Q, G)), query, GALLERY, np.zeros((Q, G), bool))
    assert not none.matched.any()


def test_a_perfect_and_the_worst_ranking():
    query, valid = np.array([2, 9]), np.ones((2, G), bool)
    same = query[:, None] == GALLERY
    best, worst = (rank_metrics(np.float32(d), query, GALLERY, valid) for d in (~same, same))
    for values in (best.average_precision, best.inverse_negative_penalty):
        np.testing.assert_allclose(values, 1, rtol=1e-6)
    np.testing.assert_array_equal(best.rank, 0)
    np.testing.assert_array_equal(worst.rank, [G - 6, G - 3])
    np.testing.assert_array_equal(worst.identity_rank, 5)
    np.testing.assert_allclose(worst.inverse_negative_penalty, [6 / G, 3 / G], rtol=1e-6)


def test_ties_are_ranked_by_gallery_order():
    gallery, valid = np.array([1, 0, 1, 0]), np.ones((2, 4), bool)
    found = assert_is_slow(np.zeros((2, 4)), np.array([0, 1]), gallery, valid)
    np.testing.assert_array_equal(found.rank, [1, 0])
    np.testing.assert_array_equal(found.identity_rank, [1, 0])


@pytest.mark.parametrize("own", [3, 4])
def test_one_query_and_one_gallery_image(own):
    assert_is_slow(np.random.default_rng(0).random((1, G)), np.array([own]), GALLERY, np.ones((1, G), bool))
    found = assert_is_slow(np.array([[0.5]]), np.array([own]), np.array([3]), np.ones((1, 1), bool))
    assert found.matched.tolist() == [own == 3]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31))
def test_order_of_rows_and_any_increasing_distance_do_not_matter(seed):
    random = np.random.default_rng(seed)
    distance, query = random.permuted(np.tile(np.arange(G), (Q, 1)), axis=1), random.choice(GALLERY, Q)
    valid = random.random((Q, G)) > 0.2
    plain = rank_metrics(np.float32(distance), query, GALLERY, valid)
    rows, columns = random.permutation(Q), random.permutation(G)
    moved = (distance**3 / 50 - 7)[rows][:, columns].astype(np.float32)
    other = rank_metrics(moved, query[rows], GALLERY[columns], valid[rows][:, columns])
    for one, two in zip(plain, other, strict=True):
        np.testing.assert_allclose(one[rows], two, rtol=1e-6)


def test_more_queries_than_are_ranked_at_once():
    random = np.random.default_rng(1)
    query = random.choice(GALLERY, 150)  # two blocks of 64 and a remainder
    assert_is_slow(random.random((150, G)), query, GALLERY, np.ones((150, G), bool))


@pytest.mark.parametrize(("first", "second"), [("visible", "thermal"), ("thermal", "visible")])
def test_regdb_figures_are_those_of_the_published_evaluation(first, second):
    identity, name = GOLDEN["identity"], f"{first}_to_{second}"
    distance = cosine(GOLDEN[first], GOLDEN[second])
    found = rank_metrics(distance, identity, identity, np.ones(distance.shape, bool))
    assert found.matched.all()
    np.testing.assert_allclose(cmc(found.rank, 20), GOLDEN[f"{name}/cmc"], atol=1e-4)
    means = found.average_precision.mean(), found.inverse_negative_penalty.mean()
    np.testing.assert_allclose(means, GOLDEN[f"{name}/map_minp"], atol=1e-4)


def test_cmc_leaves_out_queries_without_a_match():
    rank = np.array([0, 2, ABSENT, 2, 5])
    np.testing.assert_allclose(cmc(rank, 4), [1 / 4, 1 / 4, 3 / 4, 3 / 4])
    np.testing.assert_allclose(cmc(rank, 8)[5:], 1)
    assert cmc(rank, 1).shape == (1,)


def test_errors():
    with pytest.raises(ValueError, match="no query has a true match in the gallery"):
        cmc(np.array([ABSENT, ABSENT]), 5)
    distance, query, valid = np.zeros((Q, G), np.float32), np.zeros(Q, int), np.ones((Q, G), bool)
    for bad in ((distance.T, valid), (distance, valid[:, 1:]), (distance[:-1], valid[:-1])):
        with pytest.raises(ValueError, match=r"distance is .* and valid .*, expected both \(8, 21\)"):
            rank_metrics(bad[0], query, GALLERY, bad[1])
    for value in (np.nan, np.inf):
        broken = distance.copy()
        broken[5, 3] = value
        with pytest.raises(ValueError, match="distance row 5 is not finite"):
            rank_metrics(broken, query, GALLERY, valid)


@pytest.mark.parametrize("unique", [False, True])
def test_trials_keep_each_query_and_the_whole_curve(unique):
    """score_trials against the loop: 130 gallery images make a curve longer than is kept, 6 identities a short one."""
    random = np.random.default_rng(0)
    identity = np.concatenate([random.choice([2, 3, 4, 5, 8, 9, 14], 20), random.choice(GALLERY, 150)])
    camera, embedding = random.integers(1, 4, 170), random.standard_normal((170, 4)).astype(np.float32)
    trials = [(random.permutation(20), 20 + random.permutation(150)[:size]) for size in (130, 9)]

    def valid(_, query_camera, __, gallery_camera):
        return query_camera[:, None] != gallery_camera

    found = score_trials(embedding, identity, camera, trials, valid, cosine, unique_identities=unique)
    for (query, gallery), score in zip(trials, found, strict=True):
        distance = np.asarray(cosine(embedding[query], embedding[gallery]))
        rows = [
            (row, *slow_query(d, identity[row], identity[gallery], camera[row] != camera[gallery]))
            for row, d in zip(query, distance, strict=True)
        ]
        rows = [row for row in rows if row[-1]]
        per_query, place = score["per_query"], np.array([row[2 if unique else 1] for row in rows])
        assert per_query["query"].tolist() == [row[0] for row in rows]
        np.testing.assert_array_equal(per_query["rank1"], place == 0)
        np.testing.assert_allclose(per_query["ap"], [row[3] for row in rows], rtol=1e-5)
        np.testing.assert_allclose(per_query["inp"], [row[4] for row in rows], rtol=1e-5)
        places = len(set(identity[gallery])) if unique else len(gallery)
        assert len(score["cmc"]) == min(places, 100)
        np.testing.assert_allclose(score["cmc"], [100 * (place < k).mean() for k in range(1, len(score["cmc"]) + 1)])
        assert score["rank5"] == pytest.approx(100 * (place < 5).mean())
        assert score["map"] == pytest.approx(100 * np.mean([row[3] for row in rows]), rel=1e-5)
        assert score["minp"] == pytest.approx(100 * np.mean([row[4] for row in rows]), rel=1e-5)
        assert (score["queries"], score["gallery"]) == (len(rows), len(gallery))


def test_distractors_of_one_identity_change_nothing_but_places():
    """Thousands of images under one number that nobody asks for, as in Market-1501."""
    random = np.random.default_rng(0)
    gallery = np.concatenate([np.zeros(300, np.int32), random.integers(1, 9, 60).astype(np.int32)])
    query = random.integers(1, 9, 20).astype(np.int32)
    distance = random.standard_normal((20, 360)).astype(np.float32)
    valid = random.random((20, 360)) < 0.9
    found = rank_metrics(distance, query, gallery, valid)
    split = rank_metrics(distance, query, np.where(gallery == 0, np.arange(360) + 100, gallery), valid)
    for name in ("rank", "average_precision", "inverse_negative_penalty", "matched"):
        np.testing.assert_array_equal(getattr(found, name), getattr(split, name))
    nobody = rank_metrics(distance, query + 1000, gallery, valid)
    assert not nobody.matched.any()
