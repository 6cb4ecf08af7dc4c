"""What keeps freed memory, in processes of its own: it cannot be taken back."""

import subprocess
import sys

import pytest

from saai_jax import memory

FAULTS = """
import ctypes, resource, sys
from saai_jax import memory
kept = memory.keep_freed() if sys.argv[1] == "kept" else None
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
faults = []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    place = libc.malloc(256 << 20)
    ctypes.memset(ctypes.c_void_p(place), 1, 256 << 20)
    libc.free(place)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, faults[-1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own")
def test_what_is_freed_is_not_asked_for_again():
    printed = [
        subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout.split()
        for how in ("kept", "freed")
    ]
    if printed[0][0] == "False":
        pytest.skip("another C library, or another device")
    assert int(printed[0][1]) < 100
    assert int(printed[1][1]) > 10 * int(printed[0][1])


def test_nothing_is_done_beside_another_device(monkeypatch):
    monkeypatch.setattr(memory.importlib.util, "find_spec", lambda name: object() if name == "jax_plugins" else None)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda *_: pytest.fail("changed"))
    assert memory.keep_freed() is False
