"""How much a rounding error matters in the first steps of SAAI: python -m benchmarks.sensitivity [runs]

Repeats the three-step figures of tests/systems/test_saai.py with images disturbed by one part in a million, and
prints the loss of each step; the spread bounds how well any float32 implementation can repeat another.
"""

import sys

import jax
import numpy as np

from saai_jax import train
from saai_jax.models import cpu
from saai_jax.systems import saai
from saai_jax.systems.system import System
from tests.golden_files import load
from tests.systems.test_saai import batch, state_of


def losses(system: System, run: int) -> list[float]:
    """Total loss of the three steps; images are disturbed by the random numbers of a run from 1 on."""
    random, by, found = np.random.default_rng(run), 1e-6 if run else 0.0, []
    step, state = jax.jit(train.update, static_argnames="system"), state_of(system)
    for number in range(3):
        given = batch(100 + number)
        given["image"] *= 1 + by * random.standard_normal(given["image"].shape, np.float32)
        state, metrics = step(state, given, 3.5e-4, 0, jax.random.key(0), system=system)
        found.append(float(metrics["loss"]))
    return found


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    golden = load("saai")
    for name, mam in (("mam0", ()), ("mam2", (3, 4))):
        how = {"size": (288, 144), "teacher_rate": 0.2, "convolution": cpu.convolution}
        system = saai.build(identities=12, mam=mam, **how)
        print(f"{name:5} original  ", *(f"{float(golden[f'{name}/step{s}/loss']):9.4f}" for s in range(3)))
        for run in range(runs + 1):
            label = f"disturbed {run}" if run else "as given"
            print(f"{name:5} {label:12}", *(f"{loss:9.4f}" for loss in losses(system, run)), flush=True)


if __name__ == "__main__":
    main()
