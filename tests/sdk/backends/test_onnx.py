"""ONNX Runtime as a network: a graph with a known answer, the seal on the file, and every refusal."""

import copy
import dataclasses
import hashlib
import json
import os
import sys
from importlib import metadata

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from stmd_sdk import Sampler
from stmd_sdk.backends import session as sessions
from stmd_sdk.backends.onnx import bind, load_onnx
from stmd_sdk.errors import CheckpointError, DeviceError, InvalidArgumentError, MissingExtraError
from stmd_sdk.models.artefact import read_onnx
from stmd_sdk.runs.exported import ExportedRun

from .conftest import inputs, known

CPU = torch.device("cpu")


@pytest.mark.parametrize("b", [1, 2, 7])
def test_the_session_computes_the_graph_at_every_batch(write, b):
    _, network = load_onnx(write(), CPU)
    x, times = inputs(b)
    assert torch.equal(network(x, times), known(x, times))


def test_non_contiguous_inputs_are_read_in_their_order(write):
    _, network = load_onnx(write(), CPU)
    x, times = inputs(6)
    assert torch.equal(network(x.T.contiguous().T, times), known(x, times))


def test_io_binding_writes_into_the_memory_it_is_given(write):
    _, network = load_onnx(write(), CPU)
    x, times = inputs(5)
    u = torch.full((5, 2), torch.nan)
    address = u.data_ptr()
    bind(network.session, {"x": x, "times": times}, {"u": u})
    assert u.data_ptr() == address
    assert torch.equal(u, known(x, times))
    assert torch.equal(network._on_device(x, times), u)


def test_the_sampler_draws_what_the_known_network_says(write, spec):
    drawn = Sampler.from_pretrained(write()).sample(9, seed=0)
    assert torch.equal(drawn, Sampler(known, spec, CPU).sample(9, seed=0))


def test_a_whole_sampler_is_refused_with_the_command_that_runs_it(write):
    path = write(kind="sampler", times=(1.0, 0.0), mean_flow_steps=1)
    with pytest.raises(CheckpointError, match="stmd sample --model"):
        Sampler.from_pretrained(path)


def test_the_precision_of_a_file_cannot_be_asked_for_again(write):
    with pytest.raises(InvalidArgumentError, match="--precision"):
        Sampler.from_pretrained(write(), dtype=torch.float16)


def test_cuda_is_not_replaced_by_the_cpu(write):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(DeviceError):
        Sampler.from_pretrained(write(), device="cuda")
    with pytest.raises(DeviceError, match="onnx-gpu"):
        sessions.open_session(write(), cuda={})


def test_any_changed_byte_of_the_graph_is_noticed(write):
    path = write()
    data = path.read_bytes()
    spots = range(0, len(data), 37)
    for spot in spots:
        path.write_bytes(data[:spot] + bytes([data[spot] ^ 1]) + data[spot + 1 :])
        with pytest.raises(CheckpointError):
            read_onnx(path)
    path.write_bytes(data)
    read_onnx(path)


def test_every_truncation_is_noticed(write):
    path = write()
    data = path.read_bytes()
    for length in range(0, len(data), 23):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            read_onnx(path)


def test_edited_metadata_is_refused(write):
    path = write()
    model = onnx.load(path)
    entry = next(entry for entry in model.metadata_props if entry.key == "stmd_spec")
    entry.value = entry.value.replace('"target": "x0"', '"target": "residual"')
    onnx.save(model, path)
    with pytest.raises(CheckpointError, match="changed since"):
        load_onnx(path, CPU)


def test_onnx_itself_reads_the_appended_metadata(write, spec):
    found = {entry.key: entry.value for entry in onnx.load(write()).metadata_props}
    assert json.loads(found["stmd_spec"]) == json.loads(spec.to_json())
    assert set(found) == {"stmd_spec", "stmd_artefact", "stmd_digest"}


@pytest.mark.parametrize("content", [b"", b"GIF89a" + bytes(100), b"\x00" * 64, bytes(range(256)) * 4])
def test_foreign_files_are_refused(tmp_path, content):
    path = tmp_path / "foreign.onnx"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="ONNX file"):
        Sampler.from_pretrained(path)


def test_an_onnx_file_of_someone_else_is_refused(tmp_path, known_graph):
    path = tmp_path / "other.onnx"
    path.write_bytes(known_graph)
    with pytest.raises(CheckpointError, match="stmd-export"):
        Sampler.from_pretrained(path)


def test_a_graph_that_does_not_fit_its_spec_is_refused(write, spec):
    other = dataclasses.replace(spec, shape=(3,)).to_json()
    with pytest.raises(CheckpointError, match="should be"):
        load_onnx(write(spec_json=other), CPU)


def test_a_newer_artefact_asks_for_a_newer_sdk(write):
    with pytest.raises(CheckpointError, match="newer"):
        read_onnx(write(version=99))


