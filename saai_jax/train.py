"""One training step as a pure function, and the loop that repeats it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int, Key

from saai_jax import losses, parallel
from saai_jax.augment import Grayscale, augment
from saai_jax.checkpoint import Checkpoints
from saai_jax.log import MetricsLog, log_line, progress
from saai_jax.models.saai import teacher_logits
from saai_jax.state import TrainState, adam_l2


class Recipe(NamedTuple):
    """The numbers and switches of a step; the defaults are the released ones, in units of the loss or of pixels."""

    separation: float = 1.0
    diversity: float = 0.25
    rho1: float = 0.01
    rho2: float = 0.7
    diversity_variant: losses.Variant = "released"
    mutual_variant: losses.Variant = "released"
    weight_decay: float = 5e-4
    pad: int = 10
    erasing: float = 0.5
    grayscale: Grayscale = "channel"


def learning_rate(
    epoch: Int[np.ndarray, s], *, base: float, warmup: int, milestones: tuple[int, ...], decay: float
) -> Float[np.ndarray, s]:
    """Rate of each step by its epoch (from 0): linear warm-up over `warmup` epochs, then a factor at each milestone."""
    warm = np.minimum((epoch + 1) / max(warmup, 1), 1)
    return base * warm * decay ** np.searchsorted(np.asarray(milestones), epoch, side="right")


def teacher_rate(epoch: Int[np.ndarray, s], *, base: float) -> Float[np.ndarray, s]:
    """How far the mean classifiers move to their classifiers at each step: min(100 / (e + 2), 1) base, epoch from 0."""
    return base * np.minimum(100 / (epoch + 2), 1)


def loss_terms(
    params: dict,
    batch_stats: dict,
    teacher: dict[str, Float[Array, "d k"]],
    image: Float[Array, "b h w 3"],
    identity: Int[Array, b],
    modality: Int[Array, b],
    *,
    model: nn.Module,
    recipe: Recipe,
) -> tuple[Float[Array, ""], tuple[dict[str, Float[Array, ""]], dict]]:
    """Total loss (Eq. 11), and its unweighted terms with the next running statistics; training mode."""
    output, updated = cast(Any, model.apply)(
        {"params": params, "batch_stats": batch_stats}, image, modality, train=True, mutable=["batch_stats"]
    )
    own = jnp.where((modality == 0)[:, None], output.visible, output.infrared)
    other_mean = teacher_logits(output.embedding, modality, teacher)
    terms = {
        "shared": losses.shared_identity(output.shared, identity),
        "specific": losses.specific_identity(own, identity, modality),
        "mutual": losses.mutual_identity(own, other_mean, modality, variant=recipe.mutual_variant),
        "separation": losses.centre_separation(output.feature, identity, rho1=recipe.rho1, rho2=recipe.rho2),
        "diversity": losses.part_diversity(output.similarity, variant=recipe.diversity_variant),
    }
    total = (
        terms["shared"]
        + terms["specific"]
        + terms["mutual"]
        + recipe.separation * terms["separation"]
        + recipe.diversity * terms["diversity"]
    )
    return total, (terms, updated["batch_stats"])


def update(
    state: TrainState,
    image: Float[Array, "b h w 3"],
    identity: Int[Array, b],
    modality: Int[Array, b],
    rate: Float[Array, ""],
    follow: Float[Array, ""],
    *,
    model: nn.Module,
    recipe: Recipe,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One optimiser step on normalised images; rate and follow are the learning and the teacher rate.

    The teachers move before they are used and before the classifiers do, as released. A step whose loss or gradient is
    not finite changes nothing but the step's number; metrics["finite"] is false then.
    """
    teacher = {
        name: (1 - follow) * mean + follow * state.params[f"{name}_classifier"]["kernel"]
        for name, mean in state.teacher.items()
    }
    gradient_of = jax.value_and_grad(loss_terms, has_aux=True)
    (loss, (terms, batch_stats)), gradient = gradient_of(
        state.params, state.batch_stats, teacher, image, identity, modality, model=model, recipe=recipe
    )
    direction, opt_state = adam_l2(recipe.weight_decay).update(gradient, state.opt_state, state.params)
    params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
    metrics = {"loss": loss, **terms, "gradient_norm": optax.tree.norm(gradient)}
    finite = jnp.isfinite(loss) & jnp.isfinite(metrics["gradient_norm"])
    new, old = (
        (params, batch_stats, teacher, opt_state),
        (state.params, state.batch_stats, state.teacher, state.opt_state),
    )
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
    return TrainState(state.step + 1, *kept), metrics | {"finite": finite}


