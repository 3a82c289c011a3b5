import subprocess
import sys

from stmd_sdk import evaluation


def test_every_public_name_resolves_to_the_object_of_that_name():
    assert sorted(evaluation.HOMES) == evaluation.__all__ == dir(evaluation)
    for name in evaluation.__all__:
        assert getattr(evaluation, name).__name__ == name


def test_the_package_imports_without_pytorch_or_matplotlib():
    code = "import sys, stmd_sdk.evaluation, stmd_sdk.cli.certify; print({'torch', 'matplotlib'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
