"""Claims of equal bits that only the compiler's optimisations could break: the suite leaves most of these out."""

import os
import subprocess
import sys

from tests.launching import ROOT

CLAIMS = [
    "tests/affinity/test_gallery.py::test_results_do_not_depend_on_how_queries_are_batched",
    "tests/affinity/test_gallery.py::test_distances_are_the_loop_and_the_search_sorts_them",
]


def test_equal_bits_are_equal_as_users_compile():
    command = [sys.executable, "-m", "pytest", "-o", "addopts=-q", "-p", "no:cacheprovider", "-p", "no:xdist", *CLAIMS]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"XLA_FLAGS": ""}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
