"""Models from the Hub: what is fetched, what never is, and one clear error for all that can go wrong."""

import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from stmd_sdk import CheckpointError, InvalidArgumentError, Sampler
from stmd_sdk.cli.app import app
from stmd_sdk.hub import hub_name
from stmd_sdk.hub.client import fetched
from stmd_sdk.models.checkpoint import BUNDLED

MODEL = (BUNDLED / "mixture2d.safetensors").read_bytes()
NAME = "someone/eight-modes"


@pytest.fixture
def stocked(hub):
    """The Hub with one of our models in it, beside files that nobody asked for."""
    hub.add(NAME, {"README.md": b"# Eight modes", "model.safetensors": MODEL, "train.py": b"1/0", "old.bin": b"pickle"})
    return hub


def cached(tmp_path):
    """The names of all files in the cache but its own notes."""
    return sorted(file.name for file in (tmp_path / "hub").glob("models--*/snapshots/*/**/*") if not file.is_dir())


def test_a_model_of_the_hub_draws_what_its_file_draws(stocked, tmp_path):
    opened = Sampler.from_pretrained(NAME, device="cpu")
    assert torch.equal(opened.sample(5, seed=3), Sampler.from_pretrained("mixture2d", device="cpu").sample(5, seed=3))
    assert stocked.downloads() == cached(tmp_path) == ["model.safetensors"]


def test_a_revision_is_the_model_of_that_commit_and_is_fetched_once(stocked):
    (first,) = stocked.repositories[NAME].commits
    newer = (BUNDLED / "mixture64.safetensors").read_bytes()
    stocked.add(NAME, {"model.safetensors": newer})
    assert Sampler.from_pretrained(NAME).spec.name == "mixture64-local"
    assert Sampler.from_pretrained(NAME, revision=first).spec.name == "mixture2d"
    assert Sampler.from_pretrained(f"{NAME}@{first}").spec.name == "mixture2d"
    assert stocked.downloads() == ["model.safetensors"] * 2


@pytest.mark.parametrize("how", ["no network", "a server that is down", "offline mode"])
def test_what_was_fetched_serves_where_the_hub_cannot_be_reached(how, stocked, monkeypatch):
    before = Sampler.from_pretrained(NAME).sample(2, seed=0)
    match how:
        case "no network":
            monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the port of what is discarded: nobody listens
        case "a server that is down":
            stocked.down = True
        case _:
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert torch.equal(Sampler.from_pretrained(NAME).sample(2, seed=0), before)
    with pytest.raises(CheckpointError, match=r"someone/other: .* cannot be reached .* not in the cache") as caught:
        Sampler.from_pretrained("someone/other")
    assert "\n" not in str(caught.value)


def test_the_commands_take_a_name_of_the_hub(stocked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, ["info", NAME])
    assert said.exit_code == 0
    assert "mixture2d" in said.stdout
    for model, out in ((NAME, "hub.npz"), ("mixture2d", "own.npz")):
        drawn = CliRunner().invoke(app, ["sample", "-m", model, "-n", "4", "--seed", "1", "-o", out])
        assert drawn.exit_code == 0, drawn.output
    assert Path("hub.npz").read_bytes() == Path("own.npz").read_bytes()
    lost = CliRunner().invoke(app, ["sample", "-m", "someone/lost"])
    assert (lost.exit_code, lost.stderr.count("\n")) == (2, 1)


def test_of_a_folder_of_diffusers_its_json_and_its_plain_weights_are_fetched(hub):
    weights = ["unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model-00001-of-00002.safetensors"]
    configurations = ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json"]
    others = [
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "everything.safetensors",
        "text_encoder/model.safetensors",
        "pipeline.py",
    ]
    hub.add("lab/ddpm", {file: file.encode() for file in (*weights, *configurations, *others)})
    folder = fetched("lab/ddpm", None)
    found = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.*"))
    assert found == sorted((*weights, *configurations))
    assert (folder / weights[0]).read_bytes() == weights[0].encode()


@pytest.mark.parametrize(
    "name", ["me/model", "me/model-1.5", "me/ddpm-v2.en", "m_e/a", "me/model@v1.0", "me/a@refs/pr/1"]
)
def test_a_name_of_the_hub_is_one(name):
    assert hub_name(name) == (name.partition("@")[0], name.partition("@")[2] or None)


