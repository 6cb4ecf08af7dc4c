"""The torch step that benchmarks.train_step measures does our work: same loss, gradients, statistics, augmentation."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import synthetic
from saai_jax import train
from saai_jax.augment import normalise
from saai_jax.weights.names import to_torch

torch = pytest.importorskip("torch")
from benchmarks import ours, torch_saai  # noqa: E402  the first needs torch

HEIGHT, WIDTH = 48, 24


def configured(**augment):
    """The synthetic configuration, with 4 pixels around pictures of this size unless augment says otherwise."""
    config = synthetic.get_config()
    config.data.height, config.data.width = HEIGHT, WIDTH
    config.augment.update({"pad": 4, **augment})
    return config


def recipe(**augment):
    return ours.recipe_of(configured(**augment))


@pytest.fixture(scope="module", params=[True, False], ids=["bottleneck", "basic"])
def case(request):
    """A small system, a state whose mean classifiers are not its classifiers, the same in torch, and a batch."""
    config = configured()
    config.model.update(parts=3, stages=(1, 1, 2, 1), width=8, bottleneck=request.param, mam=(3, 4))
    # Torch's loss has means that do not move; its train step moves them before.
    config.train.teacher_rate = 0.0
    system, state = ours.begun(config, 4)
    means = jax.tree.map(lambda w: w[::-1], state.collections["mean_classifiers"])
    state = state.replace(collections=state.collections | {"mean_classifiers": means})
    model = SimpleNamespace(**{**config.model, "identities": 4})
    network = torch_saai.network(model, ours.recipe_of(config), to_torch(system, state.variables)).train()
    return system, state, network, ours.batch_of(32, HEIGHT, WIDTH)


def tensors(batch):
    image = torch.tensor(np.asarray(normalise(jnp.asarray(batch["image"])))).permute(0, 3, 1, 2)
    rows = [torch.from_numpy(np.flatnonzero(batch["modality"] == m)) for m in (0, 1)]
    return image, torch.tensor(batch["identity"]).long(), *rows


def test_torch_computes_our_loss_gradients_and_statistics(case):
    system, state, network, batch = case
    gradient_of = jax.jit(jax.value_and_grad(system.loss, has_aux=True))
    given = batch | {"image": normalise(jnp.asarray(batch["image"]))}
    (loss, (_, after)), gradient = gradient_of(state.params, state.collections, given, jax.random.key(0), jnp.int32(0))
    other = network(*(x.to(next(network.parameters()).device) for x in tensors(batch)))
    np.testing.assert_allclose(other.item(), loss, rtol=1e-4)
    network.zero_grad()
    other.backward()
    ours = to_torch(system, {"params": gradient, "batch_stats": after["batch_stats"]})
    theirs = dict(network.named_parameters()) | dict(network.named_buffers())
    largest = max(float(np.linalg.norm(g)) for n, g in ours.items() if "running" not in n)
    for name, expected in ours.items():
        found = theirs[name].grad if theirs[name].requires_grad else theirs[name]
        np.testing.assert_allclose(found.cpu(), expected, rtol=1e-2, atol=1e-3 * largest, err_msg=name)


def test_xla_counts_the_operations_that_torch_does(case):
    from torch.utils.flop_counter import FlopCounterMode

    system, state, network, batch = case
    step = train.train_step.lower(state, batch, 0.1, jnp.int32(0), jax.random.key(0), system=system)
    given = [x.to(next(network.parameters()).device) for x in tensors(batch)]
    with FlopCounterMode(display=False) as counter:
        network(*given).backward()
    # Torch counts products only, and those with the zeros around a map too, which is a small one here.
    assert 0.7 < step.cost_analysis()["flops"] / counter.get_total_flops() < 1.5


def test_torch_augments_as_we_do():
    torch.manual_seed(0)
    image = np.random.default_rng(0).integers(0, 256, (64, HEIGHT, WIDTH, 3), np.uint8)
    plain = torch_saai.augment(torch.from_numpy(image), recipe(pad=0, erasing=0.0)).permute(0, 2, 3, 1).numpy()
    expected = np.asarray(normalise(image / 255.0))
    coloured = flipped = 0
    for found, own, raw in zip(plain, expected, image, strict=True):
        grey = [np.asarray(normalise(np.repeat(raw[..., c : c + 1], 3, 2) / 255.0)) for c in range(3)]
        fits = [np.allclose(found, x[:, ::way], atol=1e-5) for x in (own, *grey) for way in (1, -1)]
        assert sum(fits) == 1
        coloured, flipped = coloured + any(fits[:2]), flipped + any(fits[1::2])
    assert 32 < coloured < 60  # 8 of 11 of them
    assert 16 < flipped < 48
    noisy = torch_saai.augment(torch.from_numpy(image), recipe())
    assert noisy.shape == (64, 3, HEIGHT, WIDTH)
    erased = torch_saai.erased(2000, HEIGHT, WIDTH, 0.5, torch.device("cpu")).float().mean((1, 2))
    assert abs((erased > 0).float().mean() - 0.5) < 0.05
    assert 0.1 < erased[erased > 0].mean() < 0.25


def test_a_padded_crop_is_mirrored_at_the_edge():
    torch.manual_seed(1)
    ramp = torch.arange(HEIGHT, dtype=torch.uint8)[None, :, None, None].expand(64, HEIGHT, WIDTH, 3)
    x = torch_saai.augment(ramp, recipe(pad=4, erasing=0.0))[:, 0, :, 0] * 0.229 + 0.485
    starts = {tuple(row[:5]) for row in (255 * x).round().int().tolist()}
    padded = [*range(3, -1, -1), *range(HEIGHT)]
    assert starts <= {tuple(padded[i : i + 5]) for i in range(9)}
    assert len(starts) > 5
