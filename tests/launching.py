"""launch.py as a user runs it, in a process of its own, and the environment of every process of the tests."""

import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from input_pipeline import synthetic

ROOT = Path(__file__).parent.parent
TINY = "--config=configs/synthetic.py:tiny"

# Most of the suite's time is compilation of programs that run once: they are compiled quickly rather than well.
QUICK = "--xla_backend_optimization_level=0"
if version("jaxlib").startswith("0.10."):  # later ones do not know it and end
    QUICK += " --xla_cpu_use_fusion_emitters=false"
ENVIRONMENT = {
    "MPLBACKEND": "Agg",
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "XLA_FLAGS": QUICK,
    "MALLOC_MMAP_THRESHOLD_": "1048576",  # what a worker frees goes back: ResNet-50's figures hold 3.9 GB, else 5.2
    **os.environ,
}

# To import the libraries takes longer than most command lines: one process does, and launches are forked from it. It
# never asks JAX for devices, or it could not be forked.
FORKS = multiprocessing.get_context("forkserver")
PRELOADED = ["ml_collections.config_flags", "modes.folders", "modes.reporting", "modes.studies"]
FORKS.set_forkserver_preload([*PRELOADED, "scipy.stats", "sklearn.manifold"])  # which launch.py imports when needed


def drawn(root: Path, layout: str = "sysu") -> Path:
    """root, which holds the tiny set: launch.py would draw it by processes that import everything first."""
    synthetic.write(root, layout=layout, size="tiny", processes=1)
    return root


class Forked:
    """A launch that is forked, with what benchmarks.faults asks of a subprocess.Popen; all it prints is one text."""

    def __init__(self, command: list[str], *, env: dict[str, str], **files):
        del files  # where a Popen would print and start
        self._output = tempfile.NamedTemporaryFile("r")  # noqa: SIM115  lives as long as this
        self._process = FORKS.Process(target=_run, args=(command[1:], env, self._output.name))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, how: int) -> None:
        if self.returncode is None:
            os.kill(self._process.pid, how)

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[None, str]:
        self._process.join(timeout)
        if self.returncode is None:
            raise TimeoutError(f"launch.py is still running after {timeout} s")
        return None, self._output.read()


def launch(*arguments, code: int = 0, fresh: bool = False, optimised: bool = False) -> str:
    """Everything the command prints; its exit code is asserted.

    fresh: by a Python of its own, which imports anew. optimised: compiled as for users, where much is computed.
    """
    command = [sys.executable, "launch.py", *map(str, arguments)]
    environment = os.environ | ({"XLA_FLAGS": ""} if optimised else {})
    files = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    start = subprocess.Popen if fresh else Forked
    process = start(command, cwd=ROOT, env=environment, **files)
    printed = "".join(filter(None, process.communicate()))
    assert process.returncode == code, printed
    assert code != 1 or "Traceback" not in printed, printed
    return printed


def _run(words: list[str], environment: dict[str, str], output: str) -> None:
    gc.freeze()  # what was imported is not searched for garbage again and again
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT)
    os.environ.update(environment)
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