@pytest.mark.parametrize(
    "path",
    [
        "runs/model.safetensors",
        "runs/model.onnx",
        "runs/weights.PT",
        "./model",
        "../model",
        "/models/mine",
        "~/model",
        "runs/mnist/model",
        "runs//model",
        "mnits",
        "runs/",
        "runs/mn..ist",
        "owner/na me",
    ],
)
def test_what_can_only_be_a_path_never_reaches_the_network(path, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="neither a file nor"):
        Sampler.from_pretrained(path)
    assert hub.asked == []


def test_what_is_here_comes_before_what_is_on_the_hub(stocked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(NAME).parent.mkdir()
    Path(NAME).write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match="suffixless"):
        Sampler.from_pretrained(NAME)
    with pytest.raises(InvalidArgumentError, match="revision 'main' is of a model on the Hub"):
        Sampler.from_pretrained("mixture2d", revision="main")
    assert stocked.asked == []


def test_what_does_not_exist_is_said(stocked):
    with pytest.raises(CheckpointError, match=r"no someone/lost: neither a file or folder here, nor a model on http"):
        Sampler.from_pretrained("someone/lost")
    with pytest.raises(CheckpointError, match=r"someone/eight-modes has no revision 'v9'"):
        Sampler.from_pretrained(NAME, revision="v9")


def test_a_gated_repository_is_said_to_be_one(stocked, tmp_path):
    stocked.repositories[NAME].gated = True
    with pytest.raises(CheckpointError, match=r"is gated: ask for access at .* hf auth login"):
        Sampler.from_pretrained(NAME)
    assert cached(tmp_path) == []


@pytest.mark.parametrize(("fault", "said"), [("cut", "cannot be fetched whole"), ("forged", "not what the Hub says")])
def test_a_damaged_download_is_an_error_and_leaves_nothing(fault, said, stocked, tmp_path):
    getattr(stocked, fault).add("model.safetensors")
    with pytest.raises(CheckpointError, match=said) as caught:
        Sampler.from_pretrained(NAME)
    assert "\n" not in str(caught.value)
    assert cached(tmp_path) == []
    assert [file for file in (tmp_path / "hub").rglob("blobs/*") if file.is_file()] == []
    getattr(stocked, fault).clear()
    assert Sampler.from_pretrained(NAME).spec.name == "mixture2d"


def test_a_forged_configuration_is_found_too(hub):
    hub.add("lab/ddpm", {"model_index.json": b"{}", "unet/diffusion_pytorch_model.safetensors": b"weights"})
    hub.forged.add("model_index.json")
    with pytest.raises(CheckpointError, match=r"model_index\.json: what came is not"):
        fetched("lab/ddpm", None)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["pytorch_model.bin", "config.json"], "pickled weights alone"),
        (["model.ckpt"], "pickled weights alone"),
        (["README.md"], "holds no model"),
        (["text_encoder/model.safetensors", "model_index.json"], "holds no model"),
        (["a.safetensors", "b.safetensors"], r"several models \(a\.safetensors, b\.safetensors\)"),
    ],
)
def test_a_repository_without_a_model_to_open_is_refused_before_anything_is_fetched(files, said, hub, tmp_path):
    hub.add("lab/thing", dict.fromkeys(files, b"content"))
    with pytest.raises(CheckpointError, match=said):
        Sampler.from_pretrained("lab/thing")
    assert hub.downloads() == cached(tmp_path) == []


def test_the_line_that_converts_pickles_is_python(hub):
    hub.add("lab/thing", {"model.ckpt": b"pickle"})
    with pytest.raises(CheckpointError) as caught:
        Sampler.from_pretrained("lab/thing")
    (line,) = re.findall(r'python -c "(.*)"$', str(caught.value))
    compile(line, "the line", "exec")


def test_a_file_that_is_no_model_of_ours_is_said_by_its_path(hub):
    hub.add("lab/thing", {"model.safetensors": b"\x02\0\0\0\0\0\0\0{}"})
    with pytest.raises(CheckpointError, match="no STMD spec in it"):
        Sampler.from_pretrained("lab/thing")
