"""Galleries to search: equal to AIM by matrices whatever is asked in which order, kept, changed, spread or saved."""

import warnings

import jax
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from saai_jax.affinity import Gallery, Nearest, agreement, aim, gallery_mesh
from saai_jax.affinity.topk import top_k
from tests.affinity.test_affinity import GOLDEN, slow_aim, slow_unit

SEEDS = st.integers(0, 2**31)
KS = st.sampled_from([(1, 1), (2, 3), (6, 4), (60, 60)])  # few: every one is compiled
quick = settings(deadline=None, max_examples=15)
both = pytest.mark.parametrize("variant", ["released", "paper"])


def people(seed, queries=9, images=60, length=16, people=8):
    """Features of few people, so that lists of neighbours overlap as those of real galleries do."""
    random = np.random.default_rng(seed)
    centre = 0.3 + random.standard_normal((people, length))
    draw = lambda n: centre[random.integers(0, people, n)] + 0.7 * random.standard_normal((n, length))  # noqa: E731
    return draw(queries).astype(np.float32), draw(images).astype(np.float32)


def quietly(call, *args, **how):
    """Without the warnings about galleries smaller than k1 and k2."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*args, **how)


def same(found, expected, atol=3e-6):
    np.testing.assert_allclose(found, expected, atol=atol, rtol=1e-6)


def same_lists(found, expected, images):
    """The same neighbours of every image; those whose affinities are equal to rounding may have changed places."""
    same(found.value, expected.value, 1e-6)
    rows = images / np.linalg.norm(images, axis=1, keepdims=True)
    same(np.take_along_axis(rows @ rows.T, found.index, 1), found.value, 1e-6)
    assert all(len(set(row)) == len(row) for row in found.index.tolist())


def distinct(query, images, k1, k2):
    """Whether float32 can tell the affinities that Eq. 6 and 7 select from the next: else a distance may jump."""
    affinity = -np.sort(-slow_unit(np.concatenate([images, query])) @ slow_unit(images).T)
    return all((affinity[:, k - 1] - affinity[:, k] > 1e-6).all() for k in (k1, k2) if k < len(images))


@both
@quick
@given(SEEDS, KS)
def test_distances_are_the_loop_and_the_search_sorts_them(variant, seed, ks):
    query, images = people(seed, images=30)
    k1, k2 = (min(k, 30) for k in ks)
    assume(distinct(query, images, k1, k2))
    gallery = Gallery.build(images, k1=k1, k2=k2, variant=variant)
    found = gallery.distances(query)
    same(found, slow_aim(query, images, k1, k2, variant), 1e-5)
    result = gallery.search(query, 7)
    order = np.argsort(found, axis=1, kind="stable")[:, :7]
    np.testing.assert_array_equal(result.index, order)
    np.testing.assert_array_equal(result.distance, np.take_along_axis(found, order, 1))


@pytest.mark.parametrize(("k1", "k2"), [(4, 1), (20, 6)])
def test_search_is_the_released_distance(k1, k2):
    released = GOLDEN[f"aim1/released_k{k1}_{k2}"]
    found = Gallery.build(GOLDEN["aim1/gallery"], k1=k1, k2=k2).search(GOLDEN["aim1/query"], 50)
    same(found.distance, np.sort(released, axis=1)[:, :50], 2e-6)
    same(np.take_along_axis(released, found.index, 1), found.distance, 2e-6)


@both
@pytest.mark.parametrize("copies", [2, 9])
def test_duplicates_tie_and_all_are_kept(variant, copies):
    """More images tie with the k1-th affinity than lists are long; axes make every affinity exact."""
    axes = np.concatenate([np.eye(5)] * copies + [-np.eye(5)[:2], np.zeros((2, 5)), 2 * np.eye(5)[:1]])
    axes = axes.astype(np.float32)
    query = np.concatenate([axes[:5], np.ones((1, 5), np.float32), np.zeros((1, 5), np.float32)])
    for k1, k2 in ((1, 1), (3, 3)):
        gallery = Gallery.build(axes, k1=k1, k2=k2, variant=variant)
        expected = slow_aim(query, axes, k1, k2, variant)
        same(gallery.distances(query), expected, 1e-6)
        found = gallery.search(query, 4)
        same(found.distance, np.sort(expected, axis=1)[:, :4], 1e-6)
        same(gallery.add(axes[:3]).distances(query), slow_aim(query, np.concatenate([axes, axes[:3]]), k1, k2, variant))
        rows = np.arange(len(axes))[::-2]
        same(gallery.subset(rows).distances(query), slow_aim(query, axes[rows], k1, k2, variant))


@quick
@given(SEEDS, st.lists(st.integers(1, 40), min_size=1, max_size=5))
@example(0, [1, 20, 40, 40])  # a tie with the k1-th: its tile is run again with longer lists
def test_results_do_not_depend_on_how_queries_are_batched(seed, sizes):
    query, images = people(seed, queries=sum(sizes))
    gallery = Gallery.build(images, k1=5, k2=3)
    together = gallery.search(query, 10)
    parts = np.split(query, np.cumsum(sizes)[:-1])
    apart = [gallery.search(part, 10) for part in parts]
    np.testing.assert_array_equal(together.index, np.concatenate([x.index for x in apart]))
    np.testing.assert_array_equal(together.distance, np.concatenate([x.distance for x in apart]))


@both
@quick
@given(SEEDS, KS, st.sampled_from([1, 5, 31]))
@example(1611168694, (60, 60), 31)  # two of its affinities are equal but for rounding
@example(1712438641, (60, 60), 31)
def test_adding_equals_building_together(variant, seed, ks, first):
    query, images = people(seed)
    how = {"k1": ks[0], "k2": ks[1], "variant": variant}
    part = quietly(Gallery.build, images[:first], **how)
    grown, whole = part.add(images[first:]), quietly(Gallery.build, images, **how)
    same_lists(grown.lists, whole.lists, images)
    same(grown.distances(query), whole.distances(query), 1e-6)
    assert len(part) == first
    same(part.distances(query), quietly(aim, query, images[:first], **how))


@both
@quick
@given(SEEDS, KS, st.sampled_from([1, 7, 28]), st.sampled_from([0, 30]))
def test_a_subset_equals_its_own_gallery(variant, seed, ks, size, spare):
    query, images = people(seed)
    rows = np.random.default_rng(seed).permutation(len(images))[:size]
    assume(distinct(query, images[rows], *ks))
    how = {"k1": ks[0], "k2": ks[1], "variant": variant}
    found = quietly(Gallery.build, images, **how, spare=spare).subset(rows)
    np.testing.assert_array_equal(found.embedding, quietly(Gallery.build, images[rows], **how).embedding)
    same(found.distances(query), quietly(aim, query, images[rows], **how))


@quick
@given(SEEDS, st.sampled_from([1, 7, 30]))
def test_removing_equals_never_having_had(seed, size):
    query, images = people(seed)
    rows = np.random.default_rng(seed).permutation(len(images))[:size]
    assume(distinct(query, np.delete(images, rows, axis=0), 6, 3))
    left = Gallery.build(images, k1=6, k2=3).remove(np.append(rows, rows[0]))
    same(left.distances(query), aim(query, np.delete(images, rows, axis=0), k1=6, k2=3))


def test_a_gallery_lives_through_many_changes():
    random = np.random.default_rng(0)
    query, images = people(0, images=200)
    gallery, kept = Gallery.build(images[:50], k1=8, k2=4), list(range(50))
    for start in range(50, 200, 50):
        gallery, kept = gallery.add(images[start : start + 50]), [*kept, *range(start, start + 50)]
        gone = random.choice(len(kept), 10, replace=False)
        gallery, kept = gallery.remove(gone), np.delete(kept, gone).tolist()
        same(gallery.distances(query), aim(query, images[kept], k1=8, k2=4))


def test_long_galleries_and_many_tiles(monkeypatch):
    """Small tiles and the block-wise selection of long rows give what whole matrices give."""
    monkeypatch.setattr("saai_jax.affinity.gallery.TILE_BYTES", 1)
    monkeypatch.setattr("saai_jax.affinity.topk.LONG", 64)
    query, images = people(1, queries=70, images=700)
    gallery = Gallery.build(images, k1=3, k2=2)
    expected = np.asarray(aim(query, images, k1=3, k2=2, method="dense"))
    same(gallery.distances(query), expected)
    np.testing.assert_array_equal(gallery.search(query, 2).index, np.argsort(expected, axis=1, kind="stable")[:, :2])


@quick
@given(SEEDS, st.sampled_from([1, 2, 9, 40]), st.integers(2, 6))
def test_selection_of_long_rows_is_exact(seed, k, values):
    """Few different values, so that most comparisons are ties."""
    x = np.random.default_rng(seed).integers(0, values, (3, 9001)).astype(np.float32)
    value, index = top_k(x, k)
    order = np.argsort(-x, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(index, order)
    np.testing.assert_array_equal(value, np.take_along_axis(x, order, 1))


def test_fast_agrees_with_itself_and_scores_in_float32():
    query, images = people(2, queries=40, images=400)
    exact, fast = (Gallery.build(images, k1=10, k2=4, precision=p) for p in ("highest", "fast"))
    a, b = exact.search(query, 20), fast.search(query, 20)
    found = agreement(a, b)
    assert min(found.values()) > 0.95
    agree = b.index == a.index
    assert agree.mean() == pytest.approx(found["places"])
    same(b.distance[agree], a.distance[agree], 1e-5)


def test_agreement_counts():
    lists = lambda *rows: Nearest(np.array(rows), np.zeros((len(rows), 3), np.float32))  # noqa: E731
    found = agreement(lists([1, 2, 3], [4, 5, 6]), lists([1, 3, 2], [7, 5, 8]))
    assert found == pytest.approx({"first": 1 / 2, "places": 2 / 6, "lists": 4 / 6})
    with pytest.raises(ValueError, match=r"results are \(1, 3\) and \(2, 3\), expected the same"):
        agreement(lists([1, 2, 3]), lists([1, 2, 3], [4, 5, 6]))


@pytest.mark.parametrize("devices", [2, 8])
@both
def test_several_devices_give_the_same(variant, devices):
    query, images = people(3, queries=33, images=203)
    how = {"k1": 7, "k2": 3, "variant": variant}
    one = Gallery.build(images, **how)
    mesh = gallery_mesh(jax.devices()[:devices])
    spread = Gallery.build(images, **how, mesh=mesh)
    np.testing.assert_array_equal(spread.lists.index, one.lists.index)
    same(spread.distances(query), one.distances(query), 1e-6)
    a, b = one.search(query, 20), spread.search(query, 20)
    np.testing.assert_array_equal(a.index, b.index)
    same(a.distance, b.distance, 1e-6)
    rows = np.arange(0, 203, 3)
    changed = [gallery.subset(rows).add(images[1:3]).distances(query) for gallery in (one, spread)]
    same(changed[1], changed[0], 1e-6)
    # Fewer images than devices, and ties among the devices' images.
    few = Gallery.build(images[:3], k1=2, k2=1, mesh=mesh)
    same(few.distances(query), aim(query, images[:3], k1=2, k2=1), 1e-5)  # small affinities, scaled to length 1
    ties = Gallery.build(np.concatenate([images[:1]] * 20 + [images[1:9]]), k1=2, k2=1, mesh=mesh)
    np.testing.assert_array_equal(ties.search(images[:1], 5).index, [[0, 1, 2, 3, 4]])


def test_smallest_galleries_and_no_queries():
    query, images = people(4)
    one = quietly(Gallery.build, images[:1], k1=20, k2=6)
    same(one.distances(query), quietly(aim, query, images[:1], k1=20, k2=6))
    assert one.search(query[:0], 1).index.shape == (0, 1)
    assert one.distances(query[:0]).shape == (0, 1)
    with pytest.warns(UserWarning, match="top=3 is lowered to the gallery's 1 images"):
        assert one.search(query, 3).index.shape == (9, 1)
    same(one.add(images[1:]).distances(query), Gallery.build(images, k1=20, k2=6).distances(query))


def test_errors():
    query, images = people(5)
    gallery = Gallery.build(images, k1=4, k2=2)
    broken = images.copy()
    broken[17, 3] = np.nan
    with pytest.raises(ValueError, match="gallery row 17 is not finite"):
        Gallery.build(broken, k1=4, k2=2)
    with pytest.raises(ValueError, match="gallery row 17 is not finite"):
        gallery.add(broken)
    with pytest.raises(ValueError, match=r"query is f32\[9, 15\], expected \[n, 16\]"):
        gallery.search(query[:, :15], 3)
    with pytest.raises(ValueError, match="the gallery is empty"):
        Gallery.build(images[:0], k1=4, k2=2)
    with pytest.raises(ValueError, match="the gallery is empty"):
        gallery.remove(np.arange(60))
    with pytest.raises(ValueError, match="row 60 is not in the gallery of 60 images"):
        gallery.remove([3, 60])
    with pytest.raises(ValueError, match="row -1 is not in the gallery"):
        gallery.subset([-1])
    with pytest.raises(ValueError, match="repeated"):
        gallery.subset([3, 3])
    with pytest.raises(ValueError, match="expected a list of integers"):
        gallery.subset([0.5])
    with pytest.raises(ValueError, match="top is 0, expected a positive integer"):
        gallery.search(query, 0)
    with pytest.raises(ValueError, match="k2 is 1.5, expected a positive integer"):
        Gallery.build(images, k1=4, k2=1.5)
    with pytest.raises(ValueError, match="variant is 'printed', expected 'released' or 'paper'"):
        Gallery.build(images, k1=4, k2=2, variant="printed")
    with pytest.raises(ValueError, match="precision is 'low', expected 'highest' or 'fast'"):
        Gallery.build(images, k1=4, k2=2, precision="low")
