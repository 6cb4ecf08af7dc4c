"""How much a rounding error matters in the first steps of SAAI: python -m benchmarks.sensitivity [runs]

Repeats the three-step figures of tests/test_golden_model.py with images disturbed by one part in a million, and
prints the loss of each step; the spread bounds how well any float32 implementation can repeat another.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from saai_jax import train
from saai_jax.models.saai import SAAI
from saai_jax.state import adam_l2, new_state
from tests.golden_files import load
from tests.systems.test_saai import IDENTITY, MODALITY, images, variables_of


def losses(model: SAAI, variables: dict, disturbance: np.random.Generator | None) -> list[float]:
    """Total loss of steps 0, 1 and 2."""
    step = jax.jit(train.update, static_argnames=("model", "recipe"))
    state, found = new_state(variables, adam_l2(5e-4)), []
    for s in range(3):
        image = images(100 + s)
        if disturbance:
            image *= 1 + 1e-6 * jnp.asarray(disturbance.standard_normal(image.shape, np.float32))
        rates = jnp.float32(3.5e-4), jnp.float32(0.2)
        state, metrics = step(state, image, IDENTITY, MODALITY, *rates, model=model, recipe=train.Recipe())
        found.append(float(metrics["loss"]))
    return found


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    golden = load("saai_model")
    for name, mam in (("mam0", ()), ("mam2", (3, 4))):
        model = SAAI(12, mam=mam)
        variables = variables_of(model)
        print(f"{name:5} original  ", *(f"{float(golden[f'{name}/step{s}/loss']):9.4f}" for s in range(3)))
        for run in range(runs + 1):
            label = f"disturbed {run}" if run else "as given"
            found = losses(model, variables, np.random.default_rng(run) if run else None)
            print(f"{name:5} {label:12}", *(f"{loss:9.4f}" for loss in found), flush=True)


if __name__ == "__main__":
    main()
