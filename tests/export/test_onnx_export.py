"""Networks to ONNX: the file is the trained network, says what it is, and appears whole or not at all."""

import json

import numpy as np
import onnx
import pytest
import torch

from stmd_export import ExportError, ParityError, Whole, export_onnx, graph, onnx_export
from stmd_export.onnx_export import report_path
from stmd_sdk import Noise, Sampler
from stmd_sdk.backends.tensorrt import BatchProfile
from stmd_sdk.errors import CheckpointError, InvalidArgumentError, OutputError
from stmd_sdk.models.artefact import Artefact, read_onnx
from stmd_sdk.runs.exported import ExportedRun

NETWORKS = ["mlp", "dit", "unet"]


def network_inputs(spec, b):
    noise = Noise.of(8, b)
    return noise.fold(0).normal(spec.in_channels, *spec.shape[1:]), noise.fold(1).uniform(spec.times)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("b", [1, 5, 80])
def test_exported_equals_eager_beyond_the_batches_that_were_checked(exported, name, b):
    made = exported(name)
    x, times = network_inputs(made.spec, b)
    eager, session = (Sampler.from_pretrained(path).network for path in (made.checkpoint, made.onnx))
    assert (eager(x, times) - session(x, times)).abs().max() <= 1e-5
    assert eager(x, times).std() > 0.05  # else the comparison would say nothing


@pytest.mark.parametrize("name", NETWORKS)
def test_the_sampler_draws_the_same_images_from_either_file(exported, name):
    made = exported(name)
    eager, session = (Sampler.from_pretrained(path) for path in (made.checkpoint, made.onnx))
    for steps, flow in ((4, 1), (3, 2)):
        drawn = [s.sample(6, inference_steps=steps, mean_flow_steps=flow, seed=0) for s in (eager, session)]
        assert (drawn[0] - drawn[1]).abs().max() <= 1e-4


def test_batch_invariant_samples_of_a_session_are_bit_equal(exported):
    sampler = Sampler.from_pretrained(exported("unet").onnx, device="cpu")
    batch = sampler.sample(24, inference_steps=2, seed=4, batch_invariant=True)
    for first, n, size in ((7, 1, None), (15, 5, 2), (0, 24, 64)):
        part = sampler.sample(n, inference_steps=2, seed=4, first=first, batch_size=size, batch_invariant=True)
        assert torch.equal(part, batch[first : first + n])


@pytest.mark.parametrize("objective", ["meanflow", "ddpm"])
def test_the_other_objectives_round_trip(exported, objective):
    made = exported("mlp", objective=objective)
    eager, session = (Sampler.from_pretrained(path) for path in (made.checkpoint, made.onnx))
    assert (eager.sample(6, seed=0) - session.sample(6, seed=0)).abs().max() <= 1e-4


def test_the_residual_target_rides_in_the_file(exported):
    made = exported("mlp", target="residual")
    eager, session = (Sampler.from_pretrained(path) for path in (made.checkpoint, made.onnx))
    assert session.spec == eager.spec
    assert session.spec.objective.target == "residual"
    assert (eager.sample(6, seed=0) - session.sample(6, seed=0)).abs().max() <= 1e-4


def test_the_file_is_a_checked_opset_21_graph_with_a_free_batch_and_no_traces(exported):
    made = exported("unet")
    model = onnx.load(made.onnx)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 21)]
    # Of norms the runtime has kernels; functions it would expand. Attention is one product, not one added to zeros.
    operators = [node.op_type for node in model.graph.node]
    assert "InstanceNormalization" in operators
    assert "GroupNormalization" not in operators
    inputs = {name: node.op_type for node in model.graph.node for name in node.output}
    scores = [inputs[node.input[0]] for node in model.graph.node if node.op_type == "Softmax"]
    assert scores
    assert set(scores) == {"MatMul"}
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        assert dims[0].dim_param == "b"
        assert all(dim.dim_value for dim in dims[1:])
    assert b".py" not in made.onnx.read_bytes()


def test_the_report_holds_every_comparison(exported):
    made = exported("unet")
    report = json.loads(report_path(made.onnx).read_text())
    cases = {(case["inputs"].partition(",")[0], case["batch"]) for case in report["parity"]["cases"]}
    assert cases == {*((name, b) for name in ("random", "real") for b in (1, 2, 3, 65)), ("samples", 65)}
    assert 0 < report["parity"]["maximum"] <= 1e-5
    assert report["operators"]["Conv"] == {"FLOAT": report["operators"]["Conv"]["FLOAT"]}
    spec, artefact = read_onnx(made.onnx)
    assert json.loads(spec) == report["spec"]
    assert json.loads(artefact.to_json()) == report["artefact"]
    assert json.loads(made.spec.to_json()) == report["spec"]


def test_an_export_is_reproducible(exported, tmp_path):
    made = exported("mlp")
    again = export_onnx(made.checkpoint, tmp_path)
    assert again.read_bytes() == made.onnx.read_bytes()


