"""What modes build from a configuration: the run that is kept in a workdir, the original's weights, or why not."""

import json
from collections import Counter

import jax
import numpy as np
import pytest

from configs import regdb, synthetic
from modes import building
from saai_jax.checkpoint import CheckpointError, write_config
from saai_jax.systems import MARKS, SYSTEMS
from saai_jax.weights.names import to_torch
from saai_jax.weights.pth import WeightsError
from tests.input_pipeline.test_regdb import write_regdb
from tests.pth_files import write_state

LOST = object()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        *(("identities", value, "holds model.identities ") for value in (LOST, "8", 8.0, -8, True)),
        *(("weights", value, "and model.weights ") for value in (LOST, None, 8)),
        (None, LOST, "cannot be read: .*No such file"),
    ],
)
def test_a_runs_damaged_or_lost_configuration_is_named_and_what_to_type(tmp_path, field, value, message):
    config = synthetic.get_config("tiny")
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    kept = json.loads(config.to_json())
    kept["model"] |= {"identities": 8, field: value}
    if value is LOST:
        kept["model"].pop(field)
    if field:
        write_config(tmp_path / "config.json", kept)
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{message}.*--mode=train --accept_changes writes it"):
        building.trained(config, tmp_path)


def test_an_identity_needs_the_images_that_its_sampler_draws(tmp_path):
    """Two of each modality fill no batch of 4 + 4 without replacement, and any with it."""
    write_regdb(tmp_path, {1: {"train": (1, 10), "test": (3, 11)}}, images=2)
    c = regdb.get_config("agw")
    c.data.root, c.data.published, c.data.skip_incomplete = str(tmp_path), False, True
    assert len(building.splits_of(c)["train"]) == 8
    c.data.sampler = "paired"
    assert len(building.splits_of(c)["train"]) == 0
    c.data.sampler = "pared"
    with pytest.raises(ValueError, match="data.sampler is 'pared', expected one of paired, replacement"):
        building.splits_of(c)


def equations(jaxpr):
    """Every equation of a program, those of its inner programs too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from equations(getattr(inner, "jaxpr", inner))


def products(function, *arguments) -> Counter:
    """How many convolutions and products a program has of each precision."""
    found = equations(jax.make_jaxpr(function)(*arguments).jaxpr)
    names = "conv_general_dilated", "dot_general"
    precisions = [e.params["precision"] for e in found if e.primitive.name in names]
    return Counter(p[0].name if isinstance(p, tuple) else str(p) for p in precisions)


@pytest.mark.parametrize(("training", "evaluation"), [("default", "highest"), ("highest", "default"), ("high", "high")])
def test_precision_reaches_every_product_of_the_step_and_of_the_features(training, evaluation):
    """But for those that ask for one of their own: the statistics of the neck and the distances between centres."""
    config = synthetic.get_config("tiny")
    config.model.precision, config.eval.precision = training, evaluation
    system = building.system_of(config, 4, "gpu")
    params, collections = jax.eval_shape(system.init, jax.random.key(0))
    image, rows = np.zeros((8, 48, 24, 3), np.float32), np.arange(8, dtype=np.int32) // 4
    batch = {"image": image, "identity": rows, "modality": np.tile(np.int32([0, 1]), 4), "camera": rows}
    step = jax.value_and_grad(system.loss, has_aux=True)
    found = products(step, params, collections, batch, jax.random.key(0), np.int32(0))
    assert found.keys() <= {training.upper(), "HIGHEST"}
    assert found[training.upper()] >= 3 * 12  # the network's convolutions, their gradients
    seen = products(system.embed, {"params": params, **collections}, image, rows)
    assert seen.keys() == {evaluation.upper()}


@pytest.mark.parametrize("field", ["model", "eval"])
def test_an_unknown_precision_is_refused(field):
    config = synthetic.get_config("tiny")
    config[field].precision = "float32"
    with pytest.raises(ValueError, match=f"{field}.precision is 'float32', expected one of default, high, highest"):
        building.system_of(config, 4)


def released(words, identities=5):
    """A checkpoint of a small original by torch's names, with all that a release has beside what is used."""
    system = building.system_of(synthetic.get_config(words), identities)
    params, collections = jax.eval_shape(system.init, jax.random.key(0))
    empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), {"params": params, **collections})
    random = np.random.default_rng(0)
    state = {n: np.abs(random.standard_normal(a.shape)).astype(np.float32) for n, a in to_torch(system, empty).items()}
    state |= {name: np.zeros_like(state[name.replace("bias", "weight")]) for name in system.names.zeros}
    if any(name.startswith("base_resnet.") for name in state):
        visible, base = "visible_module.visible.", "base_resnet.base."
        layers = {name.removeprefix(base): array for name, array in state.items() if name.startswith(base)}
        stem = {name.removeprefix(visible): array for name, array in state.items() if name.startswith(visible)}
        for part, unused in ((visible, layers), ("thermal_module.thermal.", layers), (base, stem)):
            state |= {part + name: array for name, array in unused.items()}
    return state


def as_agw(state):
    """As AGW and CAJ save: the state under net, and numbers beside it."""
    return {"net": state, "epoch": 80, "mAP": 0.5}


WRAPS = {"tiny": dict, "tiny,mpanet": dict} | dict.fromkeys(
    ("tiny,agw", "tiny,agw-base", "tiny,caj", "tiny,lba", "tiny,lba-baseline"), as_agw
)
WRAPS |= {"tiny,wrimnet": dict}  # of our own names, nothing was released


