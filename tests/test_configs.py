"""Presets: every experiment file, the table of docs/paper_versus_code.md, and words that are not known."""

import importlib
import inspect
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import common
from input_pipeline import sysu
from input_pipeline.index import Setting
from modes.building import TRAINED_FREE, aim_of, system_of
from saai_jax import affinity, augment, train
from saai_jax.losses.centres import centre_separation
from saai_jax.models import cpu
from saai_jax.models.attention import ModalityAttention
from saai_jax.systems import SYSTEMS

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


# Every field that changes a number of a published recipe: its value, what it is in another file or under another word,
# and where that comes from. Paper and supplement: SAAI, Section 4.1 and its equations. Release: the authors' code for
# SYSU-MM01. SIM, Zhong: the papers of these inferences. Row: of docs/paper_versus_code.md. Ours: nobody states it.
SHARED = {
    "model.dtype": ("float32", {}, "row 18"),
    "model.remat": (False, {}, "ours: memory alone"),
    "model.precision": ("default", {}, "row 18: the originals leave it to their library"),
    **{
        f"model.{name}": (value, {}, "ResNet-50: each paper or release")
        for name, value in (("stages", (3, 4, 6, 3)), ("width", 64), ("bottleneck", True), ("stem_pool", True))
    },
    "aim.variant": ("released", {}, "row 7"),
    "aim.remove": (True, {}, "Eq. 6"),
    "aim.expand": (True, {}, "Eq. 7"),
    "aim.sysu_all_single": ((4, 1), {}, "paper"),
    "aim.sysu_all_multi": ((20, 6), {}, "paper"),
    "aim.sysu_indoor_single": ((2, 2), {}, "row 8"),
    "aim.sysu_indoor_multi": ((20, 6), {}, "paper"),
    "aim.regdb": ((8, 2), {}, "paper"),
    **{f"aim.{name}": ((8, 2), {}, "ours") for name in ("llcm", "market1501", "dukemtmc", "custom", "own")},
    "sim.graph": (True, {}, "SIM, Eq. 5"),
    "sim.mutual": (True, {}, "SIM, Eq. 7"),
    "sim.scale": (0.01, {}, "SIM: lambda"),
    "sim.paths": (9, {}, "SIM: K"),
    "sim.neighbours": (9, {}, "ours"),
    "sim.kq": (20, {}, "ours"),
    "sim.kg": (20, {}, "ours"),
    "sim.alpha": (0.3, {}, "SIM"),
    "sim.own": (True, {}, "ours"),
    "sim.edges": ("nearest", {}, "ours"),
    "sim.expand": (False, {}, "ours"),
    "sim.normalise": (True, {}, "ours"),
    "k_reciprocal.k1": (20, {}, "Zhong"),
    "k_reciprocal.k2": (6, {}, "Zhong"),
    "k_reciprocal.weight": (0.3, {}, "Zhong"),
    "k_reciprocal.neighbours": ("all", {}, "Zhong"),
    "k_reciprocal.variant": ("released", {}, "Zhong's code"),
}
SAAI = {
    "data.identities": (10, {"regdb": 4, "paper": 16}, "row 1"),
    "data.images": (8, {}, "row 1"),
    "data.height": (288, {}, "paper"),
    "data.width": (144, {}, "paper"),
    "data.sampler": ("paired", {}, "release"),
    "data.resample": ("bilinear", {}, "release"),
    "model.mam": ((3, 4), {"regdb": (), "paper": ()}, "row 6"),
    "model.pooling": ("prototypes", {"baseline": "stripes"}, "paper; row 15"),
    "model.parts": (7, {"baseline": 6}, "paper; row 15"),
    "model.aggregate_position": (False, {"paper": True}, "row 2"),
    "model.neck": ("dual", {"baseline": "single"}, "paper; row 15"),
    "loss.separation": (1.0, {"baseline": 0.0}, "Eq. 11; row 15"),
    "loss.rho1": (0.01, {}, "paper"),
    "loss.rho2": (0.7, {}, "paper"),
    "loss.diversity": (0.25, {"paper": 0.5, "baseline": 0.0}, "rows 4 and 15"),
    "loss.diversity_variant": ("released", {"paper": "paper"}, "row 3"),
    "loss.mutual_variant": ("released", {"paper": "paper"}, "row 5"),
    "augment.pad": (10, {}, "row 11"),
    "augment.erasing": (0.5, {}, "release"),
    "augment.grayscale": ("channel", {"paper": "luminance"}, "row 10"),
    "train.epochs": (160, {}, "paper"),
    "train.learning_rate": (3.5e-4, {}, "paper"),
    "train.weight_decay": (5e-4, {}, "row 13"),
    "train.warmup": (10, {}, "row 12"),
    "train.milestones": ((80, 120), {}, "paper"),
    "train.decay": (0.1, {}, "paper: 0.1, then 0.01 of the rate"),
    "train.teacher_rate": (0.02, {"paper": 0.2}, "row 9"),
    "aim.variant": ("released", {"paper": "paper"}, "row 7"),
    "aim.sysu_indoor_single": ((2, 2), {"paper": (4, 1)}, "row 8"),
}
# Where the release of AGW, CAJ, MPANet or LbA says nothing of a data set, SYSU-MM01's numbers serve.
AGW_AND_LBA = {  # the same in both releases
    "data.identities": (8, {}, "release"),
    "data.images": (8, {}, "release"),
    "data.height": (288, {}, "release"),
    "data.width": (144, {}, "release"),
    "data.resample": ("lanczos", {}, "release"),
    "train.learning_rate": (0.1, {}, "release"),
    "train.weight_decay": (5e-4, {}, "release"),
    "train.backbone_factor": (0.1, {}, "release"),
    "train.warmup": (10, {}, "release"),
    "train.milestones": ((20, 50), {}, "release"),
    "train.decay": (0.1, {}, "release"),
}
AGW = {
    **AGW_AND_LBA,
    "data.sampler": ("replacement", {}, "release"),
    "model.non_local": ((0, 2, 3, 0), {"agw-base": ()}, "release: after layer2[2, 3] and layer3[3, 4, 5]"),
    "model.pooling": ("gem", {"agw-base": "mean"}, "release"),
    "model.mirror": (False, {"caj": True}, "release; CAJ's testa.py"),
    "loss.triplet": ("weighted", {"agw-base": "hard", "caj": "squared"}, "release"),
    "loss.triplet_variant": ("released", {"paper": "paper"}, "row 23"),
    "loss.finite": (True, {}, "ours: equal where the release is finite"),
    "loss.margin": (0.3, {}, "release: of base"),
    "augment.pad": (10, {}, "release"),
    "augment.views": (1, {"caj": 2}, "CAJ's release"),
    "augment.erasing": (0.0, {"caj": 0.5}, "CAJ's release"),
    "train.epochs": (81, {"caj": 100}, "release"),
}
MPANET = {
    "data.identities": (16, {"regdb": 12}, "release"),
    "data.images": (8, {"regdb": 10}, "release"),
    "data.height": (384, {"regdb": 256}, "release"),
    "data.width": (128, {}, "release"),
    "data.sampler": ("paired", {}, "release: SAAI's"),
    "data.resample": ("bilinear", {}, "release"),
    "model.mam": ((3, 4), {}, "release"),
    "model.patterns": (6, {}, "release"),
    "loss.separation": (0.5, {}, "release"),
    "loss.centre": (1.0, {}, "release"),
    "loss.margin": (0.7, {}, "release"),
    "loss.mutual": (2.5, {}, "release"),
    "augment.pad": (10, {}, "release"),
    "augment.erasing": (0.5, {}, "release"),
    "train.epochs": (140, {}, "release"),
    "train.learning_rate": (3.5e-4, {}, "release"),
    "train.weight_decay": (5e-4, {}, "release"),
    "train.warmup": (0, {}, "release"),
    "train.milestones": ((80, 120), {"regdb": (110,)}, "release"),
    "train.decay": (0.1, {}, "release"),
    "train.teacher_rate": (0.2, {}, "release"),
}
LBA = {
    **AGW_AND_LBA,
    "data.sampler": ("replacement", {}, "release: AGW's"),
    "model.stem_of_modality": (True, {}, "release"),
    "model.head": ("gem", {}, "release"),
    "loss.triplet": (True, {}, "release"),
    "loss.margin": (0.3, {}, "release"),
    "loss.consistency": (1.0, {"lba-baseline": 0.0}, "release"),
    "loss.dense": (0.5, {"lba-baseline": 0.0}, "release"),
    "loss.dense_margin": (0.3, {}, "release"),
    "loss.cross_batch": (False, {}, "row 51"),
    "train.epochs": (81, {}, "release"),
}
SIM_BASELINE = {  # Ours: the paper does not say.
    "data.identities": (8, {}, "ours"),
    "data.images": (8, {}, "ours"),
    "data.height": (256, {}, "SIM, Section 4.1"),
    "data.width": (128, {}, "SIM, Section 4.1"),
    "data.sampler": ("paired", {}, "ours"),
    "data.resample": ("bilinear", {}, "ours"),
    "model.pooling": ("mean", {}, "ours"),
    "loss.margin": (0.3, {}, "ours"),
    "augment.erasing": (0.5, {}, "ours"),
    "train.epochs": (200, {}, "SIM, Section 4.1"),
    "train.learning_rate": (3.5e-4, {}, "SIM, Section 4.1"),
    "train.weight_decay": (5e-4, {}, "ours"),
    "train.warmup": (0, {}, "ours"),
    "train.milestones": ((), {}, "ours"),
    "train.decay": (1.0, {}, "ours"),
}
# Supplement: WRIM-Net's. Listing: a third party's of its modules. Ours: what the configuration calls unconfirmed.
WRIMNET = {
    "data.identities": (8, {"sysu": 4}, "supplement, B"),
    "data.images": (16, {"sysu": 32}, "supplement, B: 8 and 16 of each modality"),
    "data.height": (384, {"regdb": 256}, "supplement, B"),
    "data.width": (144, {}, "supplement, B"),
    "data.sampler": ("replacement", {}, "ours"),
    "data.resample": ("bilinear", {}, "ours"),
    "model.stem_ceil": (True, {}, "listing"),
    "model.stem_of_modality": (False, {}, "ours"),
    "model.miim": ((1, 2, 3, 4), {}, "supplement, Table S1"),
    "model.separate": ((1, 2), {}, "supplement, Table S1"),
    "model.kernels": ((4, 2, 1, 1), {}, "listing"),
    "model.reductions": ((2, 2, 4, 4), {}, "listing"),
    "model.attention_heads": (8, {}, "listing"),
    "model.keys": ("pooled", {}, "paper, as third parties summarise it"),
    "model.region": (2, {}, "ours"),
    "model.norm": ("compressed", {}, "ours"),
    "model.fusion": ("multiply-sigmoid", {}, "supplement, Table S3"),
    "model.stripes": (2, {"regdb": 6}, "supplement, B: N of RegDB; listing; LLCM: ours"),
    "model.auxiliary": (True, {}, "supplement, Table S4"),
    "model.auxiliary_stripes": (0, {"regdb": 2}, "supplement, B: M of RegDB; listing; LLCM: ours"),
    "model.feature": ("main", {}, "ours"),
    "loss.lambda1": (0.5, {}, "supplement, B; of what: ours"),
    "loss.lambda2": (0.1, {}, "supplement, B; of what: ours"),
    "loss.margin": (0.3, {}, "supplement, B"),
    "loss.triplet_levels": (("main", "auxiliary"), {}, "supplement, Eq. 3; main: ours"),
    "loss.temperature": (0.07, {}, "supplement, B"),
    "loss.hardest": (4, {}, "ours"),
    "loss.against": ("both", {}, "ours"),
    "loss.reduction": ("sum", {}, "supplement, Eq. 1"),
    "loss.contrastive_levels": (("main", "auxiliary"), {}, "listing: every head has a projection"),
    "augment.scale": ((0.8, 1.0), {}, "ours"),
    "augment.aspect": ((0.9, 1.1), {}, "ours"),
    "augment.grey": (0.3, {}, "ours"),
    "augment.erasing": (0.5, {}, "ours"),
    "train.epochs": (140, {}, "supplement, B"),
    "train.learning_rate": (3.5e-4, {}, "supplement, B"),
    "train.weight_decay": (5e-4, {}, "supplement, B"),
    "train.warmup": (0, {}, "ours: none is stated"),
    "train.milestones": ((80, 120), {}, "supplement, B"),
    "train.decay": (0.1, {}, "supplement, B"),
}
TABLES = {"saai": SAAI, "agw": AGW, "mpanet": MPANET, "lba": LBA, "sim-baseline": SIM_BASELINE, "wrimnet": WRIMNET}
RECIPES = {name: {**SHARED, **own} for name, own in TABLES.items()}
RECIPE = RECIPES["saai"]
# What changes no number: of these sections, only these fields are not in the table.
FREE = {"model.identities", "model.weights", "train.log_every", "train.save_every", "train.validate_every"}