@pytest.mark.parametrize(("name", "objective", "steps"), [("mlp", "stmd", (4, 2)), ("mlp", "meanflow", (1, 3))])
def test_a_whole_sampler_draws_the_samplers_images(exported, name, objective, steps):
    made = exported(name, objective=objective, whole=steps)
    expected = Sampler.from_pretrained(made.checkpoint).sample(
        7, inference_steps=steps[0], mean_flow_steps=steps[1], seed=4, first=2
    )
    whole = ExportedRun.open(made.onnx)
    assert np.abs(whole.sample(7, seed=4, first=2) - expected.numpy()).max() <= 1e-4
    assert (whole.inference_steps, whole.artefact.mean_flow_steps) == steps
    with pytest.raises(CheckpointError, match="stmd sample --model"):
        Sampler.from_pretrained(made.onnx)


def test_a_whole_sampler_of_a_unet_shares_its_weights(exported):
    made = exported("unet")
    network = onnx.load(made.onnx)
    del network.metadata_props[:]
    artefact = Artefact("sampler", "fp32", graph.OPSET, "0" * 64, (1.0, 0.7, 0.2, 0.0), 1)
    whole = graph.trace_sampler(made.spec, network, artefact)
    onnx.checker.check_model(whole, full_check=True)

    def weights(model):
        return sum(len(tensor.raw_data) for tensor in model.graph.initializer)

    convolutions = [sum(node.op_type == "Conv" for node in model.graph.node) for model in (network, whole)]
    assert convolutions[1] == 3 * convolutions[0]
    assert weights(whole) <= 1.01 * weights(network)
    noise = Noise.of(5, 3)
    given = torch.stack([noise.fold(i).normal(*made.spec.shape) for i in range(6)])
    (drawn,) = onnx_session(whole).run(None, {"noise": given.numpy()})
    sampler = Sampler.from_pretrained(made.checkpoint)
    expected = sampler.sample(3, inference_steps=[1.0, 0.7, 0.2, 0.0], seed=5)
    assert np.abs(drawn - expected.numpy()).max() <= 1e-4
    assert [value.name for value in whole.graph.input] == ["noise"]


def onnx_session(model):
    import onnxruntime as ort

    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("objective", "whole"), [("meanflow", (4, 1)), ("ddpm", (4, 2)), ("stmd", (0, 1)), ("stmd", (1, 0))]
)
def test_steps_that_the_sampler_refuses_are_refused_before_any_work(exported, tmp_path, objective, whole):
    made = exported("mlp", objective=objective)
    with pytest.raises(InvalidArgumentError):
        export_onnx(made.checkpoint, tmp_path / "out", whole=Whole(*whole))
    assert not (tmp_path / "out").exists()


def test_a_graph_that_differs_leaves_nothing(exported, tmp_path, quick_trace):
    made = exported("mlp")
    weight = max(quick_trace.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = onnx.numpy_helper.to_array(weight) * 1.01
    weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), weight.name))
    with pytest.raises(ParityError, match="No file was written"):
        export_onnx(made.checkpoint, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_last_good_one(exported, tmp_path, monkeypatch, quick_trace):
    made = exported("mlp")
    good = tmp_path / made.onnx.name
    good.write_bytes(made.onnx.read_bytes())

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx_export, "_write", full_disk)
    with pytest.raises(OutputError, match="No space left"):
        export_onnx(made.checkpoint, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [good.name]
    assert good.read_bytes() == made.onnx.read_bytes()


def test_weights_beyond_a_messages_size_go_beside_the_file(exported, tmp_path, monkeypatch, quick_trace):
    made = exported("mlp")
    monkeypatch.setattr(onnx_export, "INLINE_BYTES", 1000)
    file = export_onnx(made.checkpoint, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlp.onnx", "mlp.onnx.data", "mlp.onnx.json"]
    x, times = network_inputs(made.spec, 3)
    inline, beside = (Sampler.from_pretrained(path).network for path in (made.onnx, file))
    assert torch.equal(inline(x, times), beside(x, times))
    data = tmp_path / "mlp.onnx.data"
    whole = data.read_bytes()
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        data.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="weights were changed"):
            Sampler.from_pretrained(file)
    data.unlink()
    with pytest.raises(CheckpointError, match="holds the weights"):
        Sampler.from_pretrained(file)


def test_a_frozen_batch_is_noticed(exported):
    model = onnx.load(exported("mlp").onnx)
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(ExportError, match="u"):
        graph._check_shapes(model, {"x": ["b", 4], "times": ["b", 3], "u": ["b", 2]})


def test_an_operator_without_a_translation_is_named(exported):
    class Odd(torch.nn.Module):
        def forward(self, x, times):
            return torch.linalg.eigvals(x[:, :2, None] * x[:, None, :2]).real + times[:, :1]

    with pytest.raises(ExportError, match="eig"):
        graph.trace_network(exported("mlp").spec, Odd())


def test_only_checkpoints_are_exported(exported, tmp_path):
    with pytest.raises(CheckpointError, match=r"only \.safetensors"):
        export_onnx(exported("mlp").onnx, tmp_path)


def test_a_batch_profile_of_one_size_is_checked_at_that_size(exported, tmp_path, quick_trace):
    file = export_onnx(exported("mlp").checkpoint, tmp_path, batch=BatchProfile(4, 4, 4))
    report = json.loads(report_path(file).read_text())
    assert {case["batch"] for case in report["parity"]["cases"]} == {4}
