"""A pretrained denoiser goes to ONNX as any model does: its network, and the whole sampler around its exact flow."""

import json

import pytest
import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel

from stmd_export import Whole, export_onnx
from stmd_sdk import Sampler
from stmd_sdk.backends.tensorrt import BatchProfile
from stmd_sdk.runs.exported import ExportedRun


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(5)
    network = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=1, out_channels=2, num_layers=1, sample_size=4,
        patch_size=2, num_embeds_ada_norm=3,
    )  # fmt: skip
    torch.nn.init.normal_(network.proj_out_2.weight, std=0.2)
    path = tmp_path_factory.mktemp("models") / "tiny"
    network.save_pretrained(path)
    DDPMScheduler(prediction_type="v_prediction").save_pretrained(path)
    return path


@pytest.mark.long
def test_the_network_and_the_whole_sampler_draw_what_the_folder_draws(folder, tmp_path):
    eager, batch = Sampler.from_pretrained(folder, device="cpu"), BatchProfile(1, 2, 3)
    network = Sampler.from_pretrained(export_onnx(folder, tmp_path, batch=batch), device="cpu")
    asked = {"inference_steps": 2, "mean_flow_steps": 3, "labels": 1, "seed": 0}
    expected = eager.sample(3, **asked)
    assert expected.std() > 0.1
    torch.testing.assert_close(network.sample(3, **asked), expected, atol=1e-4, rtol=0)
    whole = export_onnx(folder, tmp_path, whole=Whole(2, 3, label=1), batch=batch)
    torch.testing.assert_close(torch.from_numpy(ExportedRun.open(whole).sample(3, seed=0)), expected, atol=1e-4, rtol=0)
    report = json.loads(whole.with_name(whole.name + ".json").read_text())
    assert report["spec"]["objective"]["levels"]["prediction"] == "v_prediction"
    # Another key, another draw: the noise of the flow is an input.
    other = ExportedRun.open(whole).sample(3, seed=1)
    assert abs(torch.from_numpy(other) - expected).max() > 0.05
