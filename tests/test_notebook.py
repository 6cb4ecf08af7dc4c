"""The notebook, run as a person would run it, on features made here."""

import dataclasses

import nbclient
import nbformat
import numpy as np
import pytest

from configs import synthetic
from input_pipeline.source import Source
from saai_jax import features
from tests.launching import ROOT, drawn

FILE = ROOT / "notebooks" / "aim_ablation.ipynb"


def notebook():
    return nbformat.read(FILE, as_version=4)


def test_it_is_kept_without_outputs():
    cells = [cell for cell in notebook().cells if cell.cell_type == "code"]
    assert cells
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    assert len([cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]) == 1


@pytest.fixture
def files(tmp_path):
    """Two features files of the tiny synthetic set's test images, the second one better than the first."""
    data = synthetic.get_config("tiny").data
    options = {field.name: data[field.name] for field in dataclasses.fields(Source) if field.name in data}
    index = Source(**{"dataset": "sysu", **options, "root": str(drawn(tmp_path / "data"))}).read("test")
    random = np.random.RandomState(0)
    person = random.standard_normal((index.identity.max() + 1, 16))[index.identity]
    found = {}
    for name, noise in (("weak", 2.0), ("strong", 1.0)):
        found[name] = str(tmp_path / f"{name}.npz")
        embedding = (person + noise * random.standard_normal(person.shape)).astype(np.float32)
        features.save(
            found[name], features.Features(embedding, index.identity, index.camera, index.modality, index.path)
        )
    return found


def test_it_runs_and_shows_every_study(files, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    document = notebook()
    (parameters,) = (cell for cell in document.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source += f"""
config = synthetic.get_config("tiny")
config.data.root = {str(tmp_path / "data")!r}
FEATURES = {files!r}
"""
    # from the notebook's own folder, where Jupyter starts it
    where = {"metadata": {"path": str(FILE.parent)}}
    nbclient.NotebookClient(document, timeout=120, kernel_name="python3", resources=where).execute()
    outputs = [output for cell in document.cells if cell.cell_type == "code" for output in cell.outputs]
    tables = [o.data["text/markdown"] for o in outputs if "text/markdown" in o.get("data", {})]
    assert [table.split("|")[1].strip() for table in tables] == [
        *("AIM", "k1", "k2", "features, inference", "AIM", "AIM as printed")
    ]
    assert [table.count("\n") - 1 for table in tables] == [4, 6, 5, 10, 4, 4]
    for table in tables:
        assert "sysu-official-all: rank-1" in table
        assert "sysu-official-indoor: mAP" in table
        assert "±" in table
    assert "strong, SIM" in tables[3]
    assert len([o for o in outputs if "image/png" in o.get("data", {})]) == 4
    assert not [o for o in outputs if o.output_type == "error"]
