"""The paper's U-Net at a tested size, local Gaussians, standardised vectors: exported, each is what was trained."""

from dataclasses import replace

import numpy as np
import pytest

from stmd_export import Whole, export_onnx
from stmd_sdk import ModelSpec, Sampler
from stmd_sdk.backends.tensorrt import BatchProfile
from stmd_sdk.codecs.codec import PixelCodec, VectorCodec
from stmd_sdk.evaluation import mixture
from stmd_sdk.mixtures.local import LocalGaussians
from stmd_sdk.models.objective import STMD
from stmd_sdk.networks import PRESETS, MLPConfig, NoNetworkConfig
from stmd_sdk.runs.exported import ExportedRun

BATCH = BatchProfile(1, 2, 3)
# The 37.5 M network's blocks, attention and padding at narrow channels; the layers of a block are alike, so one stands
# for two.
CIFAR10 = replace(PRESETS["unet-cifar10"], channels=(16, 16, 16, 16), layers_per_block=1, groups=8, embedding_width=32)


@pytest.mark.long
def test_the_blocks_of_the_cifar10_network(checkpoint, difference, tmp_path):
    spec = ModelSpec("cifar10", STMD(), (3, 16, 16), CIFAR10, PixelCodec(), sigma_data=0.5)
    path = checkpoint(spec)
    assert difference(path, export_onnx(path, tmp_path, batch=BATCH)) <= 1e-5


@pytest.mark.long
@pytest.mark.parametrize("network", [MLPConfig(width=16, depth=1), NoNetworkConfig()], ids=["mlp", "none"])
def test_local_gaussians_are_part_of_the_whole_sampler(checkpoint, tmp_path, network):
    law = mixture("mixture2d")
    gaussians = LocalGaussians.of(law.weights, law.means, law.covariances)
    path = checkpoint(
        ModelSpec(
            "local",
            STMD("mixture", "correction"),
            (2,),
            network,
            VectorCodec(),
            local_gaussians=gaussians,
        )
    )
    batch = BatchProfile(8, 16, 32)  # samples are compared by hundreds: not one by one
    drawn = ExportedRun.open(export_onnx(path, tmp_path, whole=Whole(2, 2), batch=batch)).sample(200, seed=4)
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
