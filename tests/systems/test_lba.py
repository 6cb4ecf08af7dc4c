"""LbA against figures of the original, run in PyTorch on deterministic weights and images; its pairs and its passes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params

from configs import sysu
from saai_jax.augment import normalise
from saai_jax.models import resnet
from saai_jax.systems import agw, lba
from saai_jax.train import learning_rate
from saai_jax.weights.names import to_torch
from tests.golden_files import load
from tests.systems.originals import EPOCH, KEY, images, of, variables_of
from tests.test_train import equal

BUILT = {"identities": 12, "size": (288, 144)}
# The terms that one weight is for, and the weights of the losses whose gradients were kept.
PARTS = ("identity", "consistency", "persample", "crossbatch")
TOTALS = {"persample": (1, 1, 0.5, 0), "crossbatch": (1, 1, 0, 0.5), "baseline": (1, 0, 0, 0)}
ALONE = {"step0/ic_grad_norm": 1, "persample/dt_grad_norm": 2, "crossbatch/dt_grad_norm": 3}


@pytest.fixture(scope="module")
def golden():
    return load("lba")


@pytest.fixture(scope="module")
def system():
    yield lba.build(**BUILT)
    jax.clear_caches()


@pytest.fixture(scope="module")
def variables(system):
    return variables_of(system)


@pytest.fixture(scope="module")
def batch(golden):
    modality = jnp.repeat(jnp.arange(2), 8)
    return {"image": images(100)[golden["meta/order"]], "identity": golden["meta/labels"], "modality": modality}


def test_evaluation(golden, system, variables, batch):
    model = agw.Network(12, resnet.built(stem_of_modality=True), "gem")

    @jax.jit
    def every(variables, image, modality):
        output = model.apply(variables, image, modality, train=False)
        return output, system.embed(variables, image, modality)

    output, feature = every(variables, batch["image"], batch["modality"])
    for ours, name in ((output.feature, "pooled"), (output.embedding, "neck"), (feature, "feature")):
        expected = golden[f"eval/{name}"]
        np.testing.assert_allclose(ours[:, ::16], expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=name)
    np.testing.assert_allclose(output.logits, golden["eval/logits"], atol=2e-5)


@pytest.fixture(scope="module")
def step(golden, variables, batch):
    """What a step computes, of both weightings, and the gradient of each of PARTS: one pass forward, four back."""
    model = agw.Network(12, resnet.built(stem_of_modality=True), "gem")
    rows = tuple(tuple(golden[f"step0/layer{i}/{which}"] for which in ("pos", "neg")) for i in (3, 4))
    baseline = lba.build(**BUILT, consistency=0.0, dense=0.0)

    def forward(params, stats, batch):
        found, after = lba.passes(model, {"params": params, **stats}, batch, rows, 0.3)
        own, cross = (lba.terms_of(found, batch["identity"], margin=0.3, cross_batch=c) for c in (False, True))
        dense = [terms["dense_lower"] + terms["dense_upper"] for terms in (own, cross)]
        parts = [own["identity"] + own["triplet"], own["consistency_lower"] + own["consistency_upper"], *dense]
        # Its pass is the first of the others, which the compiler computes once.
        total, (_, alone) = baseline.loss(params, stats, batch, KEY, EPOCH)
        return jnp.stack(parts), (found, own, cross, after, total, alone)

    pull = jax.jit(lambda params, *rest: jax.vjp(lambda params: forward(params, *rest), params, has_aux=True))
    _, back, found = pull(variables["params"], {"batch_stats": variables["batch_stats"]}, batch)
    gradient = jax.jit(lambda back, weights: back(weights)[0])
    return found, [gradient(back, weights) for weights in jnp.eye(len(PARTS))]


def test_terms_of_the_first_step(golden, step):
    found, own, cross, _, baseline, _ = step[0]
    ours = {"identity": "ce_id", "triplet": "triplet", "consistency_lower": "ce_ic3", "consistency_upper": "ce_ic4"}
    for name, theirs in ours.items():
        np.testing.assert_allclose(own[name], golden[f"step0/{theirs}"], atol=1e-4, err_msg=name)
    for terms, weighting in ((own, "persample"), (cross, "crossbatch")):
        for name, theirs in (("dense_lower", "dt3"), ("dense_upper", "dt4")):
            np.testing.assert_allclose(terms[name], golden[f"{weighting}/{theirs}"], atol=1e-4, err_msg=name)
        total = sum(terms[name] for name in ours) + 0.5 * (terms["dense_lower"] + terms["dense_upper"])
        np.testing.assert_allclose(total, golden[f"{weighting}/total"], atol=1e-4)
    np.testing.assert_allclose(baseline, golden["baseline/total"], atol=1e-4)
    figures = {"id": found.clean.logits, "ic3": found.lower_logits, "ic4": found.upper_logits}
    for name, logits in figures.items():
        np.testing.assert_allclose(logits, golden[f"step0/logits_{name}"], atol=1e-4, err_msg=name)
    pooled = golden["step0/pooled"]
    np.testing.assert_allclose(found.clean.feature[:, ::16], pooled, atol=1e-4 * np.abs(pooled).max())
    for i, aligned in ((3, found.lower), (4, found.upper)):
        expected = of(golden, f"step0/layer{i}/")
        np.testing.assert_allclose(aligned.coattention, expected["coattention"], atol=2e-4)
        np.testing.assert_allclose(aligned.triplet, expected["dense_triplet"], atol=5e-4)
        norms = np.linalg.norm(np.asarray(aligned.reconstructed).reshape(16, -1), axis=1)
        np.testing.assert_allclose(norms, expected["reconstructed_norm"], rtol=2e-4)


def gaps(found, golden, figures, names):
    """How far each of our norms is from the original's, relative to it."""
    ours = np.array([np.linalg.norm(np.float64(found[name])) for name in names])
    return np.abs(ours / golden[figures] - 1)


