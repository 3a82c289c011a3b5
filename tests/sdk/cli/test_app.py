"""The command line: what it writes is what the library draws, and bad input is one line and exit code 2."""

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import stmd_sdk
from stmd_sdk import ModelSpec, Sampler, grid
from stmd_sdk.cli.app import app
from stmd_sdk.cli.options import named
from stmd_sdk.codecs.codec import PixelCodec, VectorCodec
from stmd_sdk.models.checkpoint import save_model
from stmd_sdk.models.objective import STMD
from stmd_sdk.networks import DiTConfig, MLPConfig

runner = CliRunner()


@pytest.fixture
def image_model(tmp_path):
    spec = ModelSpec("tiny", STMD(), (1, 4, 4), DiTConfig(depth=1, width=8, heads=1), PixelCodec())
    network = spec.build_network()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    save_model(tmp_path / "tiny.safetensors", spec, network.state_dict())
    return tmp_path / "tiny.safetensors"


@pytest.fixture
def vector_model(tmp_path):
    spec = ModelSpec("line", STMD(), (3,), MLPConfig(width=8, depth=1), VectorCodec())
    save_model(tmp_path / "line.safetensors", spec, spec.build_network().state_dict())
    return tmp_path / "line.safetensors"


def run(*arguments):
    return runner.invoke(app, [str(argument) for argument in arguments])


def test_sample_writes_the_librarys_draws_as_array_and_picture(image_model, tmp_path):
    expected = Sampler.from_pretrained(image_model).sample(5, inference_steps=3, seed=7, first=2)
    options = ("sample", "-m", image_model, "-n", 5, "--steps", 3, "--seed", 7, "--first", 2)
    result = run(*options, "-o", tmp_path / "x.npz")
    assert result.exit_code == 0, result.output
    assert np.array_equal(np.load(tmp_path / "x.npz")["x"], expected.numpy())
    assert run(*options, "-o", tmp_path / "x.png").exit_code == 0
    assert Image.open(tmp_path / "x.png").tobytes() == grid(expected).tobytes()
    for fact in ("5 samples of tiny", "3 inference steps", "seed 7", "samples 2 to 6", "x.npz", "samples a second"):
        assert fact in result.output.replace("\n", "")


def test_the_version_is_that_of_the_package():
    assert run("--version").output.strip() == f"stmd-sdk {stmd_sdk.__version__}"


def test_several_processes_draw_no_picture(image_model, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = run("sample", "-m", image_model, "-n", 2, "-o", tmp_path / "x.png")
    assert result.exit_code == 2
    assert "a picture takes one process" in " ".join(result.output.split())


def test_a_fresh_seed_is_printed_and_draws_the_same_again(image_model, tmp_path):
    result = run("sample", "-m", image_model, "-n", 2, "-o", tmp_path / "a.npz")
    seed = result.output.split("seed ")[1].split(",")[0]
    run("sample", "-m", image_model, "-n", 2, "--seed", seed, "-o", tmp_path / "b.npz")
    assert np.array_equal(np.load(tmp_path / "a.npz")["x"], np.load(tmp_path / "b.npz")["x"])


def test_a_grid_of_times_is_a_way_to_say_steps(image_model, tmp_path):
    for name, steps in (("a", "2"), ("b", "1,0.5,0")):
        assert (
            run("sample", "-m", image_model, "--seed", 0, "--steps", steps, "-o", tmp_path / f"{name}.npz").exit_code
            == 0
        )
    assert np.array_equal(np.load(tmp_path / "a.npz")["x"], np.load(tmp_path / "b.npz")["x"])


def test_trajectory_ends_with_the_samples(image_model, tmp_path):
    result = run("trajectory", "-m", image_model, "-n", 3, "--steps", 2, "--seed", 0, "-o", tmp_path / "t.png")
    assert result.exit_code == 0, result.output
    samples = grid(Sampler.from_pretrained(image_model).sample(3, inference_steps=2, seed=0), columns=3)
    picture = Image.open(tmp_path / "t.png")
    assert picture.height == 3 * samples.height  # x_0 and x_s of the first step, x_0 of the last
    assert picture.crop((0, 2 * samples.height, *picture.size)).tobytes() == samples.tobytes()


def test_info_shows_the_spec(vector_model):
    output = run("info", vector_model).output
    for fact in ("line", "stmd", "mlp", "parameters", "beta_max"):
        assert fact in output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("sample", "-m", "no-such-model"), "no model 'no-such-model'"),
        (("sample", "--steps", "two"), "--steps must be"),
        (("sample", "--steps", "0"), "inference_steps"),
        (("sample", "--steps", "0.5,1,0"), "grid of times"),
        (("sample", "-n", "0"), "n must be"),
        (("sample", "--device", "cuda:77"), "CUDA"),
        (("sample", "--device", "abacus"), "no such device"),
        (("sample", "-o", "x.bmp"), ".png, .npz or .tar, or be a folder"),
        (("sample", "-o", "x.npz", "-n", "0"), "n must be"),
        (("sample", "-o", "folder", "--steps", "0"), "inference_steps"),
        (("sample", "-o", "line.safetensors/x.png"), "cannot write"),
        (("trajectory",), "no images"),
        (("info", "no-such-model"), "no model"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(vector_model, tmp_path, monkeypatch, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    if arguments[0] != "info" and "-m" not in arguments:
        arguments = (*arguments, "-m", vector_model)
    if "--device" in arguments and torch.cuda.device_count() > 77:
        pytest.skip("this machine has that many")
    result = run(*arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert result.stderr.count("error:") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"line.safetensors"}


def test_a_model_that_is_none_is_said_before_data_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("evaluate", "no-such-model", "--data", "nowhere")
    assert result.exit_code == 2
    assert "no model 'no-such-model'" in result.stderr


def test_vectors_that_are_no_points_of_the_plane_go_to_npz_only(vector_model, tmp_path):
    assert run("sample", "-m", vector_model, "-o", tmp_path / "x.png").exit_code == 2
    assert not (tmp_path / "x.png").exists()
    assert run("sample", "-m", vector_model, "-o", tmp_path / "x.npz").exit_code == 0


def test_a_model_that_is_replaced_while_it_loads_is_not_recorded(vector_model, tmp_path, monkeypatch):
    loaded = Sampler.from_pretrained

    def swapped(model, **options):
        sampler = loaded(model, **options)
        with vector_model.open("ab") as file:
            file.write(b"another")
        return sampler

    monkeypatch.setattr(Sampler, "from_pretrained", swapped)
    result = run("sample", "-m", vector_model, "-n", 2, "-o", tmp_path / "x.npz")
    assert result.exit_code == 2
    assert "was replaced while it was loaded" in " ".join(result.output.split())
    assert not (tmp_path / "x.npz").exists()


def test_files_are_called_by_the_run_where_every_run_has_a_model():
    for model, name in {
        "mnist": "mnist",
        "bundled:mnist": "mnist",
        "runs/a/model.safetensors": "a",
        "b/model.onnx": "b",
        "nets/fine.safetensors": "fine",
    }.items():
        assert named(model) == name


def test_a_picture_of_more_samples_than_memory_holds_is_refused(image_model, tmp_path):
    result = run("sample", "-m", image_model, "-n", 10**8, "-o", tmp_path / "x.png")
    assert result.exit_code == 2
    assert "name an .npz or a folder" in result.output.replace("\n", " ")
