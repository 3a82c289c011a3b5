"""Latents: the codec is diffusers' VAE, its noise is a key, its files are the ones meant, nothing is downloaded."""

import hashlib
import json
import shutil
import socket
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from stmd_sdk import CheckpointError, InvalidArgumentError, ModelSpec, Noise, Sampler
from stmd_sdk.codecs.codec import ROWS, LatentCodec, VectorCodec
from stmd_sdk.codecs.vae import CONFIG, OLD_ATTENTION, WEIGHTS
from stmd_sdk.models.objective import BY_KIND, STMD
from stmd_sdk.networks import DiTConfig

SHAPE = (4, 8, 8)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def codec(vae_folder):
    return LatentCodec(vae=str(vae_folder), factor=2)


@pytest.fixture
def theirs(vae_folder):
    """The same VAE as diffusers loads it."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return AutoencoderKL.from_pretrained(vae_folder, low_cpu_mem_usage=False).eval().requires_grad_(False)


@pytest.fixture
def copy(vae_folder, tmp_path):
    return shutil.copytree(vae_folder, tmp_path / "vae")


def spec_of(codec, objective="stmd"):
    return ModelSpec("faces", BY_KIND[objective](), SHAPE, DiTConfig(depth=1, width=8, heads=2), codec)


def images(n):
    return Noise.of(1, n).normal(3, 16, 16).clamp(-1, 1)


def test_without_noise_an_image_becomes_the_scaled_mean(codec, theirs):
    expected = 0.18215 * theirs.encode(images(3)).latent_dist.mean
    assert torch.equal(codec.encode(images(3)), expected)


def test_a_shift_is_taken_off_and_put_back(codec, theirs):
    shifted = replace(codec, shift_factor=0.3)
    mean = theirs.encode(images(3)).latent_dist.mean
    torch.testing.assert_close(shifted.encode(images(3)), 0.18215 * (mean - 0.3), rtol=0, atol=1e-6)
    drawn, moved = (one.encode(images(3), Noise.of(7, 3)) for one in (codec, shifted))
    torch.testing.assert_close(moved, drawn - 0.18215 * 0.3, rtol=0, atol=1e-6)
    expected = theirs.decode(mean + 0.3).sample.clamp(-1, 1)
    torch.testing.assert_close(shifted.decode(0.18215 * mean), expected, rtol=0, atol=1e-5)


def test_with_noise_it_becomes_a_draw_of_the_vaes_gaussian(codec, theirs):
    law, noise = theirs.encode(images(5)).latent_dist, Noise.of(7, 5)
    expected = 0.18215 * (law.mean + law.std * noise.normal(*SHAPE))
    torch.testing.assert_close(codec.encode(images(5), noise), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(codec.encode(images(5), noise), codec.encode(images(5), noise))


def test_latents_become_diffusers_images_clamped(codec, theirs):
    latents = 3 * Noise.of(2, 4).normal(*SHAPE)
    expected = theirs.decode(latents / 0.18215).sample
    assert expected.abs().max() > 1
    assert torch.equal(codec.decode(latents), expected.clamp(-1, 1))
    assert codec.decode(latents).shape[1:] == codec.decoded_shape(SHAPE)


def test_an_image_does_not_depend_on_the_chunk_that_it_is_decoded_in(codec):
    latents = Noise.of(3, ROWS + 3).normal(*SHAPE)
    alone = torch.cat([codec.decode(row[None]) for row in latents])
    torch.testing.assert_close(codec.decode(latents), alone, rtol=0, atol=1e-5)


def test_the_sampler_decodes_its_last_state(codec):
    sampler = Sampler(lambda x, times: 0.5 * x[:, :4], spec_of(codec), torch.device("cpu"))
    *_, (_, x_0, _) = sampler.trajectory(3, inference_steps=2, seed=0)
    assert torch.equal(sampler.sample(3, inference_steps=2, seed=0), codec.decode(x_0))


def test_a_missing_vae_is_said_before_the_network_is_asked(tmp_path):
    calls = []
    spec = spec_of(LatentCodec(vae=str(tmp_path / "nowhere"), factor=2))
    sampler = Sampler(lambda x, times: calls.append(1) or x[:, :4], spec, torch.device("cpu"))
    with pytest.raises(CheckpointError, match=r"nowhere.*config\.json is missing"):
        sampler.sample(2, seed=0)
    assert calls == []
    assert sampler.posterior(torch.zeros(1, *SHAPE), t=0.5, seed=0).shape == (1, 1, *SHAPE)  # needs no VAE


def test_a_vae_that_is_not_cached_is_not_fetched_but_asked_for(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was touched")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(CheckpointError) as caught:
        LatentCodec().prepare((4, 32, 32))
    assert (
        f"hf download stabilityai/sd-vae-ft-ema {CONFIG} {WEIGHTS} "
        "--revision f04b2c4b98319346dad8c65879f680b1997b204a" in str(caught.value)
    )


def test_a_cached_revision_is_found_and_another_is_not(vae_folder, codec, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    shutil.copytree(vae_folder, tmp_path / "models--some--vae" / "snapshots" / COMMIT)
    latents = Noise.of(4, 1).normal(*SHAPE)
    cached = LatentCodec(vae=f"some/vae@{COMMIT}", factor=2)
    assert torch.equal(cached.decode(latents), codec.decode(latents))
    with pytest.raises(CheckpointError, match="hf download some/vae"):
        LatentCodec(vae=f"some/vae@{COMMIT[::-1]}", factor=2).prepare(SHAPE)


def test_files_with_the_old_names_of_attention_are_the_same_vae(copy, codec):
    weights = load_file(copy / WEIGHTS)
    for old, new in OLD_ATTENTION.items():
        for name in [name for name in weights if f".attentions.0.{new}." in name]:
            weights[name.replace(f".{new}.", f".{old}.")] = weights.pop(name)
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in weights
    save_file(weights, copy / WEIGHTS)
    latents = Noise.of(5, 2).normal(*SHAPE)
    assert torch.equal(LatentCodec(vae=str(copy), factor=2).decode(latents), codec.decode(latents))


def _without_a_tensor(folder):
    weights = load_file(folder / WEIGHTS)
    del weights["decoder.conv_in.weight"]
    save_file(weights, folder / WEIGHTS)


def _with_nan(folder):
    weights = load_file(folder / WEIGHTS)
    weights["decoder.conv_in.bias"][0] = torch.nan
    save_file(weights, folder / WEIGHTS)


def _configured(**changes):
    def change(folder):
        (folder / CONFIG).write_text(json.dumps(json.loads((folder / CONFIG).read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / WEIGHTS).unlink(), f"{WEIGHTS} is missing"),
        (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]), "not a whole"),
        (_without_a_tensor, "decoder.conv_in.weight"),
        (_with_nan, "decoder.conv_in.bias"),
        (lambda folder: (folder / CONFIG).write_text("{"), "not JSON"),
        (lambda folder: (folder / CONFIG).write_text("[" * 10**5), "nested too deeply"),
        (_configured(layers_per_block=10**18), "cannot build a VAE.*layers_per_block"),
        (_configured(layers_per_block=[10**18] * 2), "cannot build a VAE.*layers_per_block"),
        (_configured(block_out_channels=[2**40]), "cannot build a VAE.*block_out_channels"),
        (_configured(latent_channels="four"), "cannot build a VAE"),
        (_configured(_class_name="AutoencoderTiny"), "no AutoencoderKL"),
        (_configured(norm_num_groups=3), "cannot build a VAE"),
        (_configured(colour=1), "colour"),
        (_configured(latent_channels=3), "another shape"),
    ],
)
def test_files_that_are_no_vae_are_refused(copy, damage, says):
    damage(copy)
    with pytest.raises(CheckpointError, match=says):
        LatentCodec(vae=str(copy), factor=2).prepare(SHAPE)


def test_other_weights_than_those_of_the_training_are_refused(vae_folder):
    sha256 = hashlib.sha256((vae_folder / WEIGHTS).read_bytes()).hexdigest()
    LatentCodec(vae=str(vae_folder), factor=2, sha256=sha256).prepare(SHAPE)
    with pytest.raises(CheckpointError, match=f"trained with; its SHA-256 is {sha256}"):
        LatentCodec(vae=str(vae_folder), factor=2, sha256="0" * 64).prepare(SHAPE)


@pytest.mark.parametrize(("changes", "shape"), [({"factor": 8}, SHAPE), ({"channels": 1}, SHAPE), ({}, (16, 8, 8))])
def test_a_vae_of_other_shapes_is_refused(codec, changes, shape):
    with pytest.raises(CheckpointError, match="4 latent channels, 3 image channels and a factor of 2"):
        replace(codec, **changes).prepare(shape)


@pytest.mark.parametrize(
    "bad",
    [
        {"scaling_factor": 0.0},
        {"scaling_factor": torch.inf},
        {"shift_factor": torch.nan},
        {"factor": 0},
        {"channels": 0},
    ],
)
def test_settings_that_mean_nothing_are_refused(bad):
    with pytest.raises(InvalidArgumentError, match=next(iter(bad))):
        LatentCodec(**bad)


def test_latents_are_images_and_ride_in_the_spec():
    spec = spec_of(LatentCodec(scaling_factor=0.13, sha256="ab"))
    assert ModelSpec.from_json(spec.to_json(), "here") == spec
    assert spec.codec.decoded_shape((4, 32, 16)) == (3, 256, 128)
    with pytest.raises(InvalidArgumentError, match=r"shape: latents have shape \[c, h, w\]"):
        ModelSpec("faces", STMD(), (4,), DiTConfig(depth=1, width=8, heads=2), LatentCodec())


def test_ddpms_estimate_of_latents_is_not_clipped(codec):
    assert codec.bound is None
    posterior = spec_of(codec, "ddpm").build_posterior(lambda x, times: torch.zeros_like(x))
    assert posterior(5 * torch.ones(1, *SHAPE), torch.tensor([0.5]), Noise.of(0, 1)).max() > 5
    assert VectorCodec().decoded_shape((2,)) == (2,)


def test_loading_draws_nothing_from_the_global_generator(copy):
    state = torch.get_rng_state()
    LatentCodec(vae=str(copy), factor=2).prepare(SHAPE)
    assert torch.equal(torch.get_rng_state(), state)