@pytest.mark.parametrize(
    "words",
    [
        *("released", "paper", "baseline", "agw", "agw,paper", "agw-base", "caj", "caj,paper"),
        *("mpanet", "lba", "lba-baseline", "sim-baseline", "wrimnet"),
    ],
)
@pytest.mark.parametrize("name", ["sysu", "regdb", "llcm"])
def test_every_number_of_a_published_recipe_is_its_sources(name, words):
    found, of = leaves(config(name, words)), [*words.split(","), name]
    recipe = RECIPES[found["system"]].items()
    expected = {key: next((other[w] for w in of if w in other), value) for key, (value, other, _) in recipe}
    assert {key: found[key] for key in expected} == expected
    sections = ("model.", "loss.", "augment.", "train.", "aim.", "sim.", "k_reciprocal.")
    assert {key for key in found if key.startswith(sections)} - FREE <= expected.keys()


@pytest.mark.parametrize(
    ("function", "system", "section"),
    [
        *((build, name, "model. loss. augment. train.") for name, build in SYSTEMS.items()),
        (centre_separation, "saai", "loss."),
        (affinity.aim, "saai", "aim."),
        (affinity.sim, "saai", "sim."),
        (affinity.k_reciprocal, "saai", "k_reciprocal."),
    ],
    ids=lambda value: getattr(value, "__module__", value),
)
def test_defaults_of_functions_are_the_recipe(function, system, section):
    """Of SYSU-MM01, but for modality attention, which a network has where it is asked for."""
    table, sections = RECIPES[system], tuple(section.split())
    recipe = {key.split(".")[1]: value for key, (value, *_) in table.items() if key.startswith(sections)}
    defaults = {name: p.default for name, p in inspect.signature(function).parameters.items() if name in recipe}
    defaults = {name: value for name, value in defaults.items() if value is not inspect.Parameter.empty}
    assert len(defaults) > 1
    assert defaults == {name: recipe[name] for name in defaults} | ({"mam": ()} if "mam" in defaults else {})


