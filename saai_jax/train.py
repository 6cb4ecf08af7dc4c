"""One training step as a pure function, and the loop that repeats it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int, Key, Shaped

from saai_jax import parallel
from saai_jax.checkpoint import Checkpoints
from saai_jax.log import MetricsLog, log_line, progress
from saai_jax.systems.system import Batch, System, Tree

Scalar = Shaped[Array, ""]


@struct.dataclass
class TrainState:
    """All of a run's position: the plan, the draws and the rate are functions of `step`."""

    step: Int[Array, ""]
    params: Tree
    collections: Tree  # running statistics, mean classifiers: what moves without a gradient
    opt_state: optax.OptState

    @property
    def variables(self) -> Tree:
        """What System.embed and System.maps take."""
        return {"params": self.params, **self.collections}


def new_state(system: System, params: Tree, collections: Tree) -> TrainState:
    """Step 0 from a system's variables."""
    return TrainState(jnp.zeros((), jnp.int32), params, collections, system.optimiser.init(params))


def initial_state(system: System, seed: int) -> TrainState:
    """Step 0 from freshly drawn parameters."""
    # rbg compiles in half the time of the default generator, and a network's first weights are drawn once.
    return new_state(system, *jax.jit(system.init)(jax.random.key(seed, impl="rbg")))


def learning_rate(
    epoch: Int[np.ndarray, s], *, base: float, warmup: int, milestones: tuple[int, ...], decay: float
) -> Float[np.ndarray, s]:
    """Rate of each step by its epoch (from 0): linear warm-up over `warmup` epochs, then a factor at each milestone."""
    warm = np.minimum((epoch + 1) / max(warmup, 1), 1)
    return base * warm * decay ** np.searchsorted(np.asarray(milestones), epoch, side="right")


def update(
    state: TrainState, batch: Batch, rate: Scalar, epoch: Scalar, key: Key[Array, ""], *, system: System
) -> tuple[TrainState, dict[str, Scalar]]:
    """One optimiser step on an augmented batch; the metrics are the loss, its terms by name and gradient_norm.

    A step whose loss or gradient is not finite changes nothing but the step's number; metrics["finite"] is false then.
    """
    gradient_of = jax.value_and_grad(system.loss, has_aux=True)
    (loss, (terms, collections)), gradient = gradient_of(state.params, state.collections, batch, key, epoch)
    direction, opt_state = system.optimiser.update(gradient, state.opt_state, state.params)
    params = jax.tree.map(lambda p, d: p - rate * d, state.params, direction)
    metrics = {"loss": loss, **terms, "gradient_norm": optax.tree.norm(gradient)}
    finite = jnp.isfinite(loss) & jnp.isfinite(metrics["gradient_norm"])
    new, old = (params, collections, opt_state), (state.params, state.collections, state.opt_state)
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)
    return TrainState(state.step + 1, *kept), metrics | {"finite": finite}


@functools.partial(jax.jit, static_argnames="system", donate_argnames="state")
def train_step(
    state: TrainState, batch: Batch, rate: Scalar, epoch: Scalar, key: Key[Array, ""], *, system: System
) -> tuple[TrainState, dict[str, Scalar]]:
    """Augments a batch of uint8 images, with draws that depend on key and step alone, and updates the state."""
    key = jax.random.fold_in(key, state.step)
    return update(state, system.augment(key, batch), rate, epoch, jax.random.fold_in(key, 1), system=system)


class Every(NamedTuple):
    """How often the loop does what: a line of metrics in steps, a checkpoint and a validation in epochs."""

    log: int = 50
    save: int = 1
    validate: int = 1


class NotFinite(FloatingPointError):
    """A step whose loss or gradient is not finite, counted from 1, with its terms by name."""

    def __init__(self, step: int, terms: dict[str, float]):
        super().__init__(f"the loss of step {step} is {terms['loss']}: {terms}")
        self.step, self.terms = step, terms


class Stopped(Exception):
    """Training was asked to end after so many steps, by a signal, and has saved them."""

    def __init__(self, step: int, signal: int):
        super().__init__(f"stopped after step {step}, which is saved; the same command goes on from there")
        self.signal = signal


def fit(
    state: TrainState,
    batches: Iterable[dict[str, np.ndarray]],
    epoch: Int[np.ndarray, s],
    rate: Float[np.ndarray, s],
    system: System,
    *,
    seed: int,
    mesh: Mesh,
    checkpoints: Checkpoints,
    log: MetricsLog,
    every: Every,
    validate: Callable[[Tree], dict[str, float]] | None = None,
    skip_not_finite: bool = False,
    stop: Callable[[int], int] = lambda step: 0,
) -> TrainState:
    """Trains from state.step to the end of the plan and returns the last state.

    epoch, rate: of every step of the whole run; batches: those from state.step on, this process's rows of them, which
    are spread over the mesh. At the end of every `every.validate`-th epoch `validate` scores the variables, and of
    every `every.save`-th, and whenever it was scored, the state is saved; at the last step both are done.

    Raises NotFinite for a step whose loss or gradient is not finite, before anything of it is saved; skip_not_finite
    leaves such steps out instead, unless all of an epoch are. Raises Stopped when `stop` of a step gives a signal,
    after saving it.
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
        state, metrics = train_step(state, spread, rate[step - 1], epoch[step - 1], key, system=system)
        # One step late, so that the device never waits for the host to look.
        good += check(*unchecked) if unchecked else 0
        unchecked = step, metrics
        epoch_ends, stopping = step == steps or epoch[step] != e, stop(step)
        if not (step % every.log == 0 or epoch_ends or stopping):
            continue
        unchecked, finite = None, check(step, metrics)
        good += finite
        if finite and (step % every.log == 0 or epoch_ends):
            values = {name: float(value) for name, value in metrics.items() if name != "finite"}
            log.write(step, "train", epoch=e + 1, **values, learning_rate=float(rate[step - 1]))
        scores = {}
        if epoch_ends:
            if not good:
                raise FloatingPointError(f"epoch {e + 1}: no step had a finite loss and gradient")
            good = 0
            if validate and ((e + 1) % every.validate == 0 or step == steps):
                scores = validate(state.variables)
                log.write(step, "validation", epoch=e + 1, **scores)
            shown = "".join(f", validation {name} {value:.2f}" for name, value in scores.items())
            log_line("epoch %d: loss %.3f%s", e + 1, float(metrics["loss"]), shown)
        # Whatever was scored is saved, or the best one could be lost.
        if scores or stopping or (epoch_ends and ((e + 1) % every.save == 0 or step == steps)):
            log.sync()
            checkpoints.save(step, state, scores)
        if stopping:
            checkpoints.wait()
            raise Stopped(step, stopping)
    checkpoints.wait()
    # Asked while the last step was scored and saved; many processes agree on a step, and this one they have passed.
    if start < steps and jax.process_count() == 1 and (stopping := stop(steps)):
        raise Stopped(steps, stopping)
    return state
