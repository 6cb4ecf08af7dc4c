"""Exported programs: read in a process without this project's code, they give what the system and AIM give here."""

import importlib.util
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import synthetic
from modes import exporting
from modes.building import system_of
from saai_jax.affinity import aim
from saai_jax.affinity.cosine import unit
from saai_jax.ranking.evaluate import of_pixels

WORDS = ("saai", "agw", "agw-base", "caj", "mpanet", "lba", "pcb", "wrimnet", "sim-baseline")
# What a program does with a file, that has jax or onnxruntime and nothing of ours.
READ = """
import os, sys
import numpy as np
for program in sys.argv[1:]:
    given = dict(np.load(program + ".npz"))
    if program.endswith("onnx"):
        import onnxruntime
        (found,) = onnxruntime.InferenceSession(program).run(None, given)
    else:
        import jax
        found = jax.export.deserialize(open(program, "rb").read()).call(*given.values())
    np.save(program + ".npy", found)
assert not any(name.startswith(("saai", "modes")) for name in sys.modules)
"""


def read(folder, programs: dict, given: dict) -> dict:
    """What programs by file name give for the arguments by file name, in a process of its own."""
    for name, data in programs.items():
        (folder / name).write_bytes(data)
        np.savez(folder / f"{name}.npz", **given[name])
    command = [sys.executable, "-c", READ, *(str(folder / name) for name in programs)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name: np.load(folder / f"{name}.npy") for name in programs}


@pytest.mark.parametrize("format", exporting.FORMATS)
def test_a_program_gives_what_the_system_and_aim_give(format, tmp_path):
    if format == "onnx" and not importlib.util.find_spec("jax2onnx"):
        pytest.skip(f"no jax2onnx: {exporting.ONNX}")
    random = np.random.default_rng(0)
    programs, given, expected = {}, {}, {}
    for word in WORDS:
        config = synthetic.get_config(f"tiny,{word}")
        system = system_of(config, 4, "gpu")
        params, collections = jax.jit(system.init)(jax.random.key(0))
        # Running statistics of a network that has learned are none of 0 and 1.
        moved = jax.tree.map(lambda x: x + 0.01 * random.uniform(1, 2, x.shape).astype(x.dtype), collections)
        variables = {"params": params, **moved}
        found, about = exporting.programs(config, system, variables)
        if word == "saai":
            length = found["aim"][1]["query"].shape[1]
            sides = [unit(random.standard_normal((n, length)).astype(np.float32)) for n in (3, 40)]
            programs[f"aim.{format}"] = exporting.FORMATS[format](*found["aim"])
            given[f"aim.{format}"] = dict(zip(("query", "gallery"), sides, strict=True))
            expected[f"aim.{format}"] = np.asarray(aim(*sides, k1=about["k1"], k2=about["k2"], method="dense"))
        name = f"{word}.{format}"
        programs[name] = exporting.FORMATS[format](*found["network"])
        image = random.integers(0, 256, (5, about["height"], about["width"], 3), np.uint8)
        given[name] = {"image": image, "modality": np.int32([0, 1, 1, 0, 1])}
        expected[name] = np.asarray(unit(of_pixels(system.embed, variables, *given[name].values())))
    result = read(tmp_path, programs, given)
    for name, found in result.items():
        np.testing.assert_allclose(found, expected[name], rtol=0, atol=2e-6, err_msg=name)
        assert np.ptp(found, axis=0).max() > 1e-3, name  # the rows are told apart