def test_gradients_and_the_first_update(golden, step, system, variables):
    """Of the totals, and of L_IC and L_DT alone, which tell the weightings apart."""
    names, gradients = golden["names"].tolist(), step[1]
    for figures, part in ALONE.items():
        found = to_torch(system, {"params": gradients[part]})
        assert found.keys() == set(names)
        reached = [name for name in names if golden[figures][names.index(name)]]
        absent = set(names) - set(reached)
        assert absent == (set() if "ic" in figures else {"bottleneck.weight", "classifier.weight"})
        assert not any(found[name].any() for name in absent)
        kept = {figures: golden[figures][golden[figures] > 0]}
        assert gaps(found, kept, figures, reached).max() < 6e-3, figures
    rate = golden["schedule/lr"][0, 1]
    for loss, weights in TOTALS.items():
        gradient = jax.tree.map(lambda *parts, w=weights: sum(a * x for a, x in zip(w, parts, strict=True)), *gradients)
        assert gaps(to_torch(system, {"params": gradient}), golden, f"{loss}/grad_norm", names).max() < 6e-3, loss
        params = variables["params"]
        direction, _ = system.optimiser.update(gradient, system.optimiser.init(params), params)
        moved = to_torch(system, {"params": jax.tree.map(lambda d: rate * d, direction)})
        assert gaps(moved, golden, f"{loss}/update_norm", names).max() < 6e-3, loss


def test_running_statistics_tell_the_order_of_the_passes(golden, step, system, variables):
    names = golden["stats"].tolist()
    before = to_torch(system, {"batch_stats": variables["batch_stats"]})
    for figures, after in (("step0", step[0][3]), ("baseline", step[0][5])):
        after = to_torch(system, after)
        assert after.keys() == set(names)
        assert gaps(after, golden, f"{figures}/stat_norm", names).max() < 2e-6
        change = {name: np.float64(after[name]) - before[name] for name in names}
        assert gaps(change, golden, f"{figures}/stat_change_norm", names).max() < 1e-5
    neck = to_torch(system, step[0][3])
    for leaf in ("running_mean", "running_var"):
        np.testing.assert_allclose(neck[f"bottleneck.{leaf}"], golden[f"step0/neck_{leaf}"], rtol=1e-5, atol=1e-5)


def test_rates_decay_and_factors_are_the_released_ones(golden, system):
    t = sysu.get_config("lba").train
    how = {"base": t.learning_rate, "warmup": t.warmup, "milestones": t.milestones, "decay": t.decay}
    rates = learning_rate(np.arange(t.epochs), **how)[:, None] * [t.backbone_factor, 1, 1]
    np.testing.assert_allclose(rates, golden["schedule/lr"], rtol=1e-6)
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 2.0), jax.eval_shape(system.init, KEY)[0])
    direction, _ = system.optimiser.update(params, system.optimiser.init(params), params)
    moved = to_torch(system, {"params": direction})
    factors, decays = golden["schedule/lr_multiplier"], golden["schedule/weight_decay"]
    for name, factor, decay in zip(golden["names"].tolist(), factors, decays, strict=True):
        np.testing.assert_allclose(moved[name], factor * 1.9 * 2 * (1 + decay), rtol=1e-6, err_msg=name)


