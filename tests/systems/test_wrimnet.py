"""WRIM-Net by its supplement and the third party's listing: no code or figures of it are released."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs import llcm, regdb, sysu
from modes.building import system_of
from saai_jax import parallel
from saai_jax.augment import normalise
from saai_jax.losses.contrastive import hardest_positives
from saai_jax.losses.identity import shared_identity
from saai_jax.losses.triplet import batch_hard
from saai_jax.models.attention import Miim
from saai_jax.models.resnet import conv
from saai_jax.systems import wrimnet
from tests.models.test_resnet import normal, number, scattered

SMALL = {"identities": 3, "size": (32, 16), "stages": (1, 1), "width": 4, "bottleneck": False}
SMALL |= {"miim": (1, 2), "separate": (1,), "kernels": (4, 2), "reductions": (2, 2), "attention_heads": 2}
MODALITY = np.array([0, 1, 1, 0, 0, 1, 0, 1])


def shapes(system):
    return jax.eval_shape(system.init, jax.random.key(0))


def test_the_published_model_has_the_listed_modules():
    """384 x 128, 395 identities; separate after blocks 1 and 2, shared after 3 and 4; b1, b11, b12 and b2."""
    params, _ = shapes(wrimnet.build(identities=395, size=(384, 128)))
    found = {name: number(tree) for name, tree in params.items()}
    miims = {f"{m}_miim{i}": n for m in ("visible", "infrared") for i, n in ((1, 623_360), (2, 919_040))}
    miims |= {"miim3": 788_480, "miim4": 3_149_824}
    assert {name: n for name, n in found.items() if "miim" in name} == miims
    widths = {"": 2048, "stripe1_": 2048, "stripe2_": 2048, "auxiliary_": 1024}
    for name, d in widths.items():
        assert found[f"{name}neck"] == d
        assert found[f"{name}classifier"] == 395 * d
        assert found[f"{name}projection"] == (d * d + d) + 2 * d + (d * 128 + 128)
    rest = [n for name, n in found.items() if name.startswith(("stem", "layer"))]
    assert sum(rest) == 23_508_032  # ResNet-50
    assert len(found) == len(miims) + 3 * len(widths) + len(rest)


@pytest.mark.parametrize(
    ("dataset", "size", "batch", "parts"),
    [(sysu, (384, 144), (4, 32), (3, 1)), (llcm, (384, 144), (8, 16), (3, 1)), (regdb, (256, 144), (8, 16), (7, 3))],
)
def test_each_data_set_has_its_images_batch_and_stripes(dataset, size, batch, parts):
    """RegDB: N = 6, M = 2. The ranked feature is that of the last map and its stripes."""
    c = dataset.get_config("wrimnet")
    assert (c.data.height, c.data.width) == size
    assert (c.data.identities, c.data.images) == batch
    system = system_of(c, 5)
    params, collections = shapes(system)
    necks = [name for name in params if name.endswith("neck")]
    assert tuple(sum(n.startswith("auxiliary") == kind for n in necks) for kind in (False, True)) == parts
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)
    variables = {"params": params, **collections}
    for of in (system.embed, system.pooled):
        assert jax.eval_shape(of, variables, *image).shape == (2, 2048 * parts[0])
    assert jax.eval_shape(system.maps, variables, *image).shape == (2, 4, size[0] // 16, 9)


class Alone(nn.Module):
    """A MIIM for each modality, without a network around it."""

    @nn.compact
    def __call__(self, x, train, modality):
        return wrimnet.own_of(lambda m: Miim(conv, 2, 2, 2, name=f"{m}miim"), True, x, train, modality)


X = np.abs(normal(0, 8, 4, 4, 8))
ALONE = scattered(jax.eval_shape(lambda: Alone().init(jax.random.key(0), X, False, MODALITY)), 1)
alone = jax.jit(lambda v, x, modality: Alone().apply(v, x, True, modality, mutable="batch_stats"))


@pytest.mark.parametrize("m", [0, 1])
def test_a_separate_miim_sees_its_modalitys_rows_alone(m):
    """Maps, where it looks, statistics and gradients are those of a batch without the others."""
    rows, name = m == MODALITY, ("visible_miim", "infrared_miim")[m]
    (y, looked), after = alone(ALONE, X, MODALITY)
    own = {kind: tree[name] for kind, tree in ALONE.items()}
    expected, stats = Miim(conv, 2, 2, 2).apply(own, X[rows], True, mutable="batch_stats")
    for found, slow in zip((y[rows], looked[rows]), expected, strict=True):
        np.testing.assert_allclose(found, slow, rtol=1e-4, atol=1e-5)
    moved = after["batch_stats"][name], stats["batch_stats"]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), *moved)
    weight = normal(2, *y.shape) * rows[:, None, None, None]
    to_variables, to_x = jax.grad(lambda v, x: (weight * alone(v, x, MODALITY)[0][0]).sum(), (0, 1))(ALONE, X)
    np.testing.assert_array_equal(to_x[~rows], 0)
    assert np.abs(to_x[rows]).max() > 1e-3
    other = to_variables["params"][("infrared_miim", "visible_miim")[m]]
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(other))
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(to_variables["params"][name]))


def test_separate_miims_take_any_order_and_mix_in_one_program_and_on_four_devices():
    (y, looked), after = alone(ALONE, X, MODALITY)
    before = alone._cache_size()
    for order in (np.argsort(MODALITY), np.random.default_rng(0).permutation(8)):
        (mixed, where), again = alone(ALONE, X[order], MODALITY[order])
        np.testing.assert_allclose(mixed, y[order], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(where, looked[order], rtol=1e-4, atol=1e-5)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), again, after)
    (_, _), one_kind = alone(ALONE, X, np.zeros(8, MODALITY.dtype))
    stats = ALONE["batch_stats"]["infrared_miim"], one_kind["batch_stats"]["infrared_miim"]
    jax.tree.map(np.testing.assert_array_equal, *stats)
    assert alone._cache_size() == before
    spread = parallel.split({"x": X, "modality": MODALITY}, parallel.batch_mesh(jax.devices()[:4]))
    assert len(spread["x"].sharding.device_set) == 4
    four = alone(ALONE, spread["x"], spread["modality"])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), four, ((y, looked), after))


def test_stems_of_modalities_and_shared_miims_are_fields():
    params, _ = shapes(wrimnet.build(**SMALL | {"stem_of_modality": True, "separate": (1, 2)}))
    assert {"visible_stem", "infrared_stem", "visible_miim2", "infrared_miim2"} < params.keys()
    params, _ = shapes(wrimnet.build(**SMALL | {"separate": (), "miim": (2,)}))
    assert {"stem", "miim2"} < params.keys()
    assert not {name for name in params if "miim1" in name or name.startswith(("visible", "infrared"))}
    assert wrimnet.build(**SMALL | {"miim": ()}).maps is None


@pytest.fixture(scope="module")
def case():
    """A batch, and variables of the small network with two stripes and one of the auxiliary map."""
    system = wrimnet.build(**SMALL, auxiliary_stripes=1)
    params, collections = scattered(shapes(system), 1)
    batch = {"image": normal(3, 8, 32, 16, 3), "identity": np.repeat([0, 1], 4), "modality": MODALITY}
    return params, collections, batch


def terms_of(case, **changes):
    params, collections, batch = case
    system = wrimnet.build(**SMALL | {"auxiliary_stripes": 1} | changes)
    total, (terms, _) = jax.jit(system.loss)(params, collections, batch, jax.random.key(0), jnp.int32(0))
    return total, terms


def test_the_loss_is_the_sum_of_its_terms_by_their_weights(case):
    """Each level's terms are means over its parts, the triplet of the whole map; every weight is seen."""
    total, terms = terms_of(case, lambda1=0.25, lambda2=0.01)
    backbone = wrimnet.resnet.built(stages=(1, 1), width=4, bottleneck=False)
    how = {"heads": 2, "keys": "pooled", "region": 2}
    blocks = tuple(functools.partial(Miim, conv, 2, kernel, **how) for kernel in (4, 2))
    levels = {"main": 2, "auxiliary": 1}
    network = wrimnet.Network(3, backbone, True, blocks, (1,), levels, wrimnet.LEVELS, "main")
    params, collections, batch = case
    variables, y = {"params": params, **collections}, batch["identity"]
    output, _ = jax.jit(lambda v, x: network.apply(v, x, MODALITY, True, mutable="batch_stats"))(
        variables, batch["image"]
    )
    expected = {}
    for level, prefix, parts in (("main", "", 3), ("auxiliary", "auxiliary_", 2)):
        found = output.levels[level]
        assert len(found) == parts
        assert found[0].feature.shape == (8, 8 if level == "main" else 4)
        np.testing.assert_allclose(found[0].feature, np.mean([p.feature for p in found[1:]], 0), rtol=1e-4)
        np.testing.assert_allclose([np.linalg.norm(p.z, axis=1) for p in found], 1, rtol=1e-5)
        expected[f"{prefix}identity"] = np.mean([shared_identity(p.logits, y) for p in found])
        expected[f"{prefix}triplet"] = batch_hard(found[0].feature, y)
        expected[f"{prefix}contrastive"] = np.mean([hardest_positives(p.z, y, MODALITY, hardest=4) for p in found])
    assert terms.keys() == expected.keys()
    for name, value in terms.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, err_msg=name)
    weight = {"identity": 1, "triplet": 1, "auxiliary_identity": 0.25, "auxiliary_triplet": 0.25}
    np.testing.assert_allclose(total, sum(weight.get(n, 0.01) * v for n, v in expected.items()), rtol=1e-4)


