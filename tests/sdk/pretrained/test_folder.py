"""Diffusers' folders: what diffusers saved is drawn from here, and what is wrong with a folder is one clear error."""

import json
import shutil

import numpy as np
import pytest
import torch
import typer
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTTransformer2DModel,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from stmd_sdk import CheckpointError, Noise, Sampler
from stmd_sdk.cli.certify import certify
from stmd_sdk.codecs.codec import LatentCodec, PixelCodec, VectorCodec
from stmd_sdk.diffusion.classes import Classes
from stmd_sdk.diffusion.preconditioning import DiscreteSteps, EDMLevels, FlowLevels
from stmd_sdk.models.checkpoint import resolve_model, save_model
from stmd_sdk.pretrained.opening import pretrained_spec
from stmd_sdk.pretrained.scheduler import read_scheduler

WEIGHTS = "diffusion_pytorch_model.safetensors"


def _unet(**options):
    torch.manual_seed(3)
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    small = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 8}
    return UNet2DModel(in_channels=1, **({"out_channels": 1} | blocks | small | options)).eval()


@pytest.fixture(scope="module")
def unet():
    return _unet()


@pytest.fixture(scope="module")
def pipeline(unet, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-ddpm"
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(pipeline, tmp_path):
    return shutil.copytree(pipeline, tmp_path / "copy")


@pytest.fixture(scope="module")
def dit(tmp_path_factory):
    torch.manual_seed(4)
    folder = tmp_path_factory.mktemp("models") / "tiny-dit"
    network = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=4,
        patch_size=2, num_embeds_ada_norm=10,
    ).eval()  # fmt: skip
    torch.nn.init.normal_(network.proj_out_2.weight)
    network.save_pretrained(folder)
    DDIMScheduler(clip_sample=False).save_pretrained(folder)
    return folder, network


def _change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_pipeline_is_the_denoiser_that_diffusers_makes_of_it(pipeline, unet):
    sampler = Sampler.from_pretrained(pipeline, device="cpu")
    spec, scheduler = sampler.spec, DDPMScheduler()
    assert (spec.name, spec.shape, spec.codec, spec.classes) == ("tiny-ddpm", (1, 8, 8), PixelCodec(), None)
    x = Noise.of(0, 2).normal(1, 8, 8)
    for k in (3, 400, 900):
        bar = scheduler.alphas_cumprod[k]
        with torch.no_grad():
            output = unet(x, k).sample
        expected = scheduler.step(output, k, x).pred_original_sample
        found = sampler.denoiser(x / bar.sqrt(), (1 / bar - 1).sqrt().repeat(2))
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.long
def test_a_pipeline_is_certified_on_held_out_data_by_the_command(pipeline, tmp_path):
    x = Noise.of(0, 100).uniform(1, 8, 8) - 0.5
    np.savez(tmp_path / "held-out.npz", x=x.numpy())
    app = typer.Typer()
    app.command()(certify)
    options = ["--data", f"{tmp_path / 'held-out.npz'}", "--pairs", "100", "--mean-flow-steps", "8"]
    result = CliRunner().invoke(app, [f"{pipeline}", *options, "--out", f"{tmp_path / 'found'}"])
    assert result.exit_code == 1, result.output  # weights that nobody trained
    facts = json.loads((tmp_path / "found.json").read_text())
    assert (facts["verdict"], facts["mean_flow_steps"], facts["data"]) == ("fail", 8, "held-out.npz")
    assert {"projection coverage", "TARP", "ranks"} <= {one["measure"] for one in facts["findings"]}


def test_where_a_network_alone_lies_beside_its_scheduler(unet, pipeline, tmp_path):
    unet.save_pretrained(tmp_path)
    DDPMScheduler().save_pretrained(tmp_path)
    alone, whole = (Sampler.from_pretrained(folder, device="cpu") for folder in (tmp_path, pipeline))
    few = {"inference_steps": 1, "mean_flow_steps": 2, "seed": 0}
    assert torch.equal(alone.sample(2, **few), whole.sample(2, **few))
    named = Sampler.from_pretrained(pipeline / "unet" / WEIGHTS, device="cpu")
    assert torch.equal(named.sample(2, **few), whole.sample(2, **few))


def test_a_fractional_step_is_between_its_neighbours(pipeline):
    network = Sampler.from_pretrained(pipeline, device="cpu").network
    x = Noise.of(0, 1).normal(1, 8, 8)
    low, between, high = (network(x, torch.full((1, 1), k)) for k in (20.0, 20.5, 21.0))
    # The nearest step would be half of the difference away; the fastest feature turns by a radian a step.
    assert 0 < (between - (low + high) / 2).abs().max() < 0.35 * (high - low).abs().max()


