"""Presets: every experiment file, the table of docs/paper_versus_code.md, and words that are not known."""

import importlib
import re
from pathlib import Path

import pytest

from configs import common

FILES = ("sysu", "regdb", "llcm", "synthetic")


def config(name: str, argument: str | None = None):
    return importlib.import_module(f"configs.{name}").get_config(argument)


def leaves(c, prefix: str = "") -> dict:
    found = {}
    for key, value in c.items():
        found |= leaves(value, f"{prefix}{key}.") if hasattr(value, "items") else {prefix + key: value}
    return found


@pytest.mark.parametrize("name", FILES)
def test_every_file_gives_the_fields_of_common_and_no_others(name):
    assert leaves(config(name)).keys() == leaves(common.get_config()).keys()
    assert leaves(config(name, "released")) == leaves(config(name))


def test_sysu_is_the_released_recipe():
    c = config("sysu")
    assert (c.data.identities, c.data.images, c.train.epochs, c.model.mam) == (10, 8, 160, (3, 4))
    assert (c.aim.sysu_all_single, c.aim.sysu_all_multi) == ((4, 1), (20, 6))
    assert (c.aim.sysu_indoor_single, c.aim.sysu_indoor_multi) == ((2, 2), (20, 6))


def test_the_paper_preset_changes_exactly_the_fields_that_the_document_lists():
    released, paper = leaves(config("sysu")), leaves(config("sysu", "paper"))
    changed = {key for key in released if released[key] != paper[key]}
    document = (Path(__file__).parent.parent / "docs" / "paper_versus_code.md").read_text()
    rows = [line.rsplit("|", 2)[1] for line in document.splitlines() if line.startswith("| ") and "→" in line]
    listed = {re.search(r"`([a-z_.0-9]+)`", cell).group(1) for cell in rows if "`released` → `paper`" not in cell}
    assert changed == listed


def test_words_choose_what_is_reported():
    c = config("sysu", "multishot,indoor")
    assert (c.eval.shots, c.eval.search) == ("multi", "indoor")
    c = config("sysu", "singleshot,multishot")
    assert (c.eval.shots, c.eval.search) == ("single,multi", "all,indoor")


def test_validate_trains_on_fewer_identities_and_keeps_the_best():
    for name in FILES:
        c = config(name, "validate")
        assert c.data.validation
        assert c.eval.checkpoint == "best"


def test_an_unknown_word_is_refused_with_a_suggestion():
    with pytest.raises(ValueError, match=r"unknown preset 'papers'; known are released, paper.*Did you mean 'paper'"):
        config("regdb", "papers")
    with pytest.raises(ValueError, match="unknown preset 'xyzzy'; known are released"):
        config("synthetic", "tiny,xyzzy")
