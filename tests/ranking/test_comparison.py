import numpy as np
import pytest

from saai_jax.ranking import results
from saai_jax.ranking.comparison import compare, comparison_table
from saai_jax.ranking.results import ResultsError
from saai_jax.ranking.statistics import bootstrap_interval, paired_test

IDENTITY = np.repeat(np.arange(12), 5)
LABELS = dict(dataset="sysu", protocol="sysu-official-all", direction="infrared-to-visible", shots="single")


def scores(seed, gain=0.0):
    random = np.random.default_rng(0)
    ap = random.random(60) * 0.8 + gain + 0.01 * np.random.default_rng(seed).random(60)
    return np.clip(ap, 0, 1)


def row(ap, inference="cosine", order=None, **changes):
    order = np.arange(60) if order is None else order
    per_query = {"query": order, "rank1": ap[order] > 0.5, "ap": ap[order], "inp": ap[order] / 2}
    percent = {f"rank{k}": 50.0 for k in (1, 5, 10, 20)} | {"map": 100 * ap.mean(), "minp": 50 * ap.mean()}
    trial = {**percent, "queries": 60, "gallery": 30, "cmc": [50.0], "per_query": per_query}
    path = [f"cam3/{i:04d}/0001.jpg" for i in range(60)]
    labels = {**LABELS, "parameters": {}, **changes}
    return results.row(**labels, inference=inference, per_trial=[trial], path=path, identity=IDENTITY)


def document(*rows):
    return {"rows": list(rows)}


def test_two_files_query_by_query_whatever_their_order():
    a, b = scores(1), scores(2, 0.02)
    shuffled = np.random.default_rng(0).permutation(60)
    (found,) = compare(document(row(a)), document(row(b, order=shuffled)))
    assert (found["first"], found["second"], found["queries"], found["identities"]) == ("cosine", "cosine", 60, 12)
    a, b = a.round(6), b.round(6)
    assert found["map"]["difference"] == pytest.approx(100 * (b - a).mean())
    assert found["minp"]["difference"] == pytest.approx(50 * (b - a).mean(), abs=1e-3)
    np.testing.assert_allclose(found["map"]["interval"], bootstrap_interval(100 * (b - a), groups=IDENTITY))
    assert found["map"]["p"] == paired_test(b, a, groups=IDENTITY)
    assert found["map"]["p"] < 0.01
    (back,) = compare(document(row(b)), document(row(a)))
    assert back["map"]["difference"] == pytest.approx(-found["map"]["difference"])
    (single,) = compare(document(row(a)), document(row(b)), by_identity=False)
    np.testing.assert_allclose(single["map"]["interval"], bootstrap_interval(100 * (b - a)))


def test_one_file_compares_with_cosine_in_each_setting():
    rows = [row(scores(2, 0.1), "aim"), row(scores(1)), row(scores(1), shots="multi"), row(scores(3), "sim")]
    found = compare(document(*rows, row(scores(1), "euclidean", shots="multi")))
    assert [(r["shots"], r["first"], r["second"]) for r in found] == [
        ("single", "cosine", "aim"),
        ("single", "cosine", "sim"),
        ("multi", "cosine", "euclidean"),
    ]
    assert found[0]["map"]["difference"] > 5
    assert found[2]["map"] == {"difference": 0.0, "interval": [0.0, 0.0], "p": 1.0}


def test_only_rows_of_one_setting_and_inference_are_paired():
    first = document(row(scores(1)), row(scores(1), "aim"), row(scores(1), shots="multi"))
    second = document(row(scores(2), "aim"), row(scores(2), "sim"), row(scores(2), "aim", shots="multi"))
    found = compare(first, second)
    # of multi-shot each has but one row
    assert [(r["shots"], r["first"], r["second"]) for r in found] == [
        ("single", "aim", "aim"),
        ("multi", "cosine", "aim"),
    ]


def test_the_table_says_what_could_be_chance():
    rows = [row(scores(1)), row(scores(1, 0.1), "aim", parameters={"k1": 4}), row(scores(4), "other")]
    lines = comparison_table(compare(document(*rows))).splitlines()
    assert len(lines) == 2 + 1 + 2 * 3
    assert max(map(len, lines)) <= 100
    aim, other = (next(x for x in lines if f"  {name}  " in x and "mAP" in x) for name in ("aim", "other"))
    assert "+10.0" in aim
    assert aim.endswith("hardly chance")
    assert other.endswith("could be chance")
    two = compare(
        document(row(scores(1), parameters={"k1": 4, "k2": 1})), document(row(scores(1), parameters={"k1": 9, "k2": 1}))
    )
    assert "cosine (k1=4)  cosine (k1=9)" in comparison_table(two)


def test_a_single_identity_has_no_interval():
    line = row(scores(1))
    line["per_query"]["identity"] = [3] * 60
    (found,) = compare(document(line), document(line))
    assert found["map"]["interval"] is None
    assert found["map"]["p"] == 1
    assert "  -  " in comparison_table([found])


def without(line, *keys):
    return {key: value for key, value in line.items() if key not in keys}


def changed(**columns):
    line = row(scores(2))
    return {**line, "per_query": {**line["per_query"], **columns}}


QUERIES = row(scores(1))["per_query"]["query"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (without(row(scores(2)), "per_query"), r"b.json: row 0 \(sysu .* single, cosine\): has no per_query"),
        (changed(ap=[0.5]), "of one length"),
        (changed(ap=["x"] * 60), "expected finite numbers"),
        (changed(ap=[float("nan")] * 60), "expected finite numbers"),
        (changed(query=QUERIES[:-1] + QUERIES[:1]), "stands there twice"),
        (changed(query=[*QUERIES[:-2], "x", "y"]), "b.json: row 0 .* lacks 2 queries .*a.json: row 0 .* lacks 2"),
        (changed(identity=[*range(60)]), "query 'cam3/0001/0001.jpg' is identity 1, not 0"),
        ({**row(scores(2)), "trials": 10}, "b.json: row 0 .*: trials 10, a.json: row 0 .*: 1"),
        ({**row(scores(2)), "gallery": 31}, "gallery 31"),
        (row(scores(2), protocol="sysu-random-all"), "no row of the one"),
    ],
)
def test_what_cannot_be_compared_is_refused(line, message):
    with pytest.raises(ResultsError, match=message):
        compare(document(row(scores(1))), document(line), files=("a.json", "b.json"))


def test_a_file_with_nothing_to_compare_is_refused():
    aim = row(scores(1), "aim")
    for rows, message in (
        ([row(scores(1))], "nothing beside cosine"),
        ([aim], "0 rows 'cosine' of sysu"),
        ([row(scores(1))] * 2, "2 rows 'cosine'"),
    ):
        with pytest.raises(ResultsError, match=message):
            compare(document(*rows))
    with pytest.raises(ResultsError, match="row 2 .* a second row of the setting of row 1, also 'aim'"):
        compare(document(row(scores(1)), aim, aim), document(aim))