def test_parameters_of_the_published_model():
    """Of 480 tensors in the release, the 164 that get a gradient."""
    params, _ = jax.eval_shape(lba.build(identities=395, size=(288, 144)).init, KEY)
    leaves = jax.tree.leaves(params)
    assert (len(leaves), sum(leaf.size for leaf in leaves)) == (164, 24_328_576)


def order_of(people, images):
    """Identities of a batch: so many people, so many images each in a half."""
    return np.tile(np.repeat(np.random.default_rng(people).permutation(50)[:people], images), 2)


PAIRS = jax.jit(lba.pairs)


@given(st.sampled_from([(5, 4), (3, 2), (2, 1), (8, 4)]), st.integers(0, 2**31))
def test_pairs_are_of_the_other_half(shape, seed):
    """Positives are a bijection within an identity, negatives of an identity are of K others and K places."""
    (p, k), y = shape, order_of(*shape)
    positive, negative = (np.asarray(rows) for rows in PAIRS(jax.random.key(seed), y))
    second = np.arange(2 * p * k) >= p * k
    for rows in (positive, negative):
        np.testing.assert_array_equal(second[rows], ~second)
    np.testing.assert_array_equal(np.sort(positive), np.arange(2 * p * k))
    np.testing.assert_array_equal(y[positive], y)
    for rows in np.arange(2 * p * k).reshape(-1, k):
        others = y[negative[rows]]
        assert len({*others, y[rows[0]]}) == k + 1
        np.testing.assert_array_equal(np.sort(negative[rows] % k), np.arange(k))


def test_every_pair_is_drawn_as_often_as_any_other():
    y, keys = jnp.asarray(order_of(4, 2)), jax.random.split(jax.random.key(0), 4000)
    positive, negative = (np.asarray(rows) for rows in jax.jit(jax.vmap(lambda key: lba.pairs(key, y)))(keys))
    for row in range(16):
        for rows, choices in ((positive, 2), (negative, 6)):
            counts = np.bincount(rows[:, row], minlength=16)
            assert (counts > 0).sum() == choices
            share = 1 / choices
            assert np.abs(counts[counts > 0] / 4000 - share).max() < 5 * np.sqrt(share * (1 - share) / 4000)
    # each direction, and each call, has draws of its own
    back = np.take_along_axis(positive, positive, axis=1) == np.arange(16)
    assert abs(back.mean() - 0.5) < 0.05


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        (np.repeat(np.arange(4), 4), "the same identities in both: --config.data.sampler=replacement"),
        (np.zeros(7), "the same identities in both"),
        (np.tile(np.repeat(np.arange(4), 4), 2), r"data\.identities=4 and data\.images=8 has 3 others .*needs 4: "),
    ],
)
def test_a_batch_that_gives_no_pairs_is_refused(identity, message):
    with pytest.raises(ValueError, match=message):
        lba.check_batch(identity)
    lba.check_batch(order_of(5, 4))
    assert lba.build(**SMALL, consistency=0.0, dense=0.0).check_batch is None


SMALL = {"identities": 6, "size": (32, 16), "stages": (1, 1), "width": 5, "bottleneck": False}
ROWS = order_of(6, 2) % 6


def small_batch():
    """6 identities, 2 images of each in a half; their colours differ."""
    rows = np.random.default_rng(0).standard_normal((len(ROWS), 32, 16, 3)).astype(np.float32)
    return {"image": rows, "identity": np.unique(ROWS, return_inverse=True)[1], "modality": np.repeat([0, 1], 12)}


@functools.cache
def small_step(**how):
    """Terms, and collections, of a small network by its own draws."""
    system = lba.build(**SMALL, **how)
    params, collections = jax.jit(system.init)(KEY)
    return system, params, collections, jax.jit(system.loss)


