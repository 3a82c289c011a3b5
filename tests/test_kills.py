"""Every writing command, killed at calls that change files and given again, ends as if nothing had been.

Some of the calls; all of them with STMD_ALL_KILLS=1.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
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
from stmd_sdk.locks import locked
from stmd_sdk.runs import outputs, stream
from stmd_training.recipe import load_recipe
from stmd_training.run import TrainingRun
from stmd_training.state import planned_steps

_spec = importlib.util.spec_from_file_location("killing", Path(__file__).parent / "killing.py")
killing = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(killing)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills children")


def every_file(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class Writing:
    """A work that writes into a folder, and what is in there once it is done, which is equal for equal works."""

    work: Callable[[Path], object]
    content: Callable[[Path], object]


@pytest.fixture
def samples(monkeypatch):
    """Five samples as a folder, as shards of two, or as one file."""
    monkeypatch.setattr(stream, "SHARD", 2)
    sampled = stream.StreamedRun("m", (1, 4, 4), "4", 1, 5, 5)

    def draw(first, n):
        return np.sin(
            np.arange(first, first + n, dtype=np.float32)[:, None, None, None] + np.ones((1, 4, 4), np.float32)
        )

    def make(form):
        def content(folder):
            if form != "draws.npz":
                return every_file(folder)
            with np.load(folder / form) as file:
                return file["x"].tolist()

        return Writing(lambda folder: stream.stream(draw, sampled, outputs.open_output(folder / form, 1)), content)

    return make


@pytest.fixture
def latents(tmp_path, vae_folder):
    (tmp_path / "pictures").mkdir()
    rows = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    for i, pixels in enumerate(rows):
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    codec = LatentCodec(vae=str(vae_folder), factor=2)
    codec.prepare((4, 8, 8))
    return Writing(
        lambda folder: cache_latents(str(tmp_path / "pictures"), folder / "latents", codec, 16, shard_size=2),
        every_file,
    )


@pytest.fixture
def training(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    settings = ("network={kind='mlp', width=8, depth=1}", "batch_size=8", "steps=2", "checkpoint_every=1")
    recipe, data = load_recipe("mixture2d", (*settings, "sample_every=100", "log_every=1")), load_data("mixture2d")

    def content(folder):
        folder = folder / "run"
        assert planned_steps(folder / "state.safetensors") == 2
        model = load_file(folder / "model.safetensors")
        log = [line.split('"seconds"')[0] for line in (folder / "log.jsonl").read_text().splitlines()]
        return (
            {name: tensor.tolist() for name, tensor in model.items()},
            log,
            sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.name.startswith(".")),
        )

    return Writing(lambda folder: TrainingRun(recipe, data, folder / "run")(progress=False), content)


def small_graph(spec, *_):
    """u = x[:, :2], of the network's inputs: for tests of what comes after tracing."""
    names = ("x", ["b", 4]), ("times", ["b", 3])
    given = [helper.make_tensor_value_info(name, 1, shape) for name, shape in names]
    ends = [numpy_helper.from_array(np.array(value), name) for name, value in (("a", [0]), ("o", [2]), ("d", [1]))]
    node = helper.make_node("Slice", ["x", "a", "o", "d"], ["u"])
    graph = helper.make_graph([node], "g", given, [helper.make_tensor_value_info("u", 1, ["b", 2])], ends)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture
def export(monkeypatch):
    """An export without what takes its time: tracing and comparing."""
    monkeypatch.setattr(onnx_export, "trace_network", small_graph)
    monkeypatch.setattr(onnx_export, "_parity", lambda *_: Parity("fp32", "not compared", ()))

    def content(folder):
        report = json.loads((folder / "mixture2d.onnx.json").read_text())
        return {**report, "seconds": 0}, (folder / "mixture2d.onnx").read_bytes(), sorted(os.listdir(folder))

    return Writing(lambda folder: export_onnx("mixture2d", folder), content)


@pytest.mark.parametrize("form", ["folder", "draws.tar", "draws.npz"])
def test_samples(tmp_path, samples, form):
    made = samples(form)
    assert killing.kill_everywhere(tmp_path, made.work, made.content, some=12) >= 12


