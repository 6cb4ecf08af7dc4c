"""A gallery over two processes, as over two hosts, gives what one process gives."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np

from saai_jax.affinity import Gallery

SCRIPT = pathlib.Path(__file__).parent / "gallery_process.py"


def test_two_processes_give_what_one_gives(tmp_path):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = str(s.getsockname()[1])
    files = [tmp_path / f"{i}.npz" for i in range(2)]
    running = [
        subprocess.Popen(
            [sys.executable, SCRIPT, port, "2", str(i), file],
            cwd=SCRIPT.parent.parent,
            env={**os.environ, "PYTHONPATH": "."},
            stderr=subprocess.PIPE,
            text=True,
        )
        for i, file in enumerate(files)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], "\n".join(errors)
    random = np.random.default_rng(0)
    images, query = (random.standard_normal((n, 16)).astype(np.float32) + 0.3 for n in (101, 40))
    gallery = Gallery.build(images, k1=5, k2=3)
    alone = gallery.search(query, 10)
    changed = gallery.add(query[:7]).remove(np.arange(30)).distances(query)
    for file in files:
        found = np.load(file)
        np.testing.assert_array_equal(found["index"], alone.index)
        np.testing.assert_allclose(found["distance"], alone.distance, atol=1e-6)
        np.testing.assert_allclose(found["changed"], changed, atol=1e-6)
