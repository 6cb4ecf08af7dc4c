"""The table of docs/systems.md: what is measured is filled in, what is not stays."""

import json

import pytest

from benchmarks import systems
from configs import common
from saai_jax.ranking import results
from tests.ranking.test_ablation import document


def cells(page):
    rows = [line.strip("|").split("|") for line in page.split(systems.START)[1].splitlines() if line.startswith("|")]
    return {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in rows[2:]}


def test_the_page_has_a_row_of_every_word():
    page = systems.PAGE.read_text()
    assert list(cells(page)) == list(common.SYSTEMS)
    assert all(page.count(f"| `{word}`") + page.count(f", `{word}`") >= 2 for word in common.SYSTEMS)


def test_results_fill_their_cells_and_the_others_stay(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(systems, "PAGE", tmp_path / "systems.md")
    monkeypatch.setattr(common, "SYSTEMS", {word: common.SYSTEMS[word] for word in ("agw", "mpanet")})
    monkeypatch.setattr(systems, "parameters", {"agw": "5", "mpanet": "6"}.get)
    old = "| word | parameters | SIM |\n|---|---|---|\n| `agw` | 1 | 2 |\n| `gone` | 1 | 2 |\n"
    systems.PAGE.write_text(f"before\n{systems.START}{old}{systems.END}after\n")
    for seed, value in enumerate((10, 12)):
        file = tmp_path / "work" / "agw" / f"seed{seed}" / "results.json"
        file.parent.mkdir(parents=True)
        written = results.read(document(file, value))
        for row in written["rows"]:
            row |= {"protocol": "sysu-official-all", "direction": "infrared-to-visible"}
        file.write_text(json.dumps(written))
    systems.main([str(tmp_path / "work")])
    page = systems.PAGE.read_text()
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    none = ["not measured"] * 6
    means = ["2", "11.0 ± 1.4 / 11.0 ± 1.4", "21.0 ± 1.4 / 21.0 ± 1.4", "2"]
    assert cells(page) == {"agw": ["5", *means, *none[:2]], "mpanet": ["6", *none]}
    assert capsys.readouterr().out in page
    systems.main([])
    assert systems.PAGE.read_text() == page
    systems.PAGE.write_text("no table")
    with pytest.raises(ValueError, match=r"systems\.md: expected <!-- measured --> and"):
        systems.main([])


def test_parameters_are_counted():
    assert systems.parameters("agw") == "24,357,263"
