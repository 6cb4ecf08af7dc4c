"""launch.py as a user runs it: in a process of its own, in the environment that conftest.py sets."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
TINY = "--config=configs/synthetic.py:tiny"

# To import the libraries takes longer than most command lines: one process does, and launches are forked from it. It
# never asks JAX for devices, or it could not be forked.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["ml_collections.config_flags", "modes.folders", "modes.reporting", "modes.training"])


def launch(*arguments, code: int = 0, fresh: bool = False) -> str:
    """Everything the command prints; its exit code is asserted. fresh: by a Python of its own, which imports anew."""
    words = ["launch.py", *map(str, arguments)]
    with tempfile.NamedTemporaryFile("r") as output:
        if fresh:
            with open(output.name, "w") as file:
                done = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=file, stderr=file).returncode
        else:
            process = FORKS.Process(target=_run, args=(words, output.name))
            process.start()
            process.join()
            done = process.exitcode
        printed = output.read()
    assert done == code, printed
    assert code != 1 or "Traceback" not in printed, printed
    return printed


def _run(words: list[str], output: str) -> None:
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(ROOT)
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
