"""How the process holds its memory."""

from __future__ import annotations

import ctypes
import importlib.util
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of malloc.h


def keep_freed() -> bool:
    """Lets a process that computes on a CPU keep what a step frees for the next; True if it will.

    Else the C library gives large arrays back to the system, which has to hand them out page by page in every step.
    For the beginning of a program: threads keep what they started with. Nothing is done where JAX has another device
    to compute on, whose memory is its own, nor where the C library is not glibc.
    """
    if any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu")):
        return False
    if sys.platform != "linux" or not (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        return False
    return all([mallopt(M_MMAP_MAX, 0), mallopt(M_TRIM_THRESHOLD, -1), mallopt(M_ARENA_MAX, 1)])