def test_what_no_source_of_wrimnet_says_is_called_unconfirmed_where_it_is_met():
    """Every field whose source is ours, in its line of the configuration and in the document's table."""
    root = Path(__file__).parent.parent
    lines = (root / "configs" / "wrimnet.py").read_text().splitlines()
    document = (root / "docs" / "paper_versus_code.md").read_text().split("## WRIM-Net")[1]
    ours = [key for key, (*_, source) in WRIMNET.items() if "ours" in source]
    assert len(ours) > 15
    for key in ours:
        assert f"`{key}`" in document, key
        short = {"data": "c.data", "model": "m", "loss": "s", "augment": "a", "train": "t"}[key.split(".")[0]]
        named = [line for line in lines if f"{short}.{key.split('.')[1]}" in line]
        assert not named or any("unconfirmed" in line or "is stated" in line for line in named), key


def test_numbers_that_no_field_has():
    """Of the release: random erasing's sizes and shapes, the attention block's width."""
    erase = inspect.signature(augment.erase).parameters
    assert [erase[name].default for name in ("probability", "area", "aspect")] == [0.5, (0.02, 0.33), (0.3, 3.3)]
    of_batch = inspect.signature(augment.augment).parameters
    assert [of_batch[name].default for name in ("pad", "erasing", "kind")] == [10, 0.5, "channel"]
    assert ModalityAttention.reduction == 16


