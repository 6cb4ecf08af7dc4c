"""Every reader refuses damage in words or reads something sound; FUZZ is the number of tries, 25 by default."""

import os

import pytest

from tests import fuzzing

TRIES = int(os.environ.get("FUZZ", "25"))


@pytest.mark.parametrize("name", fuzzing.READERS)
def test_damage_is_refused_or_harmless(name):
    tries = max(1, TRIES // 8) if fuzzing.READERS[name].slow else TRIES
    counts = fuzzing.fuzz(name, tries)
    assert counts["refused"] + counts["read"] == counts["tries"] == tries
    assert counts["refused"], "nothing was damaged enough to be noticed"
