"""Figures of the originals, kept in tests/golden."""

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "golden"


def load(name: str) -> dict[str, np.ndarray]:
    """The arrays of tests/golden/<name>.npz."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)
