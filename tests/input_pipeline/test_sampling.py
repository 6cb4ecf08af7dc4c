"""The sampling plan by what every batch and every epoch must hold, for drawn labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline.index import INFRARED, VISIBLE, DataError, Index
from input_pipeline.sampling import (
    SAMPLERS,
    camera_plan,
    images_needed,
    incomplete_identities,
    plan_of,
    replacement_plan,
    rows_by_modality,
    sampling_plan,
    unusable,
)

quick = settings(deadline=None, max_examples=30)
SEEDS = st.integers(0, 2**31)
COUNTS = st.lists(st.tuples(st.integers(2, 9), st.integers(2, 9)), min_size=3, max_size=7)


def labels(counts, seed=0):
    """identity, modality of (visible, infrared) images each, rows shuffled; identities are 3, 10, 17, ..."""
    pairs = [(3 + 7 * i, m) for i, two in enumerate(counts) for m, n in enumerate(two) for _ in range(n)]
    return np.random.default_rng(seed).permutation(np.array(pairs, np.int32)).T


def epochs_of(plan):
    return [plan.rows[plan.epoch == e] for e in range(plan.epoch[-1] + 1)]


@quick
@given(COUNTS, SEEDS, st.integers(1, 3), st.sampled_from([2, 4]))
def test_every_batch_and_every_epoch(counts, seed, p, k):
    identity, modality = labels(counts, seed)
    plan = sampling_plan(identity, modality, identities=p, images=k, epochs=3, seed=seed)
    assert plan.rows.shape == (len(plan.epoch), p * k)
    assert plan.rows.dtype == plan.epoch.dtype == np.int32
    for row in plan.rows:
        groups = identity[row].reshape(p, k)
        np.testing.assert_array_equal(groups, np.repeat(groups[:, :1], k, 1))
        assert len(set(groups[:, 0])) == p
        np.testing.assert_array_equal(modality[row], [INFRARED, VISIBLE] * (p * k // 2))
    assert sorted(set(plan.epoch.tolist())) == [0, 1, 2]
    assert (np.diff(plan.epoch) >= 0).all()
    np.testing.assert_array_equal(plan.steps_per_epoch, [len(rows) for rows in epochs_of(plan)])
    chunks = {3 + 7 * i: min(two) // (k // 2) for i, two in enumerate(counts)}
    for rows in epochs_of(plan):
        assert len(np.unique(rows)) == rows.size  # no image twice
        used = {i: (identity[rows] == i).sum() // k for i in chunks}
        assert all(used[i] <= chunks[i] for i in chunks)
        assert sum(used[i] < chunks[i] for i in chunks) < p  # too few are left for one more batch


@quick
@given(COUNTS, SEEDS)
def test_one_identity_a_batch_uses_every_pair(counts, seed):
    identity, modality = labels(counts, seed)
    plan = sampling_plan(identity, modality, identities=1, images=4, epochs=2, seed=seed)
    for rows in epochs_of(plan):
        for i, two in enumerate(counts):
            assert (identity[rows][:, 0] == 3 + 7 * i).sum() == min(two) // 2


def slow_replacement(identity, modality, p, each):
    """AGW's released sampling read aloud: the identities, the rows that may stand for each, how many batches."""
    people = sorted(set(identity.tolist()))
    may = {
        (i, m): [r for r in range(len(identity)) if (identity[r], modality[r]) == (i, m)]
        for i in people
        for m in (0, 1)
    }
    batches = 0
    while batches * p * each <= max((modality == 0).sum(), (modality == 1).sum()):
        batches += 1
    return people, may, batches


