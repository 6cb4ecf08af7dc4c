"""The map to torch's names, on a narrow model; the files themselves are test_pth.py's."""

import types

import jax
import numpy as np
import pytest

from saai_jax.systems.saai import names_of
from saai_jax.weights.names import from_torch, identities_of, to_torch
from saai_jax.weights.pth import WeightsError

SYSTEM = types.SimpleNamespace(names=names_of("dual"))  # all that the map needs of a system
SINGLE = types.SimpleNamespace(names=names_of("single"))


def norm(width):
    return {"scale": np.zeros(width), "bias": np.zeros(width)}, {"mean": np.zeros(width), "var": np.zeros(width)}


def model(mam=True):
    """Zeros in the names and axes of saai_jax.models, narrow: d 6, n 5 identities, c 4, r 2."""
    stem, stem_stats = norm(3)
    block, block_stats = norm(4)
    backbone = {
        "stem": {"conv1": {"kernel": np.zeros((7, 7, 3, 3))}, "bn1": stem},
        "layer1": {
            "block0": {
                "conv2": {"kernel": np.zeros((3, 3, 2, 4))},
                "bn2": block,
                "downsample_conv": {"kernel": np.zeros((1, 1, 3, 4))},
                "downsample_bn": block,
            },
        },
    }
    if mam:
        backbone["mam4"] = {"squeeze": {"kernel": np.zeros((1, 1, 4, 2))}, "excite": {"kernel": np.zeros((1, 1, 2, 4))}}
    heads = {f"{name}_classifier": {"kernel": np.zeros((6, 5))} for name in ("shared", "visible", "infrared")}
    safl = {"prototypes": np.zeros((2, 4)), "position": np.zeros((9, 4))}
    layer_stats = {"bn2": block_stats, "downsample_bn": block_stats}
    variables = {
        "params": {"backbone": backbone, "safl": safl, "neck": {"scale": np.zeros((2, 6))}, **heads},
        "batch_stats": {
            "backbone": {"stem": {"bn1": stem_stats}, "layer1": {"block0": layer_stats}},
            "neck": {"mean": np.zeros((2, 6)), "var": np.zeros((2, 6))},
        },
        "mean_classifiers": {name: {"kernel": np.zeros((6, 5))} for name in ("visible", "infrared")},
    }
    return jax.tree.map(lambda x: np.asarray(x, np.float32), variables)


