"""The paper's networks at tested sizes, and latents: exported, each is what was trained."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest

from stmd_export import Whole, export_onnx, onnx_export
from stmd_export.onnx_export import report_path
from stmd_sdk import ModelSpec, Noise, Sampler
from stmd_sdk.backends.tensorrt import BatchProfile
from stmd_sdk.codecs.codec import LatentCodec, PixelCodec, VectorCodec
from stmd_sdk.codecs.vae import WEIGHTS
from stmd_sdk.evaluation import mixture
from stmd_sdk.mixtures.local import LocalGaussians
from stmd_sdk.models.objective import STMD
from stmd_sdk.networks import PRESETS, MLPConfig
from stmd_sdk.runs.exported import ExportedRun

BATCH = BatchProfile(1, 2, 3)
# The 37.5 M network's blocks, attention and padding at narrow channels; the layers of a block are alike, so one stands
# for two.
CIFAR10 = replace(PRESETS["unet-cifar10"], channels=(16, 16, 16, 16), layers_per_block=1, groups=8, embedding_width=32)
# DiT-M/2's tokens, heads and widths; its blocks are alike, so one stands for sixteen.
DIT_M2 = replace(PRESETS["dit-m2"], depth=1)


@pytest.fixture(scope="module")
def latents(checkpoint, vae_folder, tmp_path_factory):
    """(checkpoint, exported network) of a latent model with DiT-M/2's shapes."""
    codec = LatentCodec(vae=str(vae_folder), factor=2)
    spec = ModelSpec("latents", STMD("residual"), (4, 16, 16), DIT_M2, codec, sigma_data=0.9)
    path = checkpoint(spec)
    return path, export_onnx(path, tmp_path_factory.mktemp("latents"), batch=BATCH)


def difference(path, file, b=5):
    """The largest difference of u between a checkpoint and its export, at a batch that export did not try."""
    eager, session = (Sampler.from_pretrained(source, device="cpu") for source in (path, file))
    spec, noise = eager.spec, Noise.of(9, b)
    x, times = noise.fold(0).normal(spec.in_channels, *spec.shape[1:]), noise.fold(1).uniform(spec.times)
    u = eager.network(x, times)
    assert u.std() > 0.05  # else the comparison would say nothing
    return float((u - session.network(x, times)).abs().max())


def test_the_blocks_of_the_cifar10_network(checkpoint, tmp_path):
    spec = ModelSpec("cifar10", STMD(), (3, 16, 16), CIFAR10, PixelCodec(), sigma_data=0.5)
    path = checkpoint(spec)
    assert difference(path, export_onnx(path, tmp_path, batch=BATCH)) <= 1e-5


def test_latents_of_the_shapes_of_dit_m2(latents):
    path, file = latents
    assert difference(path, file) <= 1e-5
    eager, session = (Sampler.from_pretrained(source, device="cpu") for source in (path, file))
    images = [sampler.sample(3, inference_steps=2, seed=0) for sampler in (eager, session)]
    assert images[0].shape == (3, 3, 32, 32)
    assert (images[0] - images[1]).abs().max() <= 1e-4
    assert session.spec == eager.spec


def test_the_decoder_is_part_of_the_whole_sampler(latents, vae_folder, tmp_path, monkeypatch):
    path, file = latents
    network = onnx.load(file)
    del network.metadata_props[:]
    monkeypatch.setattr(onnx_export, "trace_network", lambda *_: network)
    whole = export_onnx(path, tmp_path, whole=Whole(2), batch=BATCH)
    expected = Sampler.from_pretrained(path, device="cpu").sample(3, inference_steps=2, seed=4)
    # Neither PyTorch nor the VAE's files are needed any more.
    weights = vae_folder / WEIGHTS
    hidden = weights.rename(weights.with_suffix(".hidden"))
    try:
        drawn = ExportedRun.open(whole).sample(3, seed=4)
    finally:
        hidden.rename(weights)
    assert np.abs(drawn - expected.numpy()).max() <= 1e-4
    operators = json.loads(report_path(whole).read_text())["operators"]
    assert operators["Conv"] == {"FLOAT": operators["Conv"]["FLOAT"]}  # DiT has none: they are the decoder's


def test_local_gaussians_are_part_of_the_whole_sampler(checkpoint, tmp_path):
    law = mixture("mixture2d")
    gaussians = LocalGaussians.of(law.weights, law.means, law.covariances)
    path = checkpoint(
        ModelSpec(
            "local",
            STMD("mixture", "correction"),
            (2,),
            MLPConfig(width=16, depth=1),
            VectorCodec(),
            local_gaussians=gaussians,
        )
    )
    drawn = ExportedRun.open(export_onnx(path, tmp_path, whole=Whole(2, 2), batch=BATCH)).sample(200, seed=4)
    expected = Sampler.from_pretrained(path, device="cpu").sample(200, inference_steps=2, mean_flow_steps=2, seed=4)
    differs = np.abs(drawn - expected.numpy()).max(axis=1)
    # Where y_1 ends up next to an edge of a mode's interval, float32 has no digits to agree on.
    assert (differs > 1e-4).sum() <= 4
    assert np.median(differs) < 1e-5
    angle = np.arctan2(drawn[:, 1], drawn[:, 0])
    assert len(np.unique((angle / (np.pi / 4)).round() % 8)) == 8  # all modes


def test_a_whole_sampler_of_standardised_vectors_draws_on_the_users_scale(checkpoint, tmp_path):
    codec = VectorCodec((1000.0, -3.0, 0.0), (1.0, 300.0, 1e-3))
    path = checkpoint(ModelSpec("columns", STMD("residual"), (3,), MLPConfig(width=16, depth=1), codec))
    eager = Sampler.from_pretrained(path, device="cpu")
    expected = eager.sample(5, inference_steps=2, seed=3)
    whole = ExportedRun.open(export_onnx(path, tmp_path, batch=BATCH, whole=Whole(2)))
    found = whole.sample(5, seed=3)
    assert np.abs((found - expected.numpy()) / np.array(codec.scale)).max() < 1e-3
    assert abs(found[:, 0].mean() - 1000) < 10
