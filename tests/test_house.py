"""The rooms: who may import whom, and that nothing but a system's own files knows its name."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# What each room may import of ours; every other import would point upward or sideways.
ROOMS = {
    "saai_jax": ("saai_jax",),
    "input_pipeline": ("input_pipeline", "saai_jax"),
    "configs": ("configs",),
    "modes": ("modes", "configs", "input_pipeline", "saai_jax"),
}
# Within saai_jax: rooms that know nothing of those above them.
WITHIN = {
    "affinity": ("affinity", "files", "log"),
    "models": ("models",),
    "losses": ("losses",),
    "weights": ("weights",),
    "ranking": ("ranking", "affinity", "metrics", "parallel", "files", "features", "augment", "log", "losses"),
    "features": ("features", "foreign", "files"),
    "systems": ("systems", "models", "losses", "augment", "optimisers", "weights"),
    "report": ("report", "ranking", "affinity", "metrics", "files", "features"),
}
FILES = [path.stem for path in (ROOT / "saai_jax" / "systems").glob("*.py")]
SYSTEMS = [name for name in FILES if name not in ("__init__", "system")]


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_downward(room):
    for path in (ROOT / room).rglob("*.py"):
        ours = {name for name in imported(path) if name.split(".")[0] in (*ROOMS, "launch", "tests", "benchmarks")}
        assert not {name for name in ours if name.split(".")[0] not in ROOMS[room]}, path


@pytest.mark.parametrize("room", WITHIN)
def test_the_rooms_of_the_library_do_too(room):
    for path in (ROOT / "saai_jax" / room).glob("*.py"):
        ours = {name.split(".")[1] for name in imported(path) if name.startswith("saai_jax.")}
        assert ours <= {*WITHIN[room]}, path


def test_only_a_systems_own_files_know_its_name():
    assert "saai" in SYSTEMS
    for path in [*(ROOT / "saai_jax").rglob("*.py"), *(ROOT / "modes").glob("*.py"), ROOT / "launch.py"]:
        if path.parent.name != "systems":
            others = {name for name in imported(path) if name.startswith("saai_jax.systems.")}
            assert not {name for name in others if name.split(".")[2] in SYSTEMS}, path
            assert not re.findall(rf"[\"']({'|'.join(SYSTEMS)})[\"']", path.read_text()), path


def test_launch_alone_reads_flags():
    for path in [p for room in ROOMS for p in (ROOT / room).rglob("*.py")]:
        assert not {name for name in imported(path) if name.startswith("absl.flags")}, path
        assert "FLAGS" not in path.read_text(), path