# By rows of first and last epoch, the rate of the heads at each: `settings` of the originals' figures, copied.
AGW_RATES = [*((e, e, 0.01 * (e + 1)) for e in range(9)), (9, 19, 0.1), (20, 49, 0.01)]
RATES = {
    "agw": [*AGW_RATES, (50, 80, 0.001)],
    "agw-base": [*AGW_RATES, (50, 80, 0.001)],
    "caj": [*AGW_RATES, (50, 99, 0.001)],
    "lba": [*AGW_RATES, (50, 80, 0.001)],
    "mpanet": [(0, 79, 3.5e-4), (80, 119, 3.5e-5), (120, 139, 3.5e-6)],
    "wrimnet": [(0, 79, 3.5e-4), (80, 119, 3.5e-5), (120, 139, 3.5e-6)],
    "regdb:mpanet": [(0, 109, 3.5e-4), (110, 139, 3.5e-5)],
}


@pytest.mark.parametrize(("words", "rows"), RATES.items())
def test_rates_of_all_epochs_are_those_of_the_release(words, rows):
    dataset, word = words.split(":") if ":" in words else ("sysu", words)
    t = config(dataset, word).train
    how = {"base": t.learning_rate, "warmup": t.warmup, "milestones": t.milestones, "decay": t.decay}
    found = train.learning_rate(np.arange(t.epochs), **how)
    np.testing.assert_allclose(found, np.concatenate([[rate] * (last - first + 1) for first, last, rate in rows]))


