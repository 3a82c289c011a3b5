"""Whatever happens to a file, its reader refuses it by one line of ours or reads what was written.

CI tries few mutations a kind; ``STMD_FUZZ=1000 pytest tests/fuzz`` as many as one likes, and
``python tests/fuzz/fuzzing.py`` those of the kinds named.
"""

import os
import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
from fuzzing import Kind, _outcome, fuzz, mutated

COUNT = int(os.environ.get("STMD_FUZZ", "25"))
# Kinds whose content carries a digest: what is read is what was written, to the last bit.
SEALED = ("checkpoint", "state", "classifier", "latents", "onnx", "engine")
OTHERS = ("recipe", "idx", "npz", "picture", "vae", "log")


@pytest.fixture(scope="module")
def outcomes_of():
    """Of all kinds, by one process: most of a short run is its imports."""
    return fuzz([*SEALED, *OTHERS], COUNT)


@pytest.mark.parametrize("kind", [*SEALED, *OTHERS])
def test_a_damaged_file_is_refused_in_one_line_or_read(kind, outcomes_of):
    allowed = {"refused", "accepted"} | ({"accepted with other numbers"} if kind in OTHERS else set())
    outcomes = outcomes_of[kind]
    assert outcomes.total() == COUNT
    assert outcomes["refused"] > 0 or kind == "log"  # whose damaged lines are dropped
    assert outcomes.keys() <= allowed, outcomes


def test_the_same_mutation_comes_again_and_most_change_something():
    data = b'{"a": 12, "b": 3.5}' * 20
    made = [mutated(data, random.Random(i)) for i in range(100)]
    assert made == [mutated(data, random.Random(i)) for i in range(100)]
    assert sum(one != data for one in made) > 90


def test_the_fuzz_itself_can_fail(tmp_path):
    class Broken(Kind):
        def make(self):
            return []

        def read(self):
            raise ZeroDivisionError("as a reader that checks nothing")

    assert _outcome(Broken(tmp_path), 0).startswith("foreign: ZeroDivisionError")
    Broken.read = lambda self: 1
    assert _outcome(Broken(tmp_path), 0) == "accepted with other numbers"
