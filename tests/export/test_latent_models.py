"""Latent models at the shapes of DiT-M/2: exported, each is what was trained, and the decoder comes with it."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest

from stmd_export import Whole, export_onnx, onnx_export
from stmd_export.onnx_export import report_path
from stmd_sdk import ModelSpec, Sampler
from stmd_sdk.backends.tensorrt import BatchProfile
from stmd_sdk.codecs.codec import LatentCodec
from stmd_sdk.codecs.vae import WEIGHTS
from stmd_sdk.models.objective import STMD
from stmd_sdk.networks import PRESETS
from stmd_sdk.runs.exported import ExportedRun

BATCH = BatchProfile(1, 2, 3)
# DiT-M/2's tokens, heads and widths; its blocks are alike, so one stands for sixteen.
DIT_M2 = replace(PRESETS["dit-m2"], depth=1)


@pytest.fixture(scope="module")
def latents(checkpoint, vae_folder, tmp_path_factory):
    """(checkpoint, exported network) of a latent model with DiT-M/2's shapes."""
    codec = LatentCodec(vae=str(vae_folder), factor=2)
    spec = ModelSpec("latents", STMD("residual"), (4, 16, 16), DIT_M2, codec, sigma_data=0.9)
    path = checkpoint(spec)
    return path, export_onnx(path, tmp_path_factory.mktemp("latents"), batch=BATCH)


@pytest.mark.long
def test_latents_of_the_shapes_of_dit_m2(latents, difference):
    path, file = latents
    assert difference(path, file) <= 1e-5
    eager, session = (Sampler.from_pretrained(source, device="cpu") for source in (path, file))
    images = [sampler.sample(3, inference_steps=2, seed=0) for sampler in (eager, session)]
    assert images[0].shape == (3, 3, 32, 32)
    assert (images[0] - images[1]).abs().max() <= 1e-4
    assert session.spec == eager.spec


@pytest.mark.long
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
