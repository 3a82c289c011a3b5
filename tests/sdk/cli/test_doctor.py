"""The doctor: what it says of an installation with each part missing in turn."""

import subprocess
import sys
from pathlib import Path

import pytest

from stmd_sdk.cli import checks as module
from stmd_sdk.cli.checks import Check, checked, report

SDK = Path(module.__file__).parents[2]
ABSENT = ("torch", "numpy", "diffusers", "onnx", "onnxruntime", "tensorrt_rtx", "rich", "typer")


@pytest.fixture(scope="module")
def checks():
    return {check.name: check for check in checked()}


def test_what_this_test_suite_needs_works(checks):
    for name in ("Python", "PyTorch on the CPU", "ONNX Runtime on the CPU", "stmd-export"):
        assert checks[name].works, checks[name]


def test_whatever_is_missing_says_how_to_mend_it(checks):
    for check in checks.values():
        assert check.works or check.mend or check.name == "NVIDIA driver", check


def test_the_report_names_every_check_and_every_mend(checks):
    text = report(list(checks.values()))
    assert all(check.name in text and check.mend in text for check in checks.values())
    assert report([Check("A", False, "gone", "pip install a")]).splitlines()[1].strip() == "pip install a"


@pytest.mark.parametrize(
    ("absent", "name", "mend"),
    [
        (["torch"], "PyTorch on the CPU", "pip install stmd-sdk"),
        (["diffusers"], "diffusers (U-Nets)", "pip install stmd-sdk"),
        (["onnxruntime"], "ONNX Runtime on the CPU", "pip install 'stmd-sdk[onnx]'"),
        (["onnx"], "stmd-export", "pip install 'stmd-sdk[export]'"),
        (["onnxscript"], "stmd-export", "pip install 'stmd-sdk[export]'"),
        (["tensorrt_rtx"], "TensorRT (tensorrt-rtx)", "pip install 'stmd-sdk[tensorrt-rtx]'"),
        (["tensorrt"], "TensorRT (tensorrt)", "pip install 'stmd-sdk[tensorrt]'"),
    ],
)
def test_each_missing_extra_is_found_and_named(monkeypatch, absent, name, mend):
    for package in absent:
        monkeypatch.setitem(sys.modules, package, None)
    check = next(check for check in checked() if check.name == name)
    assert not check.works
    assert check.mend == mend
    assert "not installed" in check.found


def test_it_runs_with_nothing_but_python():
    program = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT}:
            raise ModuleNotFoundError(name, name=name.split(".")[0])
sys.meta_path.insert(0, Absent())
sys.path.insert(0, {str(SDK)!r})
from stmd_sdk.cli.checks import checked, report
print(report(checked()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("missing") >= 6
