"""Folders of diffusers on the Hub: opened from there, put there as models of this project, distilled."""

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from typer.testing import CliRunner

from stmd_sdk import Sampler, STMDPipeline
from stmd_sdk.cli.app import app
from stmd_training.cli import train_app

STEPS = {"inference_steps": 2, "mean_flow_steps": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What diffusers' own code saved."""
    torch.manual_seed(3)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    folder = tmp_path_factory.mktemp("models") / "tiny-ddpm"
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    return Sampler.from_pretrained(folder, device="cpu").sample(2, seed=5, **STEPS)


def drawn(model):
    return Sampler.from_pretrained(model, device="cpu").sample(2, seed=5, **STEPS)


def test_a_folder_of_the_hub_draws_what_the_folder_draws(folder, expected, hub):
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
    hub.add("lab/tiny-ddpm", files | {"unet/diffusion_pytorch_model.bin": b"pickle"})
    opened = Sampler.from_pretrained("lab/tiny-ddpm", device="cpu")
    assert torch.equal(opened.sample(2, seed=5, **STEPS), expected)
    assert opened.spec.name == "tiny-ddpm"
    assert "unet/diffusion_pytorch_model.bin" not in hub.downloads()


def test_it_is_put_there_as_a_model_of_this_project_and_opened_again(folder, expected, hub):
    done = CliRunner().invoke(app, ["push", str(folder), "me/ddpm"])
    assert done.exit_code == 0, done.output
    assert torch.equal(drawn("me/ddpm"), expected)
    (repository,) = hub.repositories.values()
    assert sorted(repository.commits[repository.refs["main"]]) == ["README.md", "model.safetensors", "samples.png"]


def test_it_is_a_pipeline_that_draws_by_its_exact_flow(folder, expected, tmp_path):
    STMDPipeline.from_sampler(Sampler.from_pretrained(folder, device="cpu")).save_pretrained(tmp_path)
    pipe = STMDPipeline.from_pretrained(tmp_path)
    seeded = torch.Generator().manual_seed(5)
    images = pipe(2, num_inference_steps=2, mean_flow_steps=2, generator=seeded, output_type="pt").images
    assert torch.equal(images, expected / 2 + 0.5)


def test_a_pipeline_that_was_saved_and_put_on_the_hub_is_opened_there(hub, tmp_path):
    """As ``pipe.push_to_hub`` puts it: the files that ``save_pretrained`` writes."""
    digits = Sampler.from_pretrained("digits", device="cpu")
    STMDPipeline.from_sampler(digits).save_pretrained(tmp_path)
    hub.add("lab/digits", {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*.*")})
    opened = Sampler.from_pretrained("lab/digits", device="cpu")
    assert opened.spec == digits.spec
    assert torch.equal(opened.sample(2, seed=5), digits.sample(2, seed=5))
    done = CliRunner().invoke(app, ["push", "lab/digits", "me/digits"])
    assert done.exit_code == 0, done.output
    assert torch.equal(Sampler.from_pretrained("me/digits", device="cpu").sample(2, seed=5), digits.sample(2, seed=5))


def test_it_teaches(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = "steps=1", "batch_size=4", 'network={kind="unet",channels=[8,16],groups=4,attention=[],embedding_width=16}'
    settings = [one for setting in small for one in ("--set", setting)]
    done = CliRunner().invoke(
        train_app,
        ["distill", "digits-calibrated", "--teacher", str(folder), "--pool", "4", "--steps", "1", "--quiet", *settings],
    )
    assert done.exit_code == 0, done.output
    training = Sampler.from_pretrained("runs/digits-calibrated-distilled/model.safetensors").spec.training
    assert (training["teacher"], training["data"]) == ("tiny-ddpm", "samples of tiny-ddpm")