def test_levels_and_the_forms_of_cmkic_are_fields(case):
    _, every = terms_of(case)
    _, fewer = terms_of(case, triplet_levels=("auxiliary",), contrastive_levels=("main",))
    assert fewer.keys() == every.keys() - {"triplet", "auxiliary_contrastive"}
    assert terms_of(case, auxiliary=False)[1].keys() == {"identity", "triplet", "contrastive"}
    params, _ = shapes(wrimnet.build(**SMALL, auxiliary=False))
    assert not [name for name in params if name.startswith("auxiliary")]
    changed = [terms_of(case, **how)[1]["contrastive"] for how in ({"hardest": 1}, {"against": "other"})]
    changed.append(terms_of(case, reduction="mean", temperature=0.1)[1]["contrastive"])
    assert len({float(every["contrastive"]), *map(float, changed)}) == 4
    assert every["triplet"] < terms_of(case, margin=5.0)[1]["triplet"]


def test_projections_and_classifiers_are_of_training_alone(case):
    """The ranked feature is the same without their weights."""
    params, collections, batch = case
    system = wrimnet.build(**SMALL, auxiliary_stripes=1)
    kept = {name: tree for name, tree in params.items() if not name.endswith(("projection", "classifier"))}
    assert len(kept) == len(params) - 2 * 5
    for of in (system.embed, system.maps):
        found = [of({"params": p, **collections}, batch["image"], MODALITY) for p in (params, kept)]
        np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(("feature", "width"), [("global", 8), ("main", 3 * 8), ("all", 3 * 8 + 2 * 4)])