def test_the_loss_draws_its_pairs_from_its_key_and_weighs_its_terms():
    _, params, stats, loss = small_step()
    b = small_batch()
    total, (terms, after) = loss(params, stats, b, KEY, EPOCH)
    backbone = {name: value for name, value in SMALL.items() if name not in ("identities", "size")}
    model = agw.Network(6, resnet.built(**backbone, stem_of_modality=True), "gem")
    rows = tuple(lba.pairs(key, b["identity"]) for key in jax.random.split(KEY))
    found, by_hand = jax.jit(lambda *a: lba.passes(model, *a, 0.3))({"params": params, **stats}, b, rows)
    for name, value in lba.terms_of(found, b["identity"], margin=0.3, cross_batch=False).items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5, err_msg=name)
    parts = {name: sum(v for n, v in terms.items() if n.startswith(name)) for name in ("consistency", "dense")}
    np.testing.assert_allclose(
        total, terms["identity"] + terms["triplet"] + parts["consistency"] + 0.5 * parts["dense"], rtol=1e-6
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), after, by_hand)
    _, (others, _) = loss(params, stats, b, jax.random.key(1), EPOCH)
    assert others["identity"] == terms["identity"]
    assert others["dense_lower"] != terms["dense_lower"]
    _, (crossed, _) = small_step(cross_batch=True)[3](params, stats, b, KEY, EPOCH)
    assert crossed["dense_upper"] != terms["dense_upper"]
    assert crossed["consistency_upper"] == terms["consistency_upper"]


def close(a, b):
    return jax.tree.all(jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-5, atol=1e-6), a, b))


def test_the_baseline_aligns_nothing():
    """One pass through every layer: the first of the whole loss's."""
    _, params, stats, loss = small_step(consistency=0.0, dense=0.0)
    total, (terms, after) = loss(params, stats, small_batch(), KEY, EPOCH)
    assert terms.keys() == {"identity", "triplet"}
    whole, (every, twice) = small_step()[3](params, stats, small_batch(), KEY, EPOCH)
    np.testing.assert_allclose(total, every["identity"] + every["triplet"], rtol=1e-6)
    same = {
        name: close(after["batch_stats"]["backbone"][name], twice["batch_stats"]["backbone"][name])
        for name in after["batch_stats"]["backbone"]
    }
    assert whole != total
    assert same == {"visible_stem": True, "infrared_stem": True, "layer1": True, "layer2": False}


def test_one_stem_and_one_modality_pair_the_same_rows():
    """Two halves of whatever images: the modality chooses a stem and nothing else."""
    _, params, stats, loss = small_step(stem_of_modality=False)
    b = small_batch()
    found = [loss(params, stats, b | {"modality": m}, KEY, EPOCH)[1][0] for m in (b["modality"], 0 * b["modality"])]
    assert equal(*found)


def shapes(jaxpr):
    """Of every array in a program."""
    for equation in jaxpr.eqns:
        yield from (v.aval.shape for v in equation.outvars)
        for inner in jaxprs_in_params(equation.params):
            yield from shapes(inner)


def over_pairs_of_images(function, *arguments):
    """Shapes of the arrays that hold something for each pair of the 24 images."""
    return {shape for shape in shapes(jax.make_jaxpr(function)(*arguments).jaxpr) if shape.count(24) > 1}


@pytest.mark.parametrize("cross_batch", [False, True])
def test_no_array_is_over_pairs_of_images_and_positions(cross_batch):
    """As the released weighting broadcasts: there are the distances of the pooled features, of 10 channels, alone."""
    system, params, stats, _ = small_step(cross_batch=cross_batch)
    gradient = jax.value_and_grad(system.loss, has_aux=True)
    assert over_pairs_of_images(gradient, params, stats, small_batch(), KEY, EPOCH) == {(24, 24), (24, 24, 10)}
    maps = jnp.ones((2, 24, 8, 4))
    assert over_pairs_of_images(lambda a, b: (a[:, None] * b).mean(), *maps) == {(24, 24, 8, 4)}


def test_images_are_flipped_and_nothing_else():
    pixel = np.random.default_rng(0).integers(0, 256, (400, 3, 2, 3), np.uint8)
    system = small_step()[0]
    found = np.asarray(system.augment(jax.random.key(3), {"image": pixel})["image"])
    plain = np.asarray(normalise(pixel))
    kept, flipped = ((np.abs(found - x) < 1e-5).all((1, 2, 3)) for x in (plain, plain[:, :, ::-1]))
    assert (kept != flipped).all()
    assert abs(flipped.mean() - 0.5) < 5 * 0.5 / np.sqrt(400)
