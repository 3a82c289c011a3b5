"""Every writing command, killed at calls that change files and given again, ends as if nothing had been.

Some of the calls; all of them with STMD_ALL_KILLS=1.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper
from PIL import Image
from safetensors.torch import load_file

from stmd_export import export_onnx, onnx_export
from stmd_export.parity import Parity
from stmd_sdk.codecs.codec import LatentCodec
from stmd_sdk.data.latents import cache_latents
from stmd_sdk.data.load import load_data
from stmd_sdk.errors import OutputError
from stmd_sdk.files import sha256_of, written_whole
from stmd_sdk.runs import outputs, stream
from stmd_training.recipe import load_recipe
from stmd_training.run import Run
from stmd_training.state import planned_steps

_spec = importlib.util.spec_from_file_location("killing", Path(__file__).parent / "killing.py")
killing = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(killing)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills children")


def every_file(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", ["folder", "draws.tar", "draws.npz"])
def test_samples(tmp_path, monkeypatch, form):
    monkeypatch.setattr(stream, "SHARD", 2)
    sampled = stream.Run("m", (1, 4, 4), "4", 1, 5, 5)

    def draw(first, n):
        return np.sin(
            np.arange(first, first + n, dtype=np.float32)[:, None, None, None] + np.ones((1, 4, 4), np.float32)
        )

    def work(folder):
        stream.stream(draw, sampled, outputs.open_output(folder / form, 1))

    def content(folder):
        with np.load(folder / form) if form == "draws.npz" else open(os.devnull) as file:
            return file["x"].tolist() if form == "draws.npz" else every_file(folder)

    assert killing.kill_everywhere(tmp_path, work, content, some=12) >= 12


def test_latents(tmp_path, vae_folder):
    (tmp_path / "pictures").mkdir()
    rows = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    for i, pixels in enumerate(rows):
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    codec = LatentCodec(vae=str(vae_folder), factor=2)
    codec.prepare((4, 8, 8))

    def work(folder):
        cache_latents(str(tmp_path / "pictures"), folder, codec, 16, shard_size=2)

    assert killing.kill_everywhere(tmp_path, work, every_file) >= 8


def test_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    settings = ("network={kind='mlp', width=8, depth=1}", "batch_size=8", "steps=4", "checkpoint_every=2")
    recipe, data = load_recipe("mixture2d", (*settings, "sample_every=100", "log_every=1")), load_data("mixture2d")

    def work(folder):
        Run(recipe, data, folder)(progress=False)

    def content(folder):
        assert planned_steps(folder / "state.safetensors") == 4
        model = load_file(folder / "model.safetensors")
        log = [line.split('"seconds"')[0] for line in (folder / "log.jsonl").read_text().splitlines()]
        return (
            {name: tensor.tolist() for name, tensor in model.items()},
            log,
            sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.name.startswith(".")),
        )

    assert killing.kill_everywhere(tmp_path, work, content) >= 8


def small_graph(spec, *_):
    """u = x[:, :2], of the network's inputs: for tests of what comes after tracing."""
    names = ("x", ["b", 4]), ("times", ["b", 3])
    given = [helper.make_tensor_value_info(name, 1, shape) for name, shape in names]
    ends = [numpy_helper.from_array(np.array(value), name) for name, value in (("a", [0]), ("o", [2]), ("d", [1]))]
    node = helper.make_node("Slice", ["x", "a", "o", "d"], ["u"])
    graph = helper.make_graph([node], "g", given, [helper.make_tensor_value_info("u", 1, ["b", 2])], ends)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("there", [True, pytest.param(False, marks=pytest.mark.skipif(not killing.ALL, reason="all"))])
def test_export(tmp_path, monkeypatch, there):
    """Killed anywhere over an older export, no JSON is left that speaks of another file."""
    monkeypatch.setattr(onnx_export, "trace_network", small_graph)
    monkeypatch.setattr(onnx_export, "_parity", lambda *_: Parity("fp32", "not compared", ()))

    def work(folder):
        export_onnx("mixture2d", folder)

    def older(folder):
        if there:
            folder.mkdir()
            (folder / "mixture2d.onnx").write_bytes(b"older")
            report = {"sha256": sha256_of(b"older"), "of": "the older"}
            (folder / "mixture2d.onnx.json").write_text(json.dumps(report))

    def consistent(folder):
        report = folder / "mixture2d.onnx.json"
        if report.exists():
            assert json.loads(report.read_text())["sha256"] == sha256_of((folder / "mixture2d.onnx").read_bytes())

    def content(folder):
        report = json.loads((folder / "mixture2d.onnx.json").read_text())
        return {**report, "seconds": 0}, (folder / "mixture2d.onnx").read_bytes(), sorted(os.listdir(folder))

    assert killing.kill_everywhere(tmp_path, work, content, some=9, before=older, killed=consistent) >= 9


def test_one_file(tmp_path):
    def work(folder):
        with written_whole(folder / "file.bin") as path:
            path.write_bytes(bytes(1000))

    assert killing.kill_everywhere(tmp_path, work, every_file, some=4) >= 4


def test_a_disk_that_fills_up_is_one_line_and_leaves_what_was_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    recipe = load_recipe("mixture2d", ("network={kind='mlp', width=64, depth=2}", "steps=2", "sample_every=100"))
    run = Run(recipe, load_data("mixture2d"), tmp_path / "run")
    (tmp_path / "run").mkdir()
    with killing.full_disk(20_000), pytest.raises(OutputError, match=r"cannot write .*state\.safetensors: File too"):
        run(progress=False)
    assert not list(tmp_path.rglob("*.safetensors"))
    run(progress=False)
    before = every_file(tmp_path / "run")["model.safetensors"]
    with killing.full_disk(20_000), pytest.raises(OutputError, match="File too large"):
        run(restart=True, progress=False)
    assert every_file(tmp_path / "run")["model.safetensors"] == before
    big = stream.Run("m", (100_000,), "4", 1, 0, 1)
    for form in ("folder", "draws.tar", "draws.npz"):
        output = outputs.open_output(tmp_path / form, 1)
        with killing.full_disk(20_000), pytest.raises(OutputError, match="cannot write"):
            stream.stream(lambda first, n: np.ones((n, 100_000), np.float32), big, output)
    assert set(killing.hidden(tmp_path)) <= {".draws.npz.parts"}