@pytest.mark.parametrize("words", ["agw", "agw-base", "caj", "lba"])
def test_neck_and_classifier_have_ten_times_the_rate_of_the_others(words):
    """The first step of Nesterov's momentum moves by 1.9 gradients, and the decay is in every group's gradient."""
    c = config("synthetic", f"tiny,{words}")
    c.train.backbone_factor = config("sysu", words).train.backbone_factor
    system = system_of(c, 5)
    params, _ = jax.eval_shape(system.init, jax.random.key(0))
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), params)
    moved, _ = system.optimiser.update(ones, system.optimiser.init(ones), ones)
    found = {name: {float(leaf.ravel()[0]) for leaf in jax.tree.leaves(tree)} for name, tree in moved.items()}
    assert found.keys() == {"backbone", "neck", "classifier"}
    for name, values in found.items():
        np.testing.assert_allclose(list(values), (0.1 if name == "backbone" else 1) * 1.9 * (1 + 5e-4), rtol=1e-6)


@pytest.mark.parametrize(("word", "title"), [("saai", "# SAAI"), ("agw", "## AGW")])
def test_the_paper_preset_changes_exactly_the_fields_that_the_document_lists(word, title):
    released, paper = leaves(config("sysu", word)), leaves(config("sysu", f"{word},paper"))
    changed = {key for key in released if released[key] != paper[key]}
    document = (Path(__file__).parent.parent / "docs" / "paper_versus_code.md").read_text()
    document = re.split(r"\n(?=## )", document)
    (section,) = [part for part in document if part.startswith(title)]
    rows = [line.rsplit("|", 2)[1] for line in section.splitlines() if line.startswith("| ") and "→" in line]
    listed = {re.search(r"`([a-z_.0-9]+)`", cell).group(1) for cell in rows if "`released` → `paper`" not in cell}
    assert changed == listed


