"""OpenVINO's files: what they draw is what the ONNX file draws, proven, and every refusal."""

import dataclasses
import json

import pytest
import torch

from stmd_export import export_openvino, openvino_export
from stmd_export.errors import ParityError
from stmd_export.onnx_export import report_path
from stmd_sdk import Sampler
from stmd_sdk.backends.tensorrt import BatchProfile
from stmd_sdk.errors import CheckpointError, InvalidArgumentError
from stmd_sdk.models.artefact import read_onnx
from stmd_sdk.models.ir import read_ir
from stmd_sdk.runs.exported import ExportedRun

pytest.importorskip("openvino")
SMALL = BatchProfile(1, 2, 4)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STMD_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", [pytest.param("unet", marks=pytest.mark.long), "mlp"])
def test_a_network_draws_what_it_draws_in_pytorch(exported, tmp_path, name):
    made = exported(name)
    file = export_openvino(made.onnx, made.checkpoint, tmp_path / "out", batch=SMALL)
    report, ir = json.loads(report_path(file).read_text()), read_ir(file)
    assert report["parity"]["maximum"] <= 1e-4
    assert "OpenVINO" in report["parity"]["compared"]
    assert dataclasses.replace(ir.artefact, data="") == read_onnx(made.onnx)[1]
    torch.set_num_threads(1)
    drawn = [Sampler.from_pretrained(path).sample(5, inference_steps=2, seed=0) for path in (made.checkpoint, file)]
    assert (drawn[0] - drawn[1]).abs().max() <= 1e-4
    assert drawn[0].std() > 0.05


def test_a_whole_sampler_draws_what_its_onnx_file_draws(exported, tmp_path):
    made = exported("mlp", whole=(2, 1))
    file = export_openvino(made.onnx, made.checkpoint, tmp_path / "out", batch=SMALL)
    one, other = (ExportedRun.open(path) for path in (made.onnx, file))
    assert abs(one.sample(5, seed=3, first=2) - other.sample(5, seed=3, first=2)).max() <= 1e-5
    assert other.artefact.times == (1.0, 0.5, 0.0)
    with pytest.raises(InvalidArgumentError, match="--precision"):
        ExportedRun.open(made.onnx, arithmetic="bf16")


def test_what_differs_leaves_nothing_and_what_is_not_of_the_model_is_refused(exported, tmp_path, monkeypatch):
    made, out = exported("mlp"), tmp_path / "out"
    with pytest.raises(CheckpointError, match="was not made of"):
        export_openvino(made.onnx, exported("dit").checkpoint, out)
    with pytest.raises(InvalidArgumentError, match="dtype=torch"):
        export_openvino(exported("mlp", precision="bf16").onnx, made.checkpoint, out)

    def breach(*_):
        raise ParityError("the exported graph differs")

    monkeypatch.setattr(openvino_export, "_parity", breach)
    with pytest.raises(ParityError):
        export_openvino(made.onnx, made.checkpoint, out, batch=SMALL)
    assert list(out.glob("*")) == []
