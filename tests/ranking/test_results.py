import json
import subprocess

import numpy as np
import pytest

from saai_jax.ranking import results
from saai_jax.ranking.statistics import bootstrap_interval


def trial(rank1, **changes):
    values = dict(rank1=rank1, rank5=80.0, rank10=90.0, rank20=95.0, map=60.0, minp=40.0, queries=3803, gallery=301)
    per_query = {"query": np.array([0, 2]), "rank1": [True, False], "ap": [1.0, 0.25], "inp": [1.0, 0.125]}
    return {**values, "cmc": [rank1, 80.0, 100.0], "per_query": per_query, **changes}


def row(**changes):
    labels = dict(dataset="sysu", protocol="all", direction="infrared to visible", shots="single", inference="aim")
    arguments = {**labels, "parameters": {"k1": 4, "k2": 1}, "per_trial": [trial(70.0), trial(np.float32(71.0))]}
    arguments |= {"path": np.array(["a.jpg", "b.jpg", "c.jpg"]), "identity": np.array([7, 8, 9])}
    return results.row(**{**arguments, **changes})


def test_row_has_the_means_and_deviations_over_the_trials():
    line = row()
    assert line["rank1"] == 70.5
    assert line["std"]["rank1"] == 0.5
    assert line["std"]["map"] == 0.0
    assert (line["trials"], line["queries"], line["gallery"]) == (2, 3803, 301)
    assert isinstance(line["gallery"], int)
    assert line["per_trial"][1]["rank1"] == 71.0
    assert row(per_trial=[trial(1.0), trial(1.0, gallery=302)])["gallery"] == 301.5
    assert list(line) == [
        *("dataset", "protocol", "direction", "shots", "inference", "parameters", "trials", "queries", "gallery"),
        *("rank1", "rank5", "rank10", "rank20", "map", "minp", "std"),
        *("interval", "identity_interval", "cmc", "per_trial", "per_query"),
    ]


def test_row_has_the_curve_as_far_as_the_shortest_trial_goes():
    assert row(per_trial=[trial(70.0), trial(72.0, cmc=[72.0, 90.0])])["cmc"] == [71.0, 85.0]


def test_row_has_each_query_over_the_trials_in_which_it_has_a_match():
    other = {"query": np.array([2, 1]), "rank1": [True, True], "ap": [0.5, 1 / 3], "inp": np.float32([0.5, 0.1])}
    queries = row(per_trial=[trial(70.0), trial(70.0, per_query=other)])["per_query"]
    assert queries == {
        "query": ["a.jpg", "b.jpg", "c.jpg"],
        "identity": [7, 8, 9],
        "rank1": [1.0, 1.0, 0.5],
        "ap": [1.0, 0.333333, 0.375],
        "inp": [1.0, 0.1, 0.3125],
    }


def test_row_has_intervals_over_queries_and_over_identities():
    random = np.random.default_rng(0)
    ap = random.random(40).round(6)
    per_query = {"query": np.arange(40), "rank1": ap > 0.5, "ap": ap, "inp": ap / 2}
    identity = np.arange(40) // 8
    line = row(per_trial=[trial(70.0, per_query=per_query)], path=np.arange(40).astype(str), identity=identity)
    assert line["interval"]["map"] == pytest.approx(np.multiply(100, bootstrap_interval(ap)))
    assert line["identity_interval"]["map"] == pytest.approx(np.multiply(100, bootstrap_interval(ap, groups=identity)))
    assert line["interval"]["minp"] == pytest.approx(np.divide(line["interval"]["map"], 2))
    assert line["interval"]["rank1"][0] < 100 * (ap > 0.5).mean() < line["interval"]["rank1"][1]
    assert row(identity=[7, 7, 7])["identity_interval"] == {"rank1": None, "map": None, "minp": None}


@pytest.mark.parametrize(
    ("per_trial", "message"),
    [
        ([], "at least one trial"),
        ([trial(1.0), {"rank1": 1.0}], "trial 1 has no rank5"),
        ([trial(float("nan"))], "trial 0: rank1 is nan"),
        ([trial(1.0, map=101.0)], "map is 101.0"),
        ([trial(-1.0)], "rank1 is -1.0"),
    ],
)
def test_row_refuses_impossible_trials(per_trial, message):
    with pytest.raises(ValueError, match=message):
        row(per_trial=per_trial)


def test_write_and_read(tmp_path):
    class Config:
        def to_dict(self):
            return {"seed": np.int64(1), "size": (288, 144), "folder": tmp_path}

    file = tmp_path / "new" / "results.json"
    results.write(file, [row()], command="python launch.py", config=Config())
    document = results.read(file)
    assert document["rows"] == [row()]
    assert document["config"] == {"seed": 1, "size": [288, 144], "folder": str(tmp_path)}
    assert document["command"] == "python launch.py"
    assert set(document["versions"]) == {"python", "jax", "flax", "numpy", "saai_jax"}
    assert document["versions"]["numpy"] == np.__version__
    assert document["commit"] is None or len(document["commit"]) == 40
    assert [path.name for path in file.parent.iterdir()] == ["results.json"]
    assert ' "rows": [\n  {\n   "dataset": "sysu",\n' in file.read_text()
    assert '\n    "ap": [1.0, 0.25],\n' in file.read_text()  # on one line, however many