def test_what_is_ranked(case, feature, width):
    params, collections, batch = case
    variables = {"params": params, **collections}
    every = wrimnet.build(**SMALL, auxiliary_stripes=1, feature="all").embed(variables, batch["image"], MODALITY)
    system = wrimnet.build(**SMALL, auxiliary_stripes=1, feature=feature)
    np.testing.assert_array_equal(system.embed(variables, batch["image"], MODALITY), every[:, :width])
    assert system.pooled(variables, batch["image"], MODALITY).shape == (8, width)


def test_maps_are_where_each_miim_looks(case):
    """A map for every MIIM, of the size of the last one, 1 on average; of a separate one by the row's modality."""
    params, collections, batch = case
    maps = wrimnet.build(**SMALL | {"keys": "self"}, auxiliary_stripes=1).maps
    variables = {"params": params, **collections}
    found = maps(variables, batch["image"], MODALITY)
    assert found.shape == (8, 2, 4, 2)
    np.testing.assert_allclose(found.mean((2, 3)), 1, rtol=1e-4)
    assert np.ptp(found, axis=(2, 3)).max(0).min() > 1e-3
    other = maps(variables, batch["image"], 1 - MODALITY)
    assert (found != other).any((1, 2, 3)).all()


@pytest.mark.parametrize("how", [{"remat": True}, {"dtype": "bfloat16"}], ids=lambda how: next(iter(how)))
def test_remat_and_half_precision_give_the_loss(case, how):
    """remat to rounding, with its gradients; bfloat16 to its digits, with losses and statistics in float32."""
    params, collections, batch = case
    results = []
    for changes in ({}, how):
        loss = wrimnet.build(**SMALL, auxiliary_stripes=1, **changes).loss
        of = jax.jit(jax.value_and_grad(loss, has_aux=True))
        results.append(of(params, collections, batch, jax.random.key(0), jnp.int32(0)))
    if "remat" in how:
        for one, other in zip(*map(jax.tree.leaves, results), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * max(np.abs(one).max(), 1))
    else:
        assert {leaf.dtype for leaf in jax.tree.leaves(results[1])} == {jnp.dtype(jnp.float32)}
        (one, _), (other, _) = (result[0] for result in results)
        np.testing.assert_allclose(one, other, rtol=0.05)
        assert one != other


