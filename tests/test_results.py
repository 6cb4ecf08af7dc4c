import json
import subprocess

import numpy as np
import pytest

from saai_jax import results


def trial(rank1, **changes):
    values = dict(rank1=rank1, rank5=80.0, rank10=90.0, rank20=95.0, map=60.0, minp=40.0, queries=3803, gallery=301)
    return {**values, **changes}


def row(**changes):
    labels = dict(dataset="sysu", protocol="all", direction="infrared to visible", shots="single", inference="aim")
    arguments = {**labels, "parameters": {"k1": 4, "k2": 1}, "per_trial": [trial(70.0), trial(np.float32(71.0))]}
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
        *("rank1", "rank5", "rank10", "rank20", "map", "minp", "std", "per_trial"),
    ]


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
        (json.dumps({"rows": [row(), {**row(), "map": 1} | {"std": {}}, {"dataset": "a"}]}), "row 2 has no protocol"),
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
    lines = [row(), row(inference="cosine", parameters={}, per_trial=[trial(100.0)])]
    assert results.table(lines).splitlines() == [
        "protocol  direction            shots   inference         trials  queries  gallery  rank-1  rank-10  rank-20"
        "    mAP   mINP",
        "--------  -------------------  ------  ----------------  ------  -------  -------  ------  -------  -------"
        "  -----  -----",
        "all       infrared to visible  single  aim (k1=4, k2=1)       2     3803      301   70.50    90.00    95.00"
        "  60.00  40.00",
        "all       infrared to visible  single  cosine                 1     3803      301  100.00    90.00    95.00"
        "  60.00  40.00",
    ]