def test_words_choose_what_is_reported():
    c = config("sysu", "multishot,indoor")
    assert (c.eval.shots, c.eval.search) == ("multi", "indoor")
    c = config("sysu", "singleshot,multishot")
    assert (c.eval.shots, c.eval.search) == ("single,multi", "all,indoor")


@pytest.mark.parametrize(
    ("shots", "place", "expected"),
    [
        ("single", "all", (4, 1)),
        ("multi", "all", (20, 6)),
        ("single", "indoor", (2, 2)),
        ("multi", "indoor", (20, 6)),
    ],
)
@pytest.mark.parametrize("word", ["agw", "lba"])
def test_agw_and_lba_are_ranked_by_both_galleries_with_the_k_of_each_setting(word, shots, place, expected):
    c = config("sysu", word)
    assert c.eval.protocol == "sysu-random,sysu-official"
    for protocol in ("sysu-random", "sysu-official"):
        setting = Setting("sysu", f"{protocol}-{place}", "infrared-to-visible", shots, [], sysu.valid, True)
        assert aim_of(c, setting) == expected
    others = [("regdb", word), ("llcm", word), ("synthetic", f"regdb,{word}"), ("synthetic", f"{word},llcm")]
    assert [config(*other).eval.protocol for other in others] == [""] * 4


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


def test_a_system_without_a_paper_of_its_own_has_no_such_word():
    with pytest.raises(ValueError, match="the system 'mpanet' has no variant 'paper'"):
        config("sysu", "mpanet,paper")


@pytest.mark.parametrize(
    "words", ["agw", "agw-base", "caj", "mpanet", "lba", "lba-baseline", "sim-baseline", "wrimnet"]
)
def test_the_synthetic_set_keeps_its_epochs_for_every_system(words):
    c, saai = config("synthetic", f"tiny,{words}"), config("synthetic", "tiny")
    assert (c.train.epochs, c.model.stages, c.data.identities) == (2, saai.model.stages, saai.data.identities)


@pytest.mark.parametrize("words", ["released,paper", "saai,baseline", "agw,caj"])
def test_words_that_exclude_each_other_are_refused(words):
    first, second = words.split(",")
    with pytest.raises(ValueError, match=f"'{first}' and '{second}' exclude each other"):
        config("sysu", words)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "words",
    [
        *("", "paper", "baseline", "agw", "agw,paper", "agw-base", "caj"),
        *("mpanet", "lba", "lba-baseline", "sim-baseline", "wrimnet"),
    ],
)
def test_every_configuration_can_be_built(name, words):
    """Its fields are the keywords of the system's build."""
    c = config(name, words)
    system = system_of(c, 5)
    params, _ = jax.eval_shape(system.init, jax.random.key(0))
    classifier = "classifier" if c.system in ("agw", "lba", "sim-baseline", "wrimnet") else "shared_classifier"
    assert params[classifier]["kernel"].shape[1] == 5
    assert system_of(c, 5) is system  # or every mode of a run would compile it anew
    kept = ConfigDict(json.loads(c.to_json()))  # with lists, as a run's config.json has them
    assert isinstance(kept.model.stages, list)
    assert system_of(kept, 5) is system
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


def test_what_only_training_reads_may_differ_when_a_run_is_evaluated():
    read = leaves(config("sysu"))
    assert {key for key in read if key.startswith("data.") and key.startswith(tuple(TRAINED_FREE))} == {
        *(f"data.{name}" for name in ("root", "split_dir", "packed", "resized", "threads", "workers", "verify")),
        *(f"data.{name}" for name in ("query_list", "gallery_list", "rule")),
        *(f"data.{name}" for name in ("identities", "images", "published", "skip_incomplete", "sampler")),
    }
