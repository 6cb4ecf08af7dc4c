"""The Python of README.md and docs/deploy.md, run as it stands."""

import importlib.util
import re
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from configs import synthetic
from modes import exporting
from modes.building import system_of
from tests.launching import ROOT


def blocks(page: str, mark: str = "") -> str:
    """The Python of a page, of the blocks after a mark if one is named, one after the other."""
    before = f"<!-- tested: {mark} -->\n" if mark else ""
    found = re.findall(rf"{before}```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert found
    return "\n".join(found)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder as docs/deploy.md has it, and where its Python runs."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for name in ("query", *(f"visible/{name}" for name in ("a", "b", "c", "expired")), "tonight/d", "tonight/e"):
        file = tmp_path / f"{name}.jpg"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (60, 30, 3), np.uint8)).save(file)
    return tmp_path


def exported(folder, monkeypatch, format: str) -> None:
    """A tiny network, as --mode=export writes it."""
    config = synthetic.get_config("tiny")
    config.aim.own = (2, 2)
    system = system_of(config, 4, "gpu")
    params, collections = jax.jit(system.init)(jax.random.key(0))
    monkeypatch.setattr(exporting, "trained", lambda *_: (system, {"params": params, **collections}))
    exporting.export(config, str(folder), format=format)


def test_readme(capsys):
    exec(blocks("README.md"), {})
    assert capsys.readouterr().out.startswith("mAP 0.")


def test_deploy_stablehlo(folder, monkeypatch):
    exported(folder, monkeypatch, "stablehlo")
    found = {}
    exec(blocks("docs/deploy.md", "stablehlo"), found)
    np.testing.assert_allclose(np.linalg.norm(found["feature"], axis=1), 1, rtol=1e-5)


@pytest.mark.skipif(not importlib.util.find_spec("jax2onnx"), reason=f"no jax2onnx: {exporting.ONNX}")
def test_deploy_onnx(folder, monkeypatch, capsys):
    exported(folder, monkeypatch, "onnx")
    found = {}
    exec(blocks("docs/deploy.md", "onnx"), found)
    kept = ("visible/a", "visible/b", "visible/c", "tonight/d", "tonight/e")
    assert found["names"] == [f"{name}.jpg" for name in kept]
    assert len(found["gallery"]) == 5
    assert capsys.readouterr().out.count("visible/") == 3
    # The gallery that was changed is the one that its images would give anew.
    anew = found["Gallery"].build(found["embed"](found["names"], 0), k1=2, k2=2)
    query = found["embed"](["query.jpg"], 1)
    np.testing.assert_allclose(found["gallery"].distances(query), anew.distances(query), atol=1e-6)


def test_onnx_without_its_converter_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ValueError, match=r"--format=onnx needs jax2onnx .*pip install -e '\.\[onnx\]'"):
        exporting.onnx(lambda x: x, {"x": jax.ShapeDtypeStruct((1,), np.float32)})