@pytest.mark.parametrize("grey", [0.0, 1.0])
def test_images_are_cropped_flipped_greyed_and_erased(grey):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 16, 3), np.uint8)
    whole = {"scale": (1.0, 1.0), "aspect": (1.0, 1.0), "grey": grey}
    augmented = {
        name: np.asarray(wrimnet.build(**SMALL, **how).augment(jax.random.key(0), {"image": image})["image"])
        for name, how in {
            "plain": whole | {"erasing": 0.0},
            "erased": whole | {"erasing": 1.0},
            "cropped": whole | {"erasing": 0.0, "scale": (0.5, 0.6)},
        }.items()
    }
    given = normalise(image)
    if grey:
        plain = np.repeat(image @ np.array([0.299, 0.587, 0.114]), 3).reshape(image.shape) / 255
        given = normalise(jnp.float32(plain))
    ways = [np.isclose(augmented["plain"], given[:, :, ::way], atol=1e-4).all((1, 2, 3)) for way in (1, -1)]
    np.testing.assert_array_equal(ways[0] ^ ways[1], True)
    assert 6 < ways[1].sum() < 26
    same = np.isclose(augmented["erased"], augmented["plain"], atol=1e-5).all(-1)
    assert 0.6 < same.mean((1, 2)).min() <= same.mean((1, 2)).max() < 1
    np.testing.assert_array_equal(augmented["erased"][~same], 0)
    assert not np.isclose(augmented["cropped"], augmented["plain"], atol=1e-3).all((1, 2, 3)).any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"miim": (3,)}, "model.miim: 3 is none of 1, 2"),
        ({"separate": (0,)}, "model.separate: 0 is none of 1, 2"),
        ({"keys": "mean"}, "model.keys: 'mean' is none of pooled, self"),
        ({"norm": "first"}, "model.norm: 'first' is none of compressed, input, none"),
        ({"fusion": "sum"}, "model.fusion: 'sum' is none of multiply-sigmoid, multiply, add"),
        ({"feature": "P5"}, "model.feature: 'P5' is none of global, main, all"),
        ({"triplet_levels": ("P5",)}, "loss.triplet_levels: 'P5' is none of main, auxiliary"),
        ({"contrastive_levels": ("P4",)}, "loss.contrastive_levels: 'P4' is none of main, auxiliary"),
        ({"against": "all"}, "loss.against: 'all' is none of both, other"),
        ({"reduction": "max"}, "loss.reduction: 'max' is none of sum, mean"),
        ({"hardest": 0}, "loss.hardest: 0, expected from 1"),
        ({"region": 0}, "model.region: 0, expected from 1"),
        ({"stripes": 5}, "model.stripes: 5, expected from 0 to 4"),
        ({"auxiliary_stripes": 9}, "model.auxiliary_stripes: 9, expected from 0 to 8"),
        ({"kernels": (4,)}, "model.kernels: 1 numbers, expected 2"),
        ({"reductions": (2, 2, 4)}, "model.reductions: 3 numbers, expected 2"),
        ({"kernels": (3, 2)}, r"model.kernels: 3 does not divide the map of stage 1, 8 x 4 of 32 x 16 pixels"),
        ({"attention_heads": 3}, "model.attention_heads is 3, expected a divisor of .* stage 1, 4 / 2"),
        ({"stages": (1,), "kernels": (4,), "reductions": (2,), "miim": (), "separate": ()}, "at least two stages"),
        ({"mam": (1,)}, "'mam'"),
        ({"pad": 4}, "'pad'"),
    ],
)
def test_what_cannot_be_built_is_refused(wrong, message):
    with pytest.raises((ValueError, TypeError), match=message):
        wrimnet.build(**SMALL | wrong)
