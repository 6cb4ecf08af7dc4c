"""Where a gallery lies: its images are spread over the devices of a mesh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

AXIS = "gallery"  # the mesh axis over which gallery images are spread


def gallery_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over which a gallery is spread: the given devices, by default all (of all processes)."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))


def place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A host array on the devices of a sharding, those of other processes included (which hold the same array)."""
    return jax.make_array_from_callback(array.shape, sharding, lambda part: array[part])
