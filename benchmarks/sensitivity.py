"""How much a rounding error matters in the first steps of SAAI: python -m benchmarks.sensitivity [runs]

Repeats the three-step figures of tests/systems/test_saai.py with images disturbed by one part in a million, and
prints the loss of each step; the spread bounds how well any float32 implementation can repeat another.
"""

import sys

import numpy as np

from benchmarks import ours
from tests.golden_files import load
from tests.systems.test_saai import IDENTITY, MODALITY, images, variables_of


def batches(run: int):
    """The batches of the three steps; images are disturbed by the random numbers of a run from 1 on."""
    random, by = np.random.default_rng(run), 1e-6 if run else 0.0
    for step in range(3):
        image = images(100 + step)
        yield image * (1 + by * random.standard_normal(image.shape, np.float32)), IDENTITY, MODALITY


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    golden = load("saai_model")
    for name, mam in (("mam0", ()), ("mam2", (3, 4))):
        model = ours.released(12, mam)
        variables = variables_of(model)
        print(f"{name:5} original  ", *(f"{float(golden[f'{name}/step{s}/loss']):9.4f}" for s in range(3)))
        for run in range(runs + 1):
            label = f"disturbed {run}" if run else "as given"
            losses = ours.losses(model, variables, batches(run))
            print(f"{name:5} {label:12}", *(f"{loss:9.4f}" for loss in losses), flush=True)


if __name__ == "__main__":
    main()