def test_write_keeps_empty_lists_and_odd_texts(tmp_path):
    config = {"a": [], "b": {}, "c": [{}, []], "d": 'quote " and\nline', "e": [[1, 2], [3]], "f": None}
    results.write(tmp_path / "r.json", [], command="", config=config)
    assert results.read(tmp_path / "r.json")["config"] == config
    with pytest.raises(ValueError, match="not JSON compliant"):
        results.write(tmp_path / "r.json", [], command="", config={"a": float("nan")})


@pytest.mark.parametrize("failure", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 10)])
def test_commit_is_null_without_git(tmp_path, monkeypatch, failure):
    def run(*_, **__):
        raise failure

    monkeypatch.setattr(subprocess, "run", run)
    results.write(tmp_path / "r.json", [], command=["launch.py"], config={})
    assert results.read(tmp_path / "r.json")["commit"] is None


def test_commit_of_a_repository_around_an_installed_package_is_not_ours(monkeypatch):
    answer = subprocess.CompletedProcess([], 0, stdout=f"/somewhere/else\n{'0' * 40}\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    assert results._commit() is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"rows": [', "not a readable JSON file"),
        ("[]", "no list of 'rows'"),
        ('{"rows": [3]}', "row 0 has no dataset"),
        (json.dumps({"rows": [row(), {**row(), "map": 1}, {"dataset": "a"}]}), "row 2 has no protocol"),
        *(
            (json.dumps({"rows": [row() | {key: value}]}), f"row 0: {key} is .*, which no row has")
            for key, value in (
                ("std", {}),
                ("protocol", None),
                ("map", "61.2"),
                ("trials", True),
                ("parameters", ["k1"]),
                ("per_trial", [1]),
                ("cmc", []),
                ("cmc", [None]),
                ("interval", {"map": [1]}),
                ("per_query", []),
            )
        ),
        (json.dumps({"rows": [row() | {"map": float("nan")}]}), "NaN is no number"),
        (json.dumps({"rows": [row()]}).replace("70.5", "1e999"), "1e999 is no number"),
        (json.dumps({"rows": [row() | {"protocol": "\ud800"}]}), "not a readable JSON file"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_read_names_the_fault(tmp_path, text, message):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(results.ResultsError, match=message) as error:
        results.read(tmp_path / "r.json")
    assert "r.json" in str(error.value)


def test_read_missing_file(tmp_path):
    with pytest.raises(results.ResultsError, match=r"none\.json"):
        results.read(tmp_path / "none.json")


def test_table():
    long = {"variant": "released", "remove": False} | dict.fromkeys(["paths", "neighbours", "kq", "kg"], 20)
    lines = [row(), row(parameters=long), row(inference="cosine", parameters={}, per_trial=[trial(100.0)])]
    assert results.table(lines).splitlines() == [
        "inference                                   rank-1  rank-10  rank-20    mAP   mINP",
        "------------------------------------------  ------  -------  -------  -----  -----",
        "all, infrared to visible, single shot, 2 trials of 3803 queries in 301 images",
        "  aim (k1=4, k2=1)                           70.50    90.00    95.00  60.00  40.00",
        "  aim (variant=released, remove=False,       70.50    90.00    95.00  60.00  40.00",
        "    paths=20, neighbours=20, kq=20, kg=20)",
        "all, infrared to visible, single shot, 1 trial of 3803 queries in 301 images",
        "  cosine                                    100.00    90.00    95.00  60.00  40.00",
    ]
    names = dict(
        protocol="sysu-official-indoor", direction="infrared-to-visible", parameters=long | lines[0]["parameters"]
    )
    assert max(map(len, results.table([row(**names)]).splitlines())) <= 100


def test_a_picture_in_several_folds_is_one_query():
    """The test halves of RegDB's folds have pictures in common, each in rows of its own."""
    per_query = [
        {"query": np.array([0, 1]), "rank1": [1, 0], "ap": [1.0, 0.2], "inp": [1.0, 0.2]},
        {"query": np.array([2, 3]), "rank1": [0, 1], "ap": [0.5, 0.8], "inp": [0.5, 0.8]},
    ]
    trials = [trial(50.0) | {"per_query": found} for found in per_query]
    line = row(per_trial=trials, path=np.array(["b", "a", "b", "c"]), identity=np.array([2, 1, 2, 3]))
    assert line["per_query"]["query"] == ["b", "a", "c"]
    assert line["per_query"]["identity"] == [2, 1, 3]
    assert line["per_query"]["ap"] == [0.75, 0.2, 0.8]
    assert line["per_query"]["rank1"] == [0.5, 0.0, 1.0]