@quick
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=3, max_size=7), SEEDS, st.integers(1, 3))
def test_batches_with_replacement(counts, seed, p):
    """All visible rows, then all infrared ones of the same identities in the same order; each in a row."""
    (identity, modality), each = labels(counts, seed), 3
    people, may, batches = slow_replacement(identity, modality, p, each)
    plan = replacement_plan(identity, modality, identities=p, images=2 * each, epochs=3, seed=seed)
    assert plan.rows.shape == (3 * batches, 2 * p * each)
    assert plan.rows.dtype == plan.epoch.dtype == np.int32
    np.testing.assert_array_equal(plan.epoch, np.repeat([0, 1, 2], batches))
    for row in plan.rows:
        chosen = identity[row[: p * each : each]].tolist()
        assert len(set(chosen)) == p
        assert set(chosen) <= set(people)
        wanted = [(i, m) for m in (VISIBLE, INFRARED) for i in chosen for _ in range(each)]
        assert all(r in may[cell] for r, cell in zip(row.tolist(), wanted, strict=True))


def test_replacement_counts_batches_as_the_release():
    """22,258 visible images of SYSU-MM01 in batches of 32 + 32; and one batch more where nothing is left over."""
    rows = {22_258: 696, 2060: 65, 64: 3, 63: 2}
    for visible, batches in rows.items():
        identity = np.concatenate([np.arange(visible), np.arange(visible // 2)]) % 16
        modality = np.repeat([0, 1], [visible, visible // 2])
        for kinds in (modality, 1 - modality):  # whichever is richer
            plan = replacement_plan(identity, kinds, identities=8, images=8, epochs=2, seed=0)
            assert plan.steps_per_epoch.tolist() == [batches] * 2, visible


def test_replacement_draws_identities_and_images_evenly():
    identity, modality = labels([(6, 1), (2, 3), (4, 5)])
    plan = replacement_plan(identity, modality, identities=2, images=4, epochs=1500, seed=0)
    times, batches = np.bincount(plan.rows.ravel(), minlength=len(identity)), len(plan.rows)
    for i, kinds in rows_by_modality(identity, modality).items():
        share = 2 / 3  # of the batches have this identity
        assert abs((identity[plan.rows[:, ::2]] == i).any(1).mean() - share) < 5 * np.sqrt(share / 3 / batches)
        for rows in kinds.values():
            expected = batches * share * 2 / len(rows)
            assert (abs(times[rows] - expected) < 5 * np.sqrt(2 * expected)).all()
    twice = (plan.rows[:, ::2] == plan.rows[:, 1::2])[:, :2]  # two draws of a visible image
    of = {3: 1 / 6, 10: 1 / 2, 17: 1 / 4}
    for i, chance in of.items():
        found = twice[identity[plan.rows[:, :4:2]] == i]
        assert abs(found.mean() - chance) < 5 * np.sqrt(chance / len(found))


def test_samplers_and_the_images_that_each_needs():
    assert [images_needed(name, 8) for name in SAMPLERS] == [4, 1, 1]
    with pytest.raises(ValueError, match="data.sampler is 'pared', expected one of paired, replacement, cameras"):
        images_needed("pared", 8)


def seen(cameras, seed=0):
    """identity, camera of so many images under each camera of each identity, rows shuffled; camera 7 c + 2 + i."""
    pairs = [(3 + 7 * i, 7 * c + 2 + i) for i, of in enumerate(cameras) for c, n in enumerate(of) for _ in range(n)]
    return np.random.default_rng(seed).permutation(np.array(pairs, np.int32)).T


@quick
@given(st.lists(st.lists(st.integers(1, 5), min_size=2, max_size=4), min_size=3, max_size=6), SEEDS, st.integers(1, 3))
def test_batches_of_two_cameras(cameras, seed, p):
    """One camera's rows of all identities, then another's of the same identities in the same order."""
    (identity, camera), each = seen(cameras, seed), 2
    plan = camera_plan(identity, camera, identities=p, images=2 * each, epochs=3, seed=seed)
    batches = 1  # what fills N images, and one
    while batches * 2 * p * each <= len(identity):
        batches += 1
    assert plan.rows.shape == (3 * batches, 2 * p * each)
    assert plan.rows.dtype == plan.epoch.dtype == np.int32
    np.testing.assert_array_equal(plan.epoch, np.repeat([0, 1, 2], batches))
    for rows in plan.rows:
        people, under = identity[rows].reshape(2, p, each), camera[rows].reshape(2, p, each)
        assert (people == people[0, :, :1]).all()
        assert len(set(people[0, :, 0].tolist())) == p
        assert (under == under[:, :, :1]).all()
        assert (under[0] != under[1]).all()


def test_two_cameras_and_their_images_are_drawn_evenly():
    identity, camera = seen([(1, 4, 2), (3, 1), (2, 2)])
    plan = camera_plan(identity, camera, identities=2, images=4, epochs=800, seed=0)
    people, under = identity[plan.rows[:, ::2]], camera[plan.rows[:, ::2]]
    for i, number in ((3, 3), (10, 2), (17, 2)):
        step, place = np.nonzero(people[:, :2] == i)
        assert abs(len(step) / len(plan.rows) - 2 / 3) < 5 * np.sqrt(2 / 9 / len(plan.rows))
        drawn = np.unique(np.stack([under[step, place], under[step, place + 2]]), axis=1, return_counts=True)[1]
        chance = 1 / (number * (number - 1))  # of every two cameras, in either order
        assert len(drawn) == 1 / chance
        assert (abs(drawn / len(step) - chance) < 5 * np.sqrt(chance / len(step))).all()
    times = np.bincount(plan.rows.ravel(), minlength=len(identity))
    for c, images in ((2, 1), (9, 4), (16, 2)):  # of identity 3
        rows = np.flatnonzero((identity == 3) & (camera == c))
        expected = len(plan.rows) * 2 / 3 * 4 / 3 / images
        assert (abs(times[rows] - expected) < 5 * np.sqrt(2 * expected)).all()


def test_an_identity_of_one_camera_is_refused_or_left_out():
    identity, camera = seen([(2, 3), (9,), (1, 1), (4,)])
    with pytest.raises(DataError, match="2 training identities are seen by one camera only: 10, 24; .*skip_incomplete"):
        camera_plan(identity, camera, identities=1, images=4, epochs=1, seed=0)
    index = Index(np.arange(len(identity)).astype(str), identity, camera, np.zeros(len(identity)))
    assert unusable(index, "cameras", 8) == [10, 24]
    assert unusable(index, "replacement", 8) == [3, 10, 17, 24]
    kept = index.take(~np.isin(identity, [10, 24]))
    found = plan_of(kept, "cameras", identities=2, images=4, epochs=1, seed=0)
    wanted = camera_plan(kept.identity, kept.camera, identities=2, images=4, epochs=1, seed=0)
    np.testing.assert_array_equal(found.rows, wanted.rows)
    with pytest.raises(DataError, match="2 training identities have no visible or no infrared images: 3, 17"):
        plan_of(kept, "replacement", identities=2, images=4, epochs=1, seed=0)


EVERY = pytest.mark.parametrize("sampler", SAMPLERS.values())


@EVERY
@quick
@given(counts=COUNTS, seed=SEEDS, epochs=st.integers(1, 4))
def test_a_longer_run_begins_with_the_shorter(sampler, counts, seed, epochs):
    identity, modality = labels(counts, seed)
    long, short = (sampler(identity, modality, identities=2, images=2, epochs=n, seed=seed) for n in (5, epochs))
    np.testing.assert_array_equal(long.rows[: len(short.rows)], short.rows)
    np.testing.assert_array_equal(long.epoch[: len(short.rows)], short.epoch)
    assert (long.epoch[len(short.rows) :] >= epochs).all()


@EVERY
def test_an_epoch_depends_on_seed_and_number_alone(sampler):
    identity, modality = labels([(9, 8), (7, 9), (8, 8), (9, 9)])

    def run(seed):
        return epochs_of(sampler(identity, modality, identities=2, images=4, epochs=2, seed=seed))

    np.random.seed(1)  # noqa: NPY002  the global generator is neither read
    one, two = run(5), run(6)
    assert np.random.random() == np.random.RandomState(1).random()  # noqa: NPY002  nor moved
    for a, b in zip(one, run(5), strict=True):
        np.testing.assert_array_equal(a, b)
    n = min(map(len, (*one, *two)))
    drawn = {epoch[:n].tobytes() for epoch in (*one, *two)}
    assert len(drawn) == 4  # neither epochs nor seeds repeat one another, seed 6 does not begin with epoch 1 of seed 5


def test_every_image_of_the_richer_modality_is_drawn_as_often():
    identity, modality = labels([(12, 4), (4, 12)])
    plan = sampling_plan(identity, modality, identities=2, images=8, epochs=300, seed=0)
    assert len(plan.rows) == 300  # one chunk of 4 + 4 each
    times = np.bincount(plan.rows.ravel(), minlength=len(identity))
    rows = rows_by_modality(identity, modality)
    np.testing.assert_array_equal(times[[*rows[3][INFRARED], *rows[10][VISIBLE]]], 300)
    rich = times[[*rows[3][VISIBLE], *rows[10][INFRARED]]]
    assert abs(rich - 100).max() < 5 * np.sqrt(300 * (1 / 3) * (2 / 3))
    assert 0.3 < (identity[plan.rows[:, 0]] == 3).mean() < 0.7  # either identity comes first
    assert len(np.unique(plan.rows[:, 0])) == 4 + 12  # as any of its images


def test_rows_by_modality_and_incomplete_identities():
    identity, modality = np.array([4, 2, 4, 4, 2, 9]), np.array([1, 0, 0, 1, 1, 0])
    rows = rows_by_modality(identity, modality)
    found = {i: {m: r.tolist() for m, r in by.items()} for i, by in rows.items()}
    assert found == {2: {0: [1], 1: [4]}, 4: {0: [2], 1: [0, 3]}, 9: {0: [5], 1: []}}
    assert list(rows) == [2, 4, 9]
    assert incomplete_identities(identity, modality, 1) == [9]
    assert incomplete_identities(identity, modality, 2) == [2, 4, 9]


def test_errors():
    identity, modality = labels([(4, 4), (4, 3), (2, 4), (4, 0)])
    few = r"3 training identities have fewer than 4 visible or 4 infrared images: 10, 17, 24; .*skip_incomplete=True"
    with pytest.raises(DataError, match=few):
        sampling_plan(identity, modality, identities=1, images=8, epochs=1, seed=0)
    with pytest.raises(DataError, match=r"25 training identities .*: 3, 10, .*, 136 \.\.\.;"):
        sampling_plan(*labels([(2, 1)] * 25), identities=1, images=4, epochs=1, seed=0)
    with pytest.raises(DataError, match=r"a batch needs 3 identities, the training set has 2; .*data\.identities"):
        sampling_plan(*labels([(4, 4)] * 2), identities=3, images=4, epochs=1, seed=0)
    with pytest.raises(
        DataError, match=r"1 training identities have no visible or no infrared images: 24; .*incomplete"
    ):
        replacement_plan(identity, modality, identities=1, images=8, epochs=1, seed=0)
    whole = labels([(4, 4)] * 3)
    for sampler in SAMPLERS.values():
        for images in (7, 0, -2):
            with pytest.raises(ValueError, match=f"{images} images of an identity in a batch; expected an even number"):
                sampler(*whole, identities=1, images=images, epochs=1, seed=0)
        with pytest.raises(DataError, match="a batch needs 4 identities, the training set has 3"):
            sampler(*whole, identities=4, images=2, epochs=1, seed=0)
        with pytest.raises(ValueError, match="0 identities in a batch; expected at least one"):
            sampler(*whole, identities=0, images=2, epochs=1, seed=0)
        with pytest.raises(ValueError, match="0 epochs; expected at least one"):
            sampler(*whole, identities=1, images=2, epochs=0, seed=0)