def test_a_dit_draws_by_class_with_its_null_class_and_without_its_variance(dit):
    folder, network = dit
    sampler = Sampler.from_pretrained(folder, device="cpu")
    assert sampler.spec.classes == Classes(10)
    assert sampler.spec.codec == VectorCodec()
    x, times = Noise.of(0, 2).normal(4, 4, 4), torch.tensor([[30.0, 7.0], [500.5, 10.0]])
    with torch.no_grad():
        expected = network(x, times[:, 0], times[:, 1].long()).sample[:, :4]
    torch.testing.assert_close(sampler.network(x, times), expected)
    few = {"inference_steps": 1, "mean_flow_steps": 2, "seed": 0}
    seven, any_, guided = (
        sampler.sample(1, **few, **more) for more in ({"labels": 7}, {}, {"labels": 7, "guidance": 3.0})
    )
    assert not torch.allclose(seven, any_)
    assert not torch.allclose(guided, seven)


def test_a_folder_saved_as_one_file_is_the_same_model(pipeline, dit, tmp_path):
    for folder in (pipeline, dit[0]):
        sampler, path = Sampler.from_pretrained(folder, device="cpu"), tmp_path / "model.safetensors"
        save_model(path, sampler.spec, sampler.network.module.state_dict())
        again = Sampler.from_pretrained(path, device="cpu")
        assert again.spec == sampler.spec
        few = {"inference_steps": 1, "mean_flow_steps": 2, "seed": 0}
        assert torch.equal(again.sample(2, **few), sampler.sample(2, **few))


def test_a_file_with_a_spec_inside_is_itself_whatever_lies_beside_it(pipeline, tmp_path):
    sampler, path = Sampler.from_pretrained(pipeline, device="cpu"), tmp_path / "model.safetensors"
    save_model(path, sampler.spec, sampler.network.module.state_dict())
    (tmp_path / "config.json").write_text("{")
    assert Sampler.from_pretrained(path, device="cpu").spec == sampler.spec


def test_latents_go_through_the_pipeline_s_vae(dit, vae_folder, tmp_path):
    folder = shutil.copytree(dit[0], tmp_path / "pipe" / "transformer")
    (folder / "scheduler_config.json").rename(tmp_path / "scheduler_config.json")
    (tmp_path / "pipe" / "scheduler").mkdir()
    shutil.move(tmp_path / "scheduler_config.json", tmp_path / "pipe" / "scheduler")
    config = shutil.copytree(vae_folder, tmp_path / "pipe" / "vae") / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"shift_factor": 0.1}))
    index = {"_class_name": "DiTPipeline", "transformer": ["diffusers", "DiTTransformer2DModel"]}
    (tmp_path / "pipe" / "model_index.json").write_text(json.dumps(index))
    sampler = Sampler.from_pretrained(tmp_path / "pipe", device="cpu")
    assert isinstance(sampler.spec.codec, LatentCodec)
    assert (sampler.spec.codec.scaling_factor, sampler.spec.codec.shift_factor) == (0.18215, 0.1)
    assert sampler.sample(1, inference_steps=1, mean_flow_steps=1, seed=0).shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("scheduler", "levels", "clip"),
    [
        (DDPMScheduler(clip_sample_range=2.0), DiscreteSteps(), 2.0),
        (DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False), DiscreteSteps("squaredcos_cap_v2"), None),
        (
            DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True, num_train_timesteps=100),
            DiscreteSteps(steps=100, zero_snr=True, prediction="v_prediction"),
            1.0,
        ),
        (
            EulerDiscreteScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", use_karras_sigmas=True
            ),
            DiscreteSteps("scaled_linear", 0.00085, 0.012),
            None,
        ),
        (EDMEulerScheduler(sigma_data=0.7), EDMLevels(0.7), None),
        (FlowMatchEulerDiscreteScheduler(shift=3.0), FlowLevels(), None),
    ],
)
def test_what_a_scheduler_says(scheduler, levels, clip):
    values = {"_class_name": type(scheduler).__name__, **scheduler.config}
    assert read_scheduler(values, "here") == (levels, clip)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"_class_name": "ScoreSdeVeScheduler"},
            "the scheduler 'ScoreSdeVeScheduler' is not supported; there are DDPM",
        ),
        ({"beta_schedule": "sigmoid"}, "betas: must be one of 'linear'"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ({"thresholding": True}, "thresholding"),
        ({"prediction_type": "noise"}, "prediction: must be one of 'epsilon'"),
        ({"num_train_timesteps": "many"}, "steps: expected int"),
        ({"beta_start": -1.0}, "betas: need 0 < start"),
    ],
)
def test_a_scheduler_that_is_not_supported_is_named(copy, change, says):
    _change(copy / "scheduler" / "scheduler_config.json", **change)
    with pytest.raises(CheckpointError, match=f"scheduler_config.json: {says}"):
        Sampler.from_pretrained(copy)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "'UNet2DConditionModel' is not supported: it is conditioned on text"),
        ({"_class_name": "Mine"}, "the network 'Mine' is not supported; there are UNet2DModel"),
        ({"sample_size": None}, "sample_size: missing"),
        ({"num_extra": 3}, "has no argument 'num_extra'"),
        ({"class_embed_type": "timestep"}, "class_embed_type: 'timestep' is not supported"),
        ({"layers_per_block": 10**9}, "layers_per_block is 1e"),
        ({"out_channels": 0}, "out_channels: "),
        ({"down_block_types": ["Nothing"] * 2}, "describes no network"),
        ({"block_out_channels": [8, 24]}, "has shape"),
        ({"layers_per_block": 2}, "its tensors are not those"),
    ],
)
def test_a_network_that_is_not_supported_is_named(copy, change, says):
    _change(copy / "unet" / "config.json", **change)
    with pytest.raises(CheckpointError, match=says):
        Sampler.from_pretrained(copy)


