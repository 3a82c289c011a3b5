"""The versions that are tested once a release are the lowest that pyproject.toml admits."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from stmd_sdk.backends import openvino_session, session

ROOT = Path(__file__).parents[1]


def _versions(requirements):
    """The one version that each names; PyTorch's lowest, which comes with gigabytes of CUDA, left out."""
    return {one.name: Version(bound.version) for one in requirements for bound in one.specifier if one.name != "torch"}


def test_the_lowest_versions_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: list(map(Requirement, named)) for name, named in project["optional-dependencies"].items()}
    (own,) = (one for one in extras["test"] if one.name == project["name"])
    asked = [*map(Requirement, project["dependencies"]), *extras["test"]]
    asked += [one for name in own.extras for one in extras[name]]
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    assert _versions(Requirement(line) for line in lines if not line.startswith("#")) == _versions(asked)


def test_what_backends_refuse_as_too_old_is_what_the_extras_exclude():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, package, least in (
        ("onnx", "onnxruntime", session.LEAST),
        ("onnx-gpu", "onnxruntime-gpu", session.LEAST),
        ("openvino", "openvino", openvino_session.LEAST),
    ):
        assert extras[extra] == [f"{package}>={'.'.join(map(str, least))}"]
