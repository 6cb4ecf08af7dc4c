"""How much a rounding error matters in the first steps of a system: python -m benchmarks.sensitivity [runs] [case ...]

Repeats the first three steps of the figures of the originals (tests/systems), of the named cases or of all, with images
disturbed by one part in a million, and prints the loss of each step; the spread bounds how well any float32
implementation can repeat another.
"""

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from saai_jax import train
from saai_jax.models import cpu
from saai_jax.systems import agw, mpanet, saai
from saai_jax.systems.system import System
from tests.golden_files import load
from tests.systems import test_agw, test_mpanet
from tests.systems.originals import images, of, variables_of
from tests.tensors import tensor


class Case(NamedTuple):
    """A system with the original's weights, what its batches have beside images of a size, its rate and its figures."""

    name: str
    system: System
    weights: Any
    batch: dict[str, jax.Array]
    size: tuple[int, int]
    rate: float
    golden: dict[str, np.ndarray]


def cases() -> Iterator[Case]:
    """Those of tests/systems: SAAI without and with modality attention, AGW and its base method, MPANet."""
    how = {"identities": 12, "convolution": cpu.convolution}
    of_mpanet = {"identity": test_mpanet.IDENTITY, "modality": test_mpanet.MODALITY}  # and of SAAI
    of_agw = {"identity": test_agw.IDENTITY, "modality": test_agw.MODALITY}
    size = 288, 144
    for name, mam in (("mam0", ()), ("mam2", (3, 4))):
        system = saai.build(size=size, teacher_rate=0.2, mam=mam, **how)
        yield Case(name, system, tensor, of_mpanet, size, 3.5e-4, of(load("saai"), f"{name}/"))
    for name, method in test_agw.METHODS.items():
        system = agw.build(size=size, **method, **how)
        yield Case(name, system, test_agw.scaled, of_agw, size, 0.01, of(load("agw"), f"{name}/"))
    system = mpanet.build(size=(384, 128), mam=(3, 4), **how)
    yield Case("mpanet", system, tensor, of_mpanet, (384, 128), 3.5e-4, load("mpanet"))


def losses(case: Case, run: int) -> list[float]:
    """Total loss of the three steps; images are disturbed by the random numbers of a run from 1 on."""
    random, by, found = np.random.default_rng(run), 1e-6 if run else 0.0, []
    variables = variables_of(case.system, case.weights)
    state = train.new_state(case.system, variables.pop("params"), variables)
    step = jax.jit(train.update, static_argnames="system")
    for number in range(3):
        image = images(100 + number, *case.size)
        image *= 1 + by * random.standard_normal(image.shape, np.float32)
        given = {**case.batch, "image": image}
        state, metrics = step(state, given, case.rate, 0, jax.random.key(0), system=case.system)
        found.append(float(metrics["loss"]))
    return found


def main() -> None:
    runs, named = int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2:]
    for case in cases():
        if named and case.name not in named:
            continue
        print(f"{case.name:7} original    ", *(f"{float(case.golden[f'step{s}/loss']):9.4f}" for s in range(3)))
        for run in range(runs + 1):
            label = f"disturbed {run}" if run else "as given"
            print(f"{case.name:7} {label:12}", *(f"{loss:9.4f}" for loss in losses(case, run)), flush=True)


if __name__ == "__main__":
    main()
