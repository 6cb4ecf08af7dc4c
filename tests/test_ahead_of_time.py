"""What users train on is not here, but its compilers are: the step and the embedding compile for a GPU and a TPU.

.ci/run puts the compilers into .compilers: pip install --no-deps --target .compilers libtpu jax-cuda12-plugin
jax-cuda12-pjrt, the last two of jax's own version.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMPILERS = ROOT / ".compilers"


@pytest.mark.skipif(not COMPILERS.is_dir(), reason="no compilers in .compilers; this file says how to put them there")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("chip", ["h100", "v5e"])
def test_step_and_embedding_compile_for_a_chip_that_is_not_here(chip, dtype, tmp_path):
    what = ["--tiny", "--words=saai", "--number=1", f"--chips={chip}", f"--dtypes={dtype}"]
    command = [sys.executable, "-m", "benchmarks.accelerators", "step", "embed", *what, f"--keep={tmp_path / 'rows'}"]
    environment = os.environ | {"PYTHONPATH": str(COMPILERS)}
    environment.pop("XLA_FLAGS", None)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = map(json.loads, (tmp_path / "rows").read_text().splitlines())
    planned = {row["program"]: 1e9 * row["GB"] for row in rows}
    assert planned.keys() == {"step saai", "embed saai"}
    assert planned["step saai"] > planned["embed saai"] > 100_000  # weights alone are more
