"""The vectors that the page's TypeScript is held to are what the SDK computes today."""

import importlib.util
import json
from pathlib import Path

import pytest

VECTORS = Path(__file__).parents[2] / "demo" / "tests" / "vectors.py"


def _near(found, expected, path=""):
    """Words, counts and names equal; other numbers up to the rounding of this machine's float32."""
    if isinstance(expected, dict):
        assert list(found) == list(expected), path
        for key, value in expected.items():
            _near(found[key], value, f"{path}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), path
        for i, value in enumerate(expected):
            _near(found[i], value, f"{path}[{i}]")
    else:
        assert found == (pytest.approx(expected, abs=1e-6) if isinstance(expected, float) else expected), path


def test_the_committed_vectors_are_those_of_the_sdk():
    found = importlib.util.spec_from_file_location("demo_vectors", VECTORS)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    committed = json.loads(module.FILE.read_text(encoding="utf-8"))
    _near(json.loads(json.dumps(module.vectors())), committed)
    committed["samples"]["3"][0][0] += 1e-4
    with pytest.raises(AssertionError):
        _near(json.loads(json.dumps(module.vectors())), committed)
