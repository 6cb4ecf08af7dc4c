"""Presets: every experiment file, the table of docs/paper_versus_code.md, and words that are not known."""

import importlib
import re
from pathlib import Path

import jax
import pytest

from configs import common
from modes.building import system_of
from saai_jax.models import cpu

FILES = ("sysu", "regdb", "llcm", "synthetic")


def config(name: str, argument: str | None = None):
    return importlib.import_module(f"configs.{name}").get_config(argument)


def leaves(c, prefix: str = "") -> dict:
    found = {}
    for key, value in c.items():
        found |= leaves(value, f"{prefix}{key}.") if hasattr(value, "items") else {prefix + key: value}
    return found


@pytest.mark.parametrize("name", FILES)
def test_every_file_gives_the_same_fields(name):
    assert leaves(config(name)).keys() == leaves(config("sysu")).keys() > leaves(common.fields(name)).keys()
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
    with pytest.raises(ValueError, match=r"unknown preset 'papers'; known are saai, .*paper.*Did you mean 'paper'"):
        config("regdb", "papers")
    with pytest.raises(ValueError, match="Did you mean 'baseline'"):
        config("sysu", "multishot,baselin")
    with pytest.raises(ValueError, match="unknown preset 'xyzzy'; known are saai"):
        config("synthetic", "tiny,xyzzy")


@pytest.mark.parametrize("name", FILES)
def test_the_baseline_of_table_3_is_one_word(name):
    """Stripes, a single neck, L_id alone; everything else is SAAI's, whatever other words there are."""
    saai, baseline = leaves(config(name, "saai")), leaves(config(name, "baseline"))
    changed = {key: baseline[key] for key in saai if saai[key] != baseline[key]}
    assert changed == {
        "model.pooling": "stripes",
        "model.parts": 6,
        "model.neck": "single",
        "loss.separation": 0.0,
        "loss.diversity": 0.0,
    }
    assert leaves(config(name, "baseline,paper"))["loss.diversity"] == 0.0
    assert leaves(config(name)) == saai


@pytest.mark.parametrize("words", ["released,paper", "saai,baseline"])
def test_words_that_exclude_each_other_are_refused(words):
    first, second = words.split(",")
    with pytest.raises(ValueError, match=f"'{first}' and '{second}' exclude each other"):
        config("sysu", words)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("words", ["", "paper", "baseline"])
def test_every_configuration_can_be_built(name, words):
    """Its fields are the keywords of the system's build."""
    c = config(name, words)
    system = system_of(c, 5)
    params, _ = jax.eval_shape(system.init, jax.random.key(0))
    assert params["shared_classifier"]["kernel"].shape[1] == 5
    assert system_of(c, 5) is system  # or every mode of a run would compile it anew
    c.system = "saia"
    with pytest.raises(ValueError, match="system is 'saia', expected one of saai"):
        system_of(c, 5)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_the_forms_of_convolutions_are_chosen_for_the_platform(monkeypatch, platform):
    used = []
    for name in ("convolution", "narrow_convolution"):
        form = getattr(cpu, name)
        monkeypatch.setattr(cpu, name, lambda *a, f=form, n=name, **k: used.append(n) or f(*a, **k))
    for c, expected in ((config("sysu"), "convolution"), (config("synthetic"), "narrow_convolution")):
        used.clear()
        c.data.height += 16  # no system that is built already
        jax.eval_shape(system_of(c, 5, platform).init, jax.random.key(0))
        assert used[:1] == ([expected] if platform == "cpu" else [])
