"""Reduced precision is in the graph, with float32 islands, and its samples are not told apart."""

import json

import onnx
import pytest
import torch

from stmd_export import ExportError
from stmd_export.onnx_export import report_path
from stmd_export.precision import check_precision, lowered
from stmd_sdk import Sampler
from stmd_sdk.errors import CheckpointError
from stmd_sdk.models.checkpoint import load_model


@pytest.mark.parametrize(
    ("name", "precision", "kind"),
    [pytest.param("unet", "fp16", "FLOAT16", marks=pytest.mark.long), ("mlp", "bf16", "BFLOAT16")],
)
def test_products_are_reduced_and_norms_are_not(exported, name, precision, kind):
    made = exported(name, precision=precision)
    report = json.loads(report_path(made.onnx).read_text())
    operators = report["operators"]
    assert set(operators.pop("InstanceNormalization", {"FLOAT": 0})) == {"FLOAT"}
    assert all(kind in found for found in operators.values())
    assert operators.get("Conv", {kind: 0}).keys() == {kind}
    assert report["parity"]["p_value"] > 1e-3
    assert 0 < report["parity"]["maximum"] <= {"fp16": 2e-2, "bf16": 1e-1}[precision]
    model = onnx.load(made.onnx)
    assert {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)} == {1}


def test_a_precision_that_is_only_claimed_is_noticed(exported):
    with pytest.raises(ExportError, match="computes in FLOAT, not FLOAT16"):
        check_precision(onnx.load(exported("unet").onnx), "fp16")
    with pytest.raises(ExportError, match="computes in FLOAT16, not FLOAT"):
        check_precision(onnx.load(exported("unet", precision="fp16").onnx), "fp32")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["mlp", "dit", "unet"])
def test_a_reduced_network_stays_near_and_leaves_the_original_alone(exported, name, precision):
    made = exported(name)
    _, network = load_model(made.checkpoint)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    x, times = torch.randn(4, made.spec.in_channels, *made.spec.shape[1:]), torch.rand(4, 3)
    with torch.no_grad():
        difference = lowered(network, precision)(x, times) - network(x, times)
    assert 0 < difference.abs().max() < {"fp16": 1e-2, "bf16": 1e-1}[precision]
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_fp16_samples_follow_the_fp32_ones(exported):
    single, half = (Sampler.from_pretrained(exported("unet", precision=p).onnx) for p in ("fp32", "fp16"))
    difference = single.sample(16, seed=0) - half.sample(16, seed=0)
    assert 0 < difference.abs().max() < 2e-2


def test_a_bf16_graph_on_the_cpu_is_a_clear_error(exported):
    with pytest.raises(CheckpointError, match="cannot load it"):
        Sampler.from_pretrained(exported("mlp", precision="bf16").onnx)