def checkpoint(mam=True):
    shapes = {
        "backbone.conv1.weight": (3, 3, 7, 7),
        "backbone.layer1.0.conv2.weight": (4, 2, 3, 3),
        "backbone.layer1.0.downsample.0.weight": (4, 3, 1, 1),
        "attn_pool.part_tokens": (2, 4),
        "attn_pool.pos_embeding": (9, 4),
    }
    norms = {"backbone.bn1": 3, "backbone.layer1.0.bn2": 4, "backbone.layer1.0.downsample.1": 4}
    norms |= {"bn_neck.bn_neck_v": 6, "bn_neck.bn_neck_i": 6}
    for name, width in norms.items():
        shapes |= {f"{name}.{leaf}": (width,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    if mam:
        shapes["backbone.MAM4.channel_attention.0.weight"] = (2, 4, 1, 1)
        shapes["backbone.MAM4.channel_attention.2.weight"] = (4, 2, 1, 1)
    for name in ("", "visible_", "infrared_"):
        shapes[f"{name}classifier.weight"] = (5, 6)
    shapes |= {f"{m}_classifier_.weight": (5, 6) for m in ("visible", "infrared")}
    random = np.random.RandomState(0)
    state = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    state |= {f"bn_neck.bn_neck_{m}.bias": np.zeros(6, np.float32) for m in "vi"}
    return state | {f"{name}.num_batches_tracked": np.array(7) for name in norms}


@pytest.mark.parametrize("mam", [True, False])
def test_from_torch_and_back(mam):
    state, variables = checkpoint(mam), model(mam)
    assert identities_of(state) == 5
    loaded = from_torch(state, SYSTEM, variables)
    params, stats = loaded["params"], loaded["batch_stats"]
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    assert not any(x.any() for x in jax.tree.leaves(variables)), "the given variables were written to"
    conv = state["backbone.layer1.0.conv2.weight"]
    np.testing.assert_array_equal(
        params["backbone"]["layer1"]["block0"]["conv2"]["kernel"][2, 1, 1, 3], conv[3, 1, 2, 1]
    )
    np.testing.assert_array_equal(params["neck"]["scale"][1], state["bn_neck.bn_neck_i.weight"])
    np.testing.assert_array_equal(stats["neck"]["var"][0], state["bn_neck.bn_neck_v.running_var"])
    np.testing.assert_array_equal(params["shared_classifier"]["kernel"], state["classifier.weight"].T)
    means = loaded["mean_classifiers"]
    np.testing.assert_array_equal(means["infrared"]["kernel"], state["infrared_classifier_.weight"].T)
    back = to_torch(SYSTEM, loaded)
    assert set(back) == {n for n in state if "tracked" not in n and not (n.startswith("bn_neck") and "bias" in n)}
    for name, array in back.items():
        np.testing.assert_array_equal(array, state[name], err_msg=name)


def test_from_torch_reports_everything_at_once():
    state = checkpoint()
    state["backbone.surprise.weight"] = np.zeros(3, np.float32)
    state["bn_neck.bn_neck_v.bias"] = np.full(6, 0.1, np.float32)
    state["classifier.weight"] = state["classifier.weight"][:4]
    del state["attn_pool.part_tokens"], state["visible_classifier_.weight"]
    with pytest.raises(WeightsError) as error:
        from_torch(state, SYSTEM, model())
    for line in (
        "1 not in the model: backbone.surprise.weight",
        "2 missing in the file: attn_pool.part_tokens, visible_classifier_.weight",
        "1 of another shape or type: classifier.weight (file float32 (4, 6), model (5, 6))",
        "1 not zero, but frozen at zero in every release: bn_neck.bn_neck_v.bias",
    ):
        assert line in str(error.value)
    with pytest.raises(WeightsError, match=r"not in the model: backbone\.MAM4"):
        from_torch(checkpoint(), SYSTEM, model(mam=False))


def test_without_mean_classifiers_they_are_the_classifiers():
    state = {name: array for name, array in checkpoint().items() if not name.endswith("_classifier_.weight")}
    loaded = from_torch(state, SYSTEM, model())
    for name in ("visible", "infrared"):
        np.testing.assert_array_equal(
            loaded["mean_classifiers"][name]["kernel"], loaded["params"][f"{name}_classifier"]["kernel"]
        )


def test_a_single_neck_has_a_name_of_its_own():
    state, variables = checkpoint(), model()
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        state[f"bn_neck.{leaf}"] = state.pop(f"bn_neck.bn_neck_v.{leaf}")
        del state[f"bn_neck.bn_neck_i.{leaf}"]
    for tree in (variables["params"]["neck"], variables["batch_stats"]["neck"]):
        tree |= {name: array[:1] for name, array in tree.items()}
    loaded = from_torch(state, SINGLE, variables)
    np.testing.assert_array_equal(loaded["params"]["neck"]["scale"], state["bn_neck.weight"][None])
    with pytest.raises(WeightsError, match=r"missing in the file: bn_neck\.bn_neck_i\.running_mean"):
        from_torch(state, SYSTEM, model())


def test_an_imagenet_resnet_fills_the_backbone_alone():
    state = {n.removeprefix("backbone."): a for n, a in checkpoint(mam=False).items() if n.startswith("backbone.")}
    state |= {"fc.weight": np.zeros((1000, 8), np.float32), "fc.bias": np.zeros(1000, np.float32)}
    variables = jax.tree.map(lambda x: x + 5, model())
    assert identities_of(state) is None
    filled = from_torch(state, SYSTEM, variables)
    np.testing.assert_array_equal(filled["params"]["backbone"]["stem"]["bn1"]["scale"], state["bn1.weight"])
    for untouched in ("mam4", "safl", "neck"):
        tree = filled["params"]["backbone"] if untouched == "mam4" else filled["params"]
        assert all((x == 5).all() for x in jax.tree.leaves(tree[untouched]))
    del state["layer1.0.bn2.running_var"]
    with pytest.raises(WeightsError, match=r"1 missing in the file: backbone\.layer1\.0\.bn2\.running_var"):
        from_torch(state, SYSTEM, variables)


def test_to_torch_refuses_unknown_arrays():
    with pytest.raises(WeightsError, match="params/extra/kernel"):
        to_torch(SYSTEM, {"params": {"extra": {"kernel": np.zeros((2, 2))}}})
