"""``stmd info``: what a file says of itself, whatever its kind, and nothing that a terminal would obey."""

import hashlib
import json

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from stmd_sdk.backends.tensorrt import BatchProfile, EngineManifest, manifest_path
from stmd_sdk.cli.app import app
from stmd_sdk.models.artefact import Artefact, sealed
from stmd_sdk.models.checkpoint import SPEC_KEY, read_spec, resolve_model

ARTEFACT = Artefact(kind="network", precision="fp32", opset=21, weights="0" * 64)


def info(path):
    done = CliRunner().invoke(app, ["info", str(path)])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_model_shows_its_spec_and_its_size():
    shown = info("digits")
    for fact in ("digits", "parameters", "objective", "stmd", "sigma_data"):
        assert fact in shown


@pytest.mark.parametrize("suffix", [".onnx", ".engine"])
def test_an_exported_file_shows_its_spec_and_how_it_was_made(tmp_path, suffix):
    path, spec = tmp_path / f"n{suffix}", read_spec(resolve_model("mixture2d"))
    if suffix == ".onnx":
        path.write_bytes(sealed(b"", spec.to_json(), ARTEFACT))
    else:
        path.write_bytes(b"engine")
        digest = hashlib.sha256(b"engine").hexdigest()
        manifest = EngineManifest(
            digest, "tensorrt-rtx", "1.7", ("sm120",), BatchProfile(), ARTEFACT, "0" * 64, False, ""
        )
        manifest_path(path).write_text(manifest.to_json(json.loads(spec.to_json()), {}))
    shown = info(path)
    for fact in ("mixture2d", "sigma_data", "fp32", "opset" if suffix == ".onnx" else "sm120"):
        assert fact in shown


def test_a_models_own_strings_are_shown_as_they_are(tmp_path):
    path = resolve_model("mixture2d")
    spec = json.loads(read_spec(path).to_json()) | {"name": "[/x] \x1b]0;title\x07 :smile:"}
    spec["training"] = {"file": "[red]another", "\x1b[31m": "key"}
    save_file(load_file(path), tmp_path / "m.safetensors", metadata={SPEC_KEY: json.dumps(spec)})
    shown = info(tmp_path / "m.safetensors")
    assert "[/x] \\x1b]0;title\\x07 :smile:" in shown
    assert "[red]another" in shown
    assert "m.safetensors" in "".join(shown.split())
    assert "\x1b" not in shown
