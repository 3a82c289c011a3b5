"""The public names are pinned: adding, losing or moving one is a decision, not an accident."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import stmd_sdk

PUBLIC = {
    "ChainDraws",
    "CheckpointError",
    "DataError",
    "DeviceError",
    "GibbsDraws",
    "InferenceError",
    "InferenceWarning",
    "InvalidArgumentError",
    "MissingExtraError",
    "ModelSpec",
    "Network",
    "Noise",
    "OutputError",
    "Posterior",
    "PosteriorSummary",
    "STMDPipeline",
    "STMDScheduler",
    "Sampler",
    "SteeredDraws",
    "StmdError",
    "TrainingError",
    "VPSchedule",
    "grid",
    "posterior_summary",
    "to_images",
}
ERRORS = {name for name in PUBLIC if name.endswith("Error")}


def test_the_public_names_are_these():
    assert set(stmd_sdk.__all__) == set(stmd_sdk.HOMES) == set(dir(stmd_sdk)) == PUBLIC
    assert stmd_sdk.__all__ == sorted(stmd_sdk.__all__)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_name_is_its_homes_own_and_public_there(name):
    home = importlib.import_module(f"stmd_sdk.{stmd_sdk.HOMES[name]}")
    exported = getattr(stmd_sdk, name)
    assert exported is getattr(home, name)
    assert exported.__module__ == home.__name__
    assert name in home.__all__
    assert exported.__doc__


def test_type_checkers_see_the_names_where_they_live():
    tree = ast.parse(Path(stmd_sdk.__file__).read_text())
    seen = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names
    }
    assert seen == stmd_sdk.HOMES


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'stmd_sdk' has no attribute 'Smapler'"):
        _ = stmd_sdk.Smapler


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_one_clause_catches_every_error(name):
    error = getattr(stmd_sdk, name)
    assert issubclass(error, stmd_sdk.StmdError)
    builtins = [base for base in error.__mro__ if base.__module__ == "builtins"]
    assert name == "StmdError" or builtins[0] in (ValueError, RuntimeError, ImportError, OSError)


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        ("import stmd_sdk; dir(stmd_sdk)", ["torch", "numpy", "diffusers", "matplotlib", "PIL", "rich"]),
        ("import stmd_sdk; stmd_sdk.StmdError", ["torch", "numpy", "diffusers", "matplotlib"]),
        (
            "import stmd_sdk; stmd_sdk.Sampler",
            ["diffusers", "matplotlib", "onnxruntime", "sklearn", "tensorrt"],
        ),
        ("import stmd_sdk.diffusion.philox", ["torch", "diffusers"]),
    ],
)
def test_importing_waits_for_nothing_that_is_not_needed(program, absent):
    check = f"import sys; {program}; print(*[name for name in {absent} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", check], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