def test_latents(tmp_path, latents):
    assert killing.kill_everywhere(tmp_path, latents.work, latents.content) >= 8


def test_training(tmp_path, training):
    assert killing.kill_everywhere(tmp_path, training.work, training.content) >= 8


@pytest.mark.parametrize("there", [True, pytest.param(False, marks=pytest.mark.skipif(not killing.ALL, reason="all"))])
def test_export(tmp_path, export, there):
    """Killed anywhere over an older export, no JSON is left that speaks of another file."""

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

    found = killing.kill_everywhere(tmp_path, export.work, export.content, some=9, before=older, killed=consistent)
    assert found >= 9


def test_one_file(tmp_path):
    def work(folder):
        with written_whole(folder / "file.bin") as path:
            path.write_bytes(bytes(1000))

    assert killing.kill_everywhere(tmp_path, work, every_file, some=4) >= 4


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own that one may make larger: ``small_disk(kilobytes)`` gives its folder, empty at first."""
    folder = tmp_path / "disk"

    def sized(kilobytes):
        new = not folder.is_mount()
        folder.mkdir(exist_ok=True)
        how = "mount", "-t", "tmpfs", "-o", f"{'' if new else 'remount,'}size={kilobytes}k", "tmpfs", folder
        if subprocess.run(how, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount")
        return folder

    yield sized
    if folder.is_mount():
        subprocess.run(("umount", folder), check=True)


@pytest.mark.filterwarnings("ignore:the log ends")  # that of a run ends, and the run does not
@pytest.mark.parametrize("name", ["folder", "draws.tar", "draws.npz", "latents", "training", "export"])
def test_a_full_disk_is_one_line_and_with_room_the_same_work_goes_on(tmp_path, small_disk, request, name):
    made = request.getfixturevalue("samples")(name) if name in ("folder", "draws.tar", "draws.npz") else None
    made = made or request.getfixturevalue(name)
    made.work(tmp_path / "whole")
    folder = small_disk(4) / "work"
    with pytest.raises(OutputError, match="No space left on device") as refused:
        made.work(folder)
    assert "\n" not in str(refused.value)
    for kilobytes in (8, 12, 16, 24, 32):  # full at later and later calls
        small_disk(kilobytes)
        with contextlib.suppress(OutputError):
            made.work(folder)
    small_disk(4096)
    made.work(folder)
    assert made.content(folder) == made.content(tmp_path / "whole")
    assert killing.hidden(folder) == []


def test_one_process_at_a_time_exports_to_a_file(tmp_path, export):
    with locked(tmp_path / "mixture2d.onnx"), pytest.raises(OutputError, match=rf"process {os.getpid()} on .* since"):
        export.work(tmp_path)
    export.work(tmp_path)


def test_a_disk_that_fills_up_is_one_line_and_leaves_what_was_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    recipe = load_recipe("mixture2d", ("network={kind='mlp', width=64, depth=2}", "steps=2", "sample_every=100"))
    run = TrainingRun(recipe, load_data("mixture2d"), tmp_path / "run")
    (tmp_path / "run").mkdir()
    with killing.full_disk(20_000), pytest.raises(OutputError, match=r"cannot write .*state\.safetensors: File too"):
        run(progress=False)
    assert not list(tmp_path.rglob("*.safetensors"))
    run(progress=False)
    before = every_file(tmp_path / "run")["model.safetensors"]
    with killing.full_disk(20_000), pytest.raises(OutputError, match="File too large"):
        run(restart=True, progress=False)
    assert every_file(tmp_path / "run")["model.safetensors"] == before
    big = stream.StreamedRun("m", (100_000,), "4", 1, 0, 1)
    for form in ("folder", "draws.tar", "draws.npz"):
        output = outputs.open_output(tmp_path / form, 1)
        with killing.full_disk(20_000), pytest.raises(OutputError, match="cannot write"):
            stream.stream(lambda first, n: np.ones((n, 100_000), np.float32), big, output)
    assert set(killing.hidden(tmp_path)) <= {".draws.npz.parts"}