@functools.partial(jax.jit, static_argnames=("model", "recipe"), donate_argnames="state")
def train_step(
    state: TrainState,
    batch: dict[str, Array],
    rate: Float[Array, ""],
    follow: Float[Array, ""],
    key: Key[Array, ""],
    *,
    model: nn.Module,
    recipe: Recipe,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """Augments a batch of uint8 images, with draws that depend on the step alone, and updates the state."""
    image = augment(
        jax.random.fold_in(key, state.step),
        batch["image"],
        pad=recipe.pad,
        erasing=recipe.erasing,
        kind=recipe.grayscale,
    )
    return update(state, image, batch["identity"], batch["modality"], rate, follow, model=model, recipe=recipe)


class NotFinite(FloatingPointError):
    """A step whose loss or gradient is not finite, counted from 1, with its terms by name."""

    def __init__(self, step: int, terms: dict[str, float]):
        super().__init__(f"the loss of step {step} is {terms['loss']}: {terms}")
        self.step, self.terms = step, terms


class Stopped(Exception):
    """Training was asked to end after so many steps, and has saved them."""

    def __init__(self, step: int):
        super().__init__(f"stopped after step {step}, which is saved; the same command goes on from there")


def fit(
    state: TrainState,
    batches: Iterable[dict[str, np.ndarray]],
    epoch: Int[np.ndarray, s],
    rate: Float[np.ndarray, s],
    follow: Float[np.ndarray, s],
    *,
    model: nn.Module,
    recipe: Recipe,
    seed: int,
    mesh: Mesh,
    checkpoints: Checkpoints,
    log: MetricsLog,
    log_every: int,
    save_every: int,
    validate: Callable[[dict], dict[str, float]] | None,
    validate_every: int,
    skip_not_finite: bool = False,
    stop: Callable[[int], bool] = lambda step: False,
) -> TrainState:
    """Trains from state.step to the end of the plan and returns the last state.

    epoch, rate, follow: of every step of the whole run; batches: those from state.step on, this process's rows of them,
    which are spread over the mesh. At the end of every `validate_every`-th epoch `validate` scores the variables, and
    of every `save_every`-th, and whenever it was scored, the state is saved; at the last step both are done.

    Raises NotFinite for a step whose loss or gradient is not finite, before anything of it is saved; skip_not_finite
    leaves such steps out instead, unless all of an epoch are. Raises Stopped when `stop` of a step says so, after
    saving it.
    """
    steps, start = len(epoch), int(state.step)
    key = jax.jit(jax.random.key, out_shardings=NamedSharding(mesh, jax.P()))(seed)
    state = parallel.replicate(state, mesh)
    bar = progress(batches, total=steps, description="train", initial=start)
    # Good steps of the epoch; of one that is resumed within, the earlier ones are taken to be.
    unchecked, good = None, int(0 < start < steps and epoch[start] == epoch[start - 1])

    def check(step: int, metrics: dict[str, Array]) -> int:
        """1 for a good step, 0 for one that was left out."""
        if bool(metrics["finite"]):
            return 1
        terms = {name: float(value) for name, value in metrics.items() if name != "finite"}
        if not skip_not_finite:
            raise NotFinite(step, terms)
        log.write(step, "skipped", **{name: str(value) for name, value in terms.items()})
        log_line("step %d is left out: %s", step, terms)
        return 0

    for step, batch in enumerate(bar, start + 1):
        e = int(epoch[step - 1])
        spread = parallel.split(batch, mesh)
        state, metrics = train_step(state, spread, rate[step - 1], follow[step - 1], key, model=model, recipe=recipe)
        # One step late, so that the device never waits for the host to look.
        good += check(*unchecked) if unchecked else 0
        unchecked = step, metrics
        epoch_ends, stopping = step == steps or epoch[step] != e, stop(step)
        if not (step % log_every == 0 or epoch_ends or stopping):
            continue
        unchecked, finite = None, check(step, metrics)
        good += finite
        if finite and (step % log_every == 0 or epoch_ends):
            values = {name: float(value) for name, value in metrics.items() if name != "finite"}
            log.write(step, "train", epoch=e, **values, learning_rate=float(rate[step - 1]))
        scores = {}
        if epoch_ends:
            if not good:
                raise FloatingPointError(f"epoch {e + 1}: no step had a finite loss and gradient")
            good = 0
            if validate and ((e + 1) % validate_every == 0 or step == steps):
                scores = validate({"params": state.params, "batch_stats": state.batch_stats})
                log.write(step, "validation", epoch=e, **scores)
            shown = "".join(f", validation {name} {value:.2f}" for name, value in scores.items())
            log_line("epoch %d: loss %.3f%s", e + 1, float(metrics["loss"]), shown)
        # Whatever was scored is saved, or the best one could be lost.
        if scores or stopping or (epoch_ends and ((e + 1) % save_every == 0 or step == steps)):
            checkpoints.save(step, state, scores)
        if stopping:
            checkpoints.wait()
            raise Stopped(step)
    checkpoints.wait()
    # Asked while the last step was scored and saved; many processes agree on a step, and this one they have passed.
    if start < steps and jax.process_count() == 1 and stop(steps):
        raise Stopped(steps)
    return state