def test_two_flavours_of_onnxruntime_are_refused(monkeypatch, write):
    monkeypatch.setattr(metadata, "version", lambda name: "1.0")
    with pytest.raises(MissingExtraError, match="pip uninstall -y onnxruntime onnxruntime-gpu"):
        load_onnx(write(), CPU)


def test_a_missing_onnxruntime_names_its_extra(monkeypatch, write):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"stmd-sdk\[onnx\]"):
        load_onnx(write(), CPU)


def _with_weights_elsewhere(graph, location, *, nested=False, offset="0"):
    """The known graph with "two" (or, nested, a tensor inside a node's attribute) read from another file."""
    model = onnx.ModelProto.FromString(graph)
    if nested:
        node = helper.make_node("Constant", [], ["two"], value=model.graph.initializer[2])
        model.graph.node.insert(0, node)
        tensor = model.graph.node[0].attribute[0].t
        del model.graph.initializer[2]
    else:
        tensor = model.graph.initializer[2]
    assert tensor.name == "two"
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": "4"}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return model.SerializeToString()


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "beside.bin", "known.onnx.data"])
def test_weights_in_a_file_that_nothing_vouches_for_are_refused(write, known_graph, tmp_path, location, nested):
    (tmp_path / "beside.bin").write_bytes(b"\0\0\0@" * 2)
    path = write(graph=_with_weights_elsewhere(known_graph, location, nested=nested))
    with pytest.raises(CheckpointError, match="weights in another file"):
        Sampler.from_pretrained(path)


def test_weights_in_the_file_that_the_artefact_vouches_for_are_read_and_no_others(write, known_graph, tmp_path):
    beside = tmp_path / "known.onnx.data"
    beside.write_bytes(b"\0\0\0@")  # 2.0
    (tmp_path / "other.bin").write_bytes(b"\0\0\0@")
    digest = hashlib.sha256(beside.read_bytes()).hexdigest()
    path = write(graph=_with_weights_elsewhere(known_graph, beside.name), data=digest)
    _, network = load_onnx(path, CPU)
    _, whole = load_onnx(write("whole.onnx"), CPU)
    x, times = torch.randn(3, 4), torch.rand(3, 3)
    assert torch.equal(network(x, times), whole(x, times))
    beside.write_bytes(b"\0\0\0A")
    with pytest.raises(CheckpointError, match="the weights were changed"):
        load_onnx(path, CPU)
    beside.write_bytes(b"\0\0\0@")
    with pytest.raises(CheckpointError, match="weights in another file"):
        load_onnx(write(graph=_with_weights_elsewhere(known_graph, "other.bin"), data=digest), CPU)


def test_a_tensor_that_says_its_numbers_are_in_itself_is_no_stranger(write, known_graph):
    model = onnx.ModelProto.FromString(known_graph)
    for tensor in model.graph.initializer:
        tensor.data_location = TensorProto.DEFAULT
    assert model.graph.initializer[0].HasField("data_location")
    load_onnx(write(graph=model.SerializeToString()), CPU)


def test_the_graph_that_was_checked_is_the_one_that_runs(write, known_graph, monkeypatch):
    path, opened = write(), sessions.open_session

    def swap_and_open(path, *given, **options):
        path.write_bytes(b"another file, put there in between")
        return opened(path, *given, **options)

    monkeypatch.setattr("stmd_sdk.backends.onnx.open_session", swap_and_open)
    _, network = load_onnx(path, CPU)
    assert network(torch.zeros(1, 4), torch.ones(1, 3)).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    "spec_json", ["{}", '{"name": "a", "shape": [0]}', '{"name": "a"}', "[" * 10**5, '{"shape": [1]}']
)
def test_a_whole_sampler_whose_spec_is_damaged_is_refused(write, spec_json):
    path = write(spec_json=spec_json, kind="sampler", times=(1.0, 0.0), mean_flow_steps=1)
    with pytest.raises(CheckpointError, match="spec"):
        ExportedRun.open(path)


def test_ten_gigabytes_and_a_pipe_are_refused_unread(tmp_path):
    with (tmp_path / "sparse.onnx").open("wb") as file:
        file.truncate(10 << 30)
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "zero.onnx").symlink_to("/dev/zero")
    for name in ("sparse.onnx", "pipe.onnx", "zero.onnx"):
        with pytest.raises(CheckpointError, match=r"10737418240 bytes|no regular file"):
            read_onnx(tmp_path / name)


def test_a_session_says_how_it_reaches_another_process(write):
    with pytest.raises(TypeError, match="open its file in each process"):
        copy.deepcopy(load_onnx(write(), CPU)[1])


def test_a_runtime_too_old_is_named_with_the_line_that_mends_it(write, monkeypatch):
    path = write()
    monkeypatch.setattr(sessions.runtime(), "__version__", "1.25.3")
    with pytest.raises(MissingExtraError, match=r"onnxruntime 1\.25\.3 is older than 1\.26: pip install -U"):
        load_onnx(path, CPU)
