"""One program on all devices of all processes: a batch is split over them, everything else is whole on each."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Float

AXIS = "batch"  # the mesh axis over which the images of a batch are spread
Tree = TypeVar("Tree")
# How a message of C++'s log begins, with what the file is about that wrote it.
RECORD = re.compile(r"[IWEF]\d{4} .*?(coordination|preemption)?\w*\.\w+:\d+\]")
ABORT = "Terminating process because the JAX distributed service"


def connect(wait: int, silence: int, **where: Any) -> None:
    """jax.distributed.initialize, after which a process that others leave alone ends with one line and exit status 1.

    wait: seconds until all have to be there; silence: after which one is taken for dead. JAX ends with C++'s abort and
    a stack of a hundred lines, which nothing in Python can catch: what C++ writes goes through a pipe, and the process
    ends when the abort is announced there.
    """
    own, (reading, writing) = os.fdopen(os.dup(2), "w", buffering=1), os.pipe()
    os.dup2(writing, 2)
    sys.stderr = own
    logging.get_absl_handler().python_handler.setStream(own)
    why = f"not all processes came to {where.get('coordinator_address', 'the coordinator')} in {wait} s"

    def watch() -> None:
        hidden = False
        for line in os.fdopen(reading, errors="replace"):
            if ABORT in line:
                print(f"launch.py: process {where.get('process_id', 'on this host')} stops, {why}", file=own)
                with contextlib.suppress(OSError, ValueError):
                    sys.stdout.flush()
                os._exit(1)
            if record := RECORD.match(line):
                hidden = bool(record[1])
            if not hidden:
                own.write(line)

    threading.Thread(target=watch, daemon=True).start()
    jax.distributed.initialize(**where, initialization_timeout=wait, heartbeat_timeout_seconds=silence)
    why = "another one is gone, or gives no sign of life"


def batch_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over which batches are spread: the given devices, by default all, in the order of their processes."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """The arrays, which every process has, whole on each device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, jax.P()))


def local_copy(tree: Tree) -> Tree:
    """This process's own copies of arrays that are whole on each device."""
    return jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, tree)


def split(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """A batch's rows spread over the mesh; each process gives its own, those of the first process come first."""
    over = NamedSharding(mesh, jax.P(AXIS))
    return {name: jax.make_array_from_process_local_data(over, array) for name, array in batch.items()}


def check_divides(batch: int, mesh: Mesh) -> None:
    """Raises ValueError for a batch that cannot be spread evenly."""
    if batch % mesh.size:
        raise ValueError(
            f"a batch of {batch} images cannot be spread evenly over {mesh.size} devices; change data.identities, "
            "data.images, or the devices that JAX sees (CUDA_VISIBLE_DEVICES)"
        )


def primary() -> bool:
    """Whether this process is the one that writes files."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def check_agreed(number: int, what: str) -> None:
    """Raises ValueError if the processes have not all the same number (storage may show them other files)."""
    found = np.unique(multihost_utils.process_allgather(np.int64(number))) if jax.process_count() > 1 else [number]
    if len(found) > 1:
        raise ValueError(f"the processes do not agree on {what}: {list(map(int, found))}")


def share(rows: int) -> slice:
    """The rows that are this process's part of so many, contiguous and as equal as can be."""
    first, last = (i * rows // jax.process_count() for i in (jax.process_index(), jax.process_index() + 1))
    return slice(first, last)


def gathered(part: Float[np.ndarray, "r d"], rows: int) -> Float[np.ndarray, "n d"]:
    """All rows on every process, from the `share` that each of them has."""
    if jax.process_count() == 1:
        return part
    longest = -(-rows // jax.process_count())
    parts = multihost_utils.process_allgather(np.pad(part, ((0, longest - len(part)), (0, 0))))
    bounds = [i * rows // jax.process_count() for i in range(jax.process_count() + 1)]
    return np.concatenate([p[: b - a] for p, a, b in zip(parts, bounds, bounds[1:], strict=False)])


@contextlib.contextmanager
def termination() -> Iterator[Callable[[int], int]]:
    """Within the block SIGTERM and Ctrl-C end nothing, but make this function of the step the signal instead of 0.

    At one step in all processes.
    """
    many, received = jax.process_count() > 1, []

    def receive(number: int, _: object) -> None:
        received.append(number)
        if many:
            os.kill(os.getpid(), signal.SIGTERM)

    # Of many processes JAX took SIGTERM over when they were connected, and agrees on a step among them.
    taken = [signal.SIGINT] if many else [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.signal(number, receive) for number in taken}
    agreed = multihost_utils.reached_preemption_sync_point if many else lambda step: bool(received)
    try:
        yield lambda step: (received or [signal.SIGTERM])[0] if agreed(step) else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
