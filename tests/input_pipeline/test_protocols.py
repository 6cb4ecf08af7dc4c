"""Protocols by name, the AGW family's random galleries, and counts."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from input_pipeline import protocols, sysu, sysu_random
from input_pipeline.index import DataError, Index, Setting, Trial
from input_pipeline.source import Source
from saai_jax import affinity, metrics
from tests.golden_files import load
from tests.input_pipeline.test_llcm import write_llcm
from tests.input_pipeline.test_regdb import write_regdb
from tests.input_pipeline.test_sysu import SMALL, write_sysu

LATER = {"synthetic": "", "synthetic_seed": 0, "validation": False, "skip_incomplete": False, "packed": ""}
LATER |= {"height": 4, "width": 2, "threads": 1, "workers": 0}


def source(dataset, root="", published=False, **lists):
    return Source(dataset, str(root), split_dir="", published=published, fold=1, **LATER, **lists)


def test_names_are_those_of_the_data_set():
    assert protocols.named("llcm", "") == ("llcm-A", "llcm-B")
    assert protocols.named("sysu", "sysu-random, sysu-official") == ("sysu-random", "sysu-official")
    assert protocols.named("market1501", "custom") == ("custom",)
    with pytest.raises(ValueError, match="'sysu-randm' is unknown; of sysu there are sysu-official, sysu-random, cus"):
        protocols.named("sysu", "sysu-official,sysu-randm")
    with pytest.raises(ValueError, match="'llcm-A' is one of llcm; of regdb there are regdb, regdb-ten-folds, custom"):
        protocols.named("regdb", "llcm-A")
    with pytest.raises(ValueError, match="regdb named more than once"):
        protocols.named("regdb", "regdb,regdb")
    with pytest.raises(ValueError, match="'' is unknown"):
        protocols.named("regdb", "regdb,")


def test_a_source_gives_the_named_settings(tmp_path):
    names = {
        "sysu": "sysu-random,sysu-official",
        "regdb": "regdb",
        "llcm": "llcm-A,llcm-C,llcm-D",
    }
    writers = {"sysu": lambda root: write_sysu(root, SMALL), "regdb": write_regdb, "llcm": write_llcm}
    found = {}
    for dataset, words in names.items():
        (tmp_path / dataset).mkdir()
        writers[dataset](tmp_path / dataset)
        data = source(dataset, tmp_path / dataset)
        index = data.read("test")
        found[dataset] = data.settings(index, "all,indoor", "single,multi", words)
        default = data.settings(index, "all,indoor", "single,multi")
        assert {s.protocol for s in default} <= {
            "sysu-official-all",
            "sysu-official-indoor",
            "regdb",
            "llcm-A",
            "llcm-B",
        }
    assert [(s.protocol, s.shots) for s in found["sysu"]] == [
        ("sysu-random-all", "single"),
        ("sysu-random-indoor", "single"),
        *((f"sysu-official-{place}", shots) for place in ("all", "indoor") for shots in ("single", "multi")),
    ]
    assert [s.protocol for s in found["regdb"]] == ["regdb"] * 2
    assert [s.protocol for s in found["llcm"]] == ["llcm-A", "llcm-C", "llcm-D", "llcm-D"]


def test_search_and_shots_choose_and_must_leave_something(tmp_path, caplog):
    write_sysu(tmp_path, SMALL)
    data = source("sysu", tmp_path)
    index = data.read("test")
    both = data.settings(index, "indoor", "single", "sysu-official,sysu-random")
    assert [(s.protocol, s.shots) for s in both] == [
        ("sysu-official-indoor", "single"),
        ("sysu-random-indoor", "single"),
    ]
    with pytest.raises(ValueError, match="nothing is left of sysu-random, whose shots are single"):
        data.settings(index, "all", "multi", "sysu-random")
    caplog.clear()
    left = data.settings(index, "all", "multi", "sysu-random,sysu-official")
    assert [(s.protocol, s.shots) for s in left] == [("sysu-official-all", "multi")]
    assert "nothing is left of sysu-random, whose shots are single" in caplog.text
    with pytest.raises(ValueError, match="expected words of 'all,indoor'"):
        data.settings(index, "outdoor", "single")


def test_lists_rank_any_data_set_and_files_without_one(tmp_path):
    write_regdb(tmp_path)
    (tmp_path / "query.txt").write_text("Visible/3/v_0.bmp")
    (tmp_path / "gallery.txt").write_text("Thermal/3/t_0.bmp\nThermal/11/t_3.bmp")
    lists = {"query_list": str(tmp_path / "query.txt"), "gallery_list": str(tmp_path / "gallery.txt")}
    index = source("regdb", tmp_path).read("test")
    (a,) = source("regdb", tmp_path, **lists).settings(index, "", "", "custom")
    (b,) = source("custom", **lists, rule="none").settings(index, "", "")
    assert (a.dataset, a.protocol, b.dataset, b.protocol) == ("regdb", "custom-same-camera", "custom", "custom-none")
    np.testing.assert_array_equal(a.trials[0].gallery, b.trials[0].gallery)
    with pytest.raises(DataError, match="'custom' has no images of its own"):
        source("custom").read("test")
    with pytest.raises(DataError, match="expected one of sysu, regdb, llcm, market1501, dukemtmc, custom"):
        source("market")


def test_market_is_read_from_its_folder(tmp_path):
    for path in ("query/0001_c1s1_000001_00.jpg", "bounding_box_test/0001_c2s1_000001_00.jpg"):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).touch()
    for dataset in ("market1501", "dukemtmc"):
        data = source(dataset, tmp_path)
        (setting,) = data.settings(data.read("test"), "", "")
        assert (setting.dataset, setting.protocol) == (dataset, dataset)


def test_draw_is_that_of_pythons_own_generator():
    cells = {(2, 1): [5, 6, 7], (1, 4): [8], (1, 2): [1, 2, 3, 4]}
    for seed, rows in enumerate(protocols.draw(cells, 10)):
        random.seed(seed)
        assert rows.tolist() == [random.choice(cells[cell]) for cell in ((1, 2), (1, 4), (2, 1))]


def golden_index(golden):
    camera = golden["camera"].astype(int)
    rows = zip(camera, golden["identity"], golden["number"], strict=True)
    path = np.array([f"cam{c}/{i:04d}/{n:04d}.jpg" for c, i, n in rows])
    return Index(path, golden["identity"], camera, np.isin(camera, sysu.INFRARED_CAMERAS))


def test_random_galleries_and_their_figures_are_those_of_the_original():
    golden, expected = load("sysu"), load("sysu_random")
    index = golden_index(golden)
    data = source("sysu", published=True)
    for setting in data.settings(index, "all,indoor", "single,multi", "sysu-random"):
        place = setting.protocol.split("-")[-1]
        for t, (query, gallery) in enumerate(setting.trials):
            np.testing.assert_array_equal(gallery, expected[f"{place}/rows"][t])
            distance = affinity.cosine(golden["embedding"][query], golden["embedding"][gallery])
            valid = setting.valid(
                index.identity[query], index.camera[query], index.identity[gallery], index.camera[gallery]
            )
            result = metrics.rank_metrics(distance, index.identity[query], index.identity[gallery], valid)
            curve = metrics.cmc(result.identity_rank, 20)
            np.testing.assert_allclose(curve, expected[f"{place}/cmc"][t], atol=1e-4)
            means = [x[result.matched].mean() for x in (result.average_precision, result.inverse_negative_penalty)]
            np.testing.assert_allclose(means, expected[f"{place}/map_minp"][t], atol=1e-4)


def test_random_galleries_do_not_depend_on_the_order_of_rows_and_miss_no_image():
    index = golden_index(load("sysu"))
    shuffled = index.take(np.random.default_rng(0).permutation(len(index)))
    for one, other in zip(sysu_random.settings(index), sysu_random.settings(shuffled), strict=True):
        assert index.path[one.trials[9].gallery].tolist() == shuffled.path[other.trials[9].gallery].tolist()
    visible = np.flatnonzero((index.identity == index.identity.max()) & (index.camera == 5))
    with pytest.raises(DataError, match="cam5: 1,917 images of the test identities, the published data set has 1,918"):
        sysu_random.settings(index.take(np.delete(np.arange(len(index)), visible[-1])))
    with pytest.raises(DataError, match="are not numbered 1 to"):
        sysu_random.settings(index.take(np.delete(np.arange(len(index)), visible[0])), published=False)
    with pytest.raises(DataError, match="no infrared images"):
        sysu_random.settings(index.take(index.modality == 0), published=False)
    with pytest.raises(DataError, match="expected to be infrared"):
        sysu_random.settings(Index(index.path, index.identity, index.camera, 1 - index.modality))


people = st.lists(st.tuples(st.integers(-1, 3), st.integers(1, 4)), min_size=1, max_size=12)


@examples(deadline=None, max_examples=60)
@given(people, people, st.sampled_from([protocols.nothing_skipped, protocols.same_camera_skipped, sysu.valid]))
def test_counts_are_those_of_a_loop(query, gallery, valid):
    rows = [*query, *gallery]
    index = Index(
        np.arange(len(rows)).astype(str), [i for i, _ in rows], [c for _, c in rows], np.zeros(len(rows), int)
    )
    trial = Trial(np.arange(len(query)), np.arange(len(query), len(rows)))
    matched = 0
    for i, c in query:
        kept = [valid(*(np.array([x]) for x in (i, c, j, d)))[0, 0] for j, d in gallery]
        matched += any(j == i and keep for (j, _), keep in zip(gallery, kept, strict=True))
    found = protocols.counts(index, trial, valid)
    assert found == {"queries": len(query), "gallery images": len(gallery), "queries with a match": matched}


def test_a_wrong_count_names_the_trial():
    index = Index(np.arange(4).astype(str), [1, 2, 1, 2], [1, 1, 2, 2], [1, 1, 0, 0])
    trials = [Trial(np.array([0, 1]), np.array([2, 3])), Trial(np.array([0, 1]), np.array([2]))]
    setting = Setting("x", "x-y", "infrared-to-visible", "single", trials, protocols.nothing_skipped, False)
    with pytest.raises(DataError) as error:
        protocols.refuse_other_counts(index, setting, protocols.counts(index, trials[0], setting.valid))
    assert str(error.value).splitlines() == [
        "x-y, infrared-to-visible, shots single, trial 1: 1 gallery images, the published data set has 2",
        "x-y, infrared-to-visible, shots single, trial 1: 1 queries with a match, the published data set has 2",
    ]