def _without_weights(folder):
    (folder / "unet" / WEIGHTS).unlink()


def _pickle(folder):
    (folder / "unet" / WEIGHTS).rename(folder / "unet" / "diffusion_pytorch_model.bin")


def _twice(folder):
    shutil.copy(folder / "unet" / WEIGHTS, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")


def _half(folder):
    path = folder / "unet" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])


def _less(folder):
    tensors = load_file(folder / "unet" / WEIGHTS)
    tensors.pop("conv_in.bias")
    save_file(tensors, folder / "unet" / WEIGHTS)


def _more(folder):
    save_file({**load_file(folder / "unet" / WEIGHTS), "extra": torch.ones(1)}, folder / "unet" / WEIGHTS)


def _nan(folder):
    save_file(
        {**load_file(folder / "unet" / WEIGHTS), "conv_in.bias": torch.full((8,), torch.nan)}, folder / "unet" / WEIGHTS
    )


def _no_scheduler(folder):
    shutil.rmtree(folder / "scheduler")


def _text(folder):
    (folder / "model_index.json").write_text('{"_class_name": "FluxThing", "vae": ["diffusers", "AutoencoderKL"]}')


def _no_config(folder):
    (folder / "unet" / "config.json").unlink()


def _no_json(folder):
    (folder / "unet" / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_without_weights, "has no weights, as in diffusion_pytorch_model.safetensors"),
        (_pickle, r"model.bin: is a pickle, .*convert it: python -c "),
        (_twice, r"has 2 files of weights \(diffusion_pytorch_model.fp16.safetensors, "),
        (_half, "not a whole safetensors file"),
        (_less, r"its tensors are not those .*conv_in.bias"),
        (_more, r"its tensors are not those .*extra"),
        (_nan, "not finite"),
        (_no_scheduler, "has no scheduler/scheduler_config.json"),
        (_text, "a FluxThing, which has no unet and no transformer"),
        (_no_config, "unet: has no config.json"),
        (_no_json, "config.json: not JSON"),
    ],
)
def test_a_folder_that_is_no_model_says_why(copy, damage, says):
    damage(copy)
    with pytest.raises(CheckpointError, match=says):
        Sampler.from_pretrained(copy)


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pt", ".pkl", ".pth"])
def test_pickles_are_refused_unread(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(CheckpointError, match="is a pickle, which runs what is in it"):
        Sampler.from_pretrained(path)


def test_the_weights_of_an_openvino_graph_are_no_pickle(tmp_path):
    for name in ("model.bin", "model.xml"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"holds the weights of .*model\.xml: name that one"):
        Sampler.from_pretrained(tmp_path / "model.bin")


def test_a_folder_of_something_else_is_no_model(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder; name a file in it"):
        resolve_model(tmp_path)


def test_a_model_of_less_noise_begins_where_it_knows(unet, tmp_path):
    unet.save_pretrained(tmp_path)
    EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").save_pretrained(tmp_path)
    spec = pretrained_spec(resolve_model(tmp_path))
    one = torch.ones(1, dtype=torch.float64)
    largest = float(spec.schedule.sigma(one) / spec.schedule.alpha(one))
    assert largest == pytest.approx(14.6, abs=0.1)
    assert spec.training["sigma"] == "0.0292 to 14.6"