@pytest.mark.parametrize("words", WRAPS)
def test_a_released_checkpoint_is_evaluated_without_a_run(tmp_path, words, caplog):
    state, config = released(words), synthetic.get_config(words)
    config.model.weights = str(write_state(tmp_path / "epoch_80.t", state, WRAPS[words]))
    with caplog.at_level("INFO"):
        system, variables = building.trained(config, str(tmp_path / "none"))
    found = to_torch(system, variables)
    assert found["classifier.weight"].shape[0] == 5
    for name, array in found.items():
        np.testing.assert_array_equal(array, state[name], err_msg=name)
    unused = [record.message for record in caplog.records if "never runs" in record.message]
    if WRAPS[words] is dict:
        assert not unused
    else:
        ours = found.keys() | set(system.names.zeros)
        number = sum((name not in ours) + name.endswith("running_mean") * (name not in ours) for name in state)
        assert len(unused) == 1
        assert unused[0].startswith(f"{number} tensors are of parts that the network never runs: ")
        assert unused[0].count("layer") == 8
        assert "visible_module.visible.layer1" in unused[0]
        assert unused[0].endswith("base_resnet.base.bn1, base_resnet.base.conv1")


@pytest.mark.parametrize(
    ("file", "words"),
    [("agw", "mpanet"), ("lba", "saai"), ("mpanet", "saai"), ("saai", "agw"), ("saai", "caj"), ("mpanet", "lba")],
)
def test_weights_of_another_system_are_named_and_the_word_that_fits(tmp_path, file, words):
    config = synthetic.get_config(f"tiny,{words}")
    config.model.weights = str(write_state(tmp_path / "file.pth", released(f"tiny,{file}")))
    of, word = ("agw or lba", "agw or FILE:lba") if file in ("agw", "lba") else (file, file)
    with pytest.raises(
        WeightsError, match=rf"file\.pth: these tensors are of {of}; use the word {of}, --config=FILE:{word}$"
    ):
        building.trained(config, str(tmp_path / "none"))


def test_each_systems_mark_is_a_tensor_of_its_own_but_for_agws_and_lbas():
    assert MARKS.keys() == SYSTEMS.keys() - {"sim-baseline", "wrimnet"}  # of which nothing was released
    alike = {"agw": ["agw", "lba"], "lba": ["agw", "lba"]}  # a whole ResNet for each stem, and one for the rest
    for name in MARKS:
        marked = [mark for mark, tensor in MARKS.items() if tensor in released(f"tiny,{name}")]
        assert marked == alike.get(name, [name])


@pytest.mark.parametrize(
    ("file", "words", "message"),
    [
        ("agw", "lba", "not in the model: NL_2"),
        ("agw", "lba-baseline", "not in the model: NL_2"),
        ("lba", "agw", "missing in the file: NL_2"),
        ("lba", "caj", "missing in the file: NL_2"),
    ],
)
def test_lbas_weights_and_agws_are_told_apart_by_non_local_blocks(tmp_path, file, words, message):
    config = synthetic.get_config(f"tiny,{words}")
    config.model.weights = str(write_state(tmp_path / "file.pth", released(f"tiny,{file}")))
    with pytest.raises(WeightsError, match=message):
        building.trained(config, str(tmp_path / "none"))


def test_a_tensor_of_lbas_weights_that_no_rule_names_is_refused_by_name(tmp_path):
    """It holds three whole ResNets: the stages of two and the stem of the third are left out, and nothing else is."""
    config = synthetic.get_config("tiny,lba")
    state = released("tiny,lba")
    stray = ("thermal_module.thermal.fc.weight", "visible_module.visible.bn2.bias", "base_resnet.base.conv2.weight")
    state |= dict.fromkeys(stray, np.ones(3, np.float32))
    config.model.weights = str(write_state(tmp_path / "file.pth", state))
    with pytest.raises(WeightsError, match=f"3 not in the model: {', '.join(stray)}$"):
        building.trained(config, str(tmp_path / "none"))


@pytest.mark.parametrize("words", ["tiny,agw", "tiny,mpanet", "tiny,lba"])
def test_weights_of_another_number_of_identities_say_what_they_fit(tmp_path, words):
    config = synthetic.get_config(words)
    config.model.weights = str(write_state(tmp_path / "file.pth", released(words)))
    with pytest.raises(WeightsError) as error:
        building.initial_state(config, building.system_of(config, 7))
    assert str(error.value).startswith(config.model.weights)
    assert "of another shape or type: " in str(error.value)
    assert "the file tells 5 identities apart, the model 7: train on 5 or from ImageNet's" in str(error.value)


@pytest.mark.parametrize("words", ["tiny,agw", "tiny,mpanet", "tiny,lba", "tiny,wrimnet"])
def test_imagenets_resnet_starts_the_stems_and_the_rest_and_is_no_checkpoint(tmp_path, words):
    config = synthetic.get_config(words)
    prefixes = ("base_resnet.base.", "backbone.")
    resnet = {n.removeprefix(p): a for n, a in released(words).items() for p in prefixes if n.startswith(p)}
    head = {"fc.weight": np.ones((1000, 8), np.float32), "fc.bias": np.ones(1000, np.float32)}
    config.model.weights = str(write_state(tmp_path / "resnet.pth", resnet | head))
    with pytest.raises(CheckpointError, match=r"train first \(and .*resnet\.pth is a backbone alone\)"):
        building.trained(config, str(tmp_path / "none"))
    system = building.system_of(config, 7)
    drawn, started = (
        to_torch(system, building.initial_state(c, system).variables) for c in (synthetic.get_config(words), config)
    )
    stems = "visible_module.visible.", "thermal_module.thermal."
    for name, array in started.items():
        plain = next((name.removeprefix(p) for p in (*prefixes, *stems) if name.startswith(p)), None)
        np.testing.assert_array_equal(array, resnet[plain] if plain else drawn[name], err_msg=name)
