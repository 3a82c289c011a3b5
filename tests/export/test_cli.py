"""``stmd-export`` from the outside: files, exit codes, and errors of one line."""

import json

import pytest
from typer.testing import CliRunner

from stmd_export import onnx_export
from stmd_export.cli import export_app
from stmd_export.errors import ParityError
from stmd_export.onnx_export import report_path
from stmd_sdk import Sampler
from stmd_sdk.backends.flavours import installed_flavours
from stmd_sdk.backends.tensorrt import manifest_path
from stmd_sdk.runs.exported import ExportedRun


def run(*arguments):
    return CliRunner().invoke(export_app, [str(argument) for argument in arguments])


def test_the_network_as_onnx(exported, tmp_path, quick_trace):
    done = run("--ckpt", exported("mlp").checkpoint, "--onnx", "--out", tmp_path / "out", "--batch", "1:2:4")
    assert done.exit_code == 0, done.output
    (file,) = (tmp_path / "out").glob("*.onnx")
    assert file.name in done.output
    assert Sampler.from_pretrained(file).sample(3, seed=0).shape == (3, 2)
    assert json.loads(report_path(file).read_text())["parity"]["maximum"] <= 1e-5


@pytest.mark.skipif("tensorrt-rtx" not in installed_flavours(), reason="needs tensorrt-rtx")
def test_the_whole_sampler_as_onnx_and_engine(exported, tmp_path, quick_trace):
    done = run(
        "--ckpt", exported("mlp").checkpoint, "--whole", "--inference-steps", 2, "--mean-flow-steps", 1,
        "--onnx", "--trt",
        "--out", tmp_path / "out", "--gpu-arch", "sm120,sm89", "--tensorrt", "tensorrt-rtx",
        "--cache-dir", tmp_path / "cache", "--batch", "1:2:4",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    (file,) = (tmp_path / "out").glob("*.onnx")
    (engine,) = (tmp_path / "out").glob("*.engine")
    assert ExportedRun.open(file).sample(3, seed=0).shape == (3, 2)
    manifest = json.loads(manifest_path(engine).read_text())["engine"]
    assert manifest["architectures"] == ["sm120", "sm89"]
    assert manifest["batch"] == {"min": 1, "opt": 2, "max": 4}
    assert manifest["verified"] is False
    assert manifest["why"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--onnx, --openvino or --trt"),
        (["--openvino", "--precision", "fp16"], "--precision"),
        (["--onnx", "--inference-steps", "4"], "--whole"),
        (["--onnx", "--batch", "4"], "MIN:OPT:MAX"),
        (["--onnx", "--batch", "4:2:1"], "MIN <= OPT"),
        (["--onnx", "--gpu-arch", "sm120"], "--trt"),
        (["--trt", "--tensorrt", "tensorrt-lite"], "flavour"),
        (["--onnx", "--out", "/proc/nowhere"], "/proc/nowhere"),
    ],
)
def test_bad_input_exits_with_2_and_one_line(exported, arguments, says):
    done = run("--ckpt", exported("mlp").checkpoint, *arguments)
    assert done.exit_code == 2
    assert says in done.output
    assert done.output.count("\n") <= 2
    assert "Traceback" not in done.output


def test_a_checkpoint_that_is_not_there_exits_with_2(tmp_path):
    done = run("--ckpt", tmp_path / "nowhere.safetensors", "--onnx", "--out", tmp_path)
    assert done.exit_code == 2
    assert "nowhere" in done.output


def test_a_breach_of_parity_exits_with_1(exported, tmp_path, monkeypatch, quick_trace):
    def breach(*_):
        raise ParityError("the exported graph differs")

    monkeypatch.setattr(onnx_export, "_parity", breach)
    done = run("--ckpt", exported("mlp").checkpoint, "--onnx", "--out", tmp_path)
    assert done.exit_code == 1
    assert "differs" in done.output
    assert list(tmp_path.iterdir()) == []


def test_help_needs_no_pytorch_and_shows_examples():
    done = run("--help")
    assert done.exit_code == 0
    assert "stmd-export --ckpt mnist --onnx" in done.output
