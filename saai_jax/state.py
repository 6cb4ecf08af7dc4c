"""What training changes from step to step, and nothing else."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float, Int


@struct.dataclass
class TrainState:
    """All of a run's position: the plan, the augmentation and the rates are functions of `step`.

    teacher: kernels f[d k] of the mean classifiers, "visible" and "infrared".
    """

    step: Int[Array, ""]
    params: dict
    batch_stats: dict
    teacher: dict[str, Float[Array, "d k"]]
    opt_state: optax.OptState


def adam_l2(weight_decay: float) -> optax.GradientTransformation:
    """Adam's direction with L2 added to the gradient first (torch.optim.Adam's weight_decay, not AdamW's)."""
    b1, b2, eps = 0.9, 0.999, 1e-8
    adam = optax.chain(optax.add_decayed_weights(weight_decay), optax.scale_by_adam(b1, b2, eps))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        _, (decayed, moved) = cast(Any, adam.update(updates, state, params))
        # From the moments as they are kept: a CPU's compiler otherwise computes both a second time for the direction,
        # and copies what it then cannot overwrite.
        m, v = jax.tree.map(jax.lax.optimization_barrier, (moved.mu, moved.nu))
        of_m, of_v = optax.tree.bias_correction(m, b1, moved.count), optax.tree.bias_correction(v, b2, moved.count)
        direction = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), of_m, of_v)
        return direction, (decayed, moved._replace(mu=m, nu=v))

    return optax.GradientTransformation(adam.init, update)


def teacher_of(params: dict) -> dict[str, Float[Array, "d k"]]:
    """The mean classifiers at the start: copies of the modality classifiers."""
    return {name: jnp.array(params[f"{name}_classifier"]["kernel"], copy=True) for name in ("visible", "infrared")}


def initial_variables(model: nn.Module, height: int, width: int, *, seed: int) -> dict:
    """Freshly drawn parameters and statistics of a model for images of this size (pixels)."""
    # rbg compiles in half the time of the default generator, and a model's first weights are drawn once.
    key = jax.random.key(seed, impl="rbg")
    image, modality = jnp.zeros((1, height, width, 3)), jnp.zeros((1,), jnp.int32)
    return jax.jit(lambda key: model.init(key, image, modality))(key)


def new_state(variables: dict, optimiser: optax.GradientTransformation, teacher: dict | None = None) -> TrainState:
    """Step 0 from a model's variables; the teacher starts as its classifiers unless one is given."""
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables["batch_stats"],
        teacher=teacher_of(params) if teacher is None else teacher,
        opt_state=optimiser.init(params),
    )
