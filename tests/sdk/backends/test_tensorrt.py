"""TensorRT without a GPU: the manifest's checks, the calls against the real bindings, and a fake context."""

import hashlib
import inspect
import json
import re

import pytest
import torch

from stmd_sdk import Sampler
from stmd_sdk.backends import flavours
from stmd_sdk.backends.flavours import load_flavour, tensorrt_log
from stmd_sdk.backends.tensorrt import (
    SEAL,
    BatchProfile,
    EngineManifest,
    EngineNetwork,
    load_engine,
    manifest_path,
    read_engine,
)
from stmd_sdk.errors import CheckpointError, DeviceError, InvalidArgumentError, MissingExtraError
from stmd_sdk.models.artefact import Artefact

trt = pytest.importorskip("tensorrt_rtx")
DATA = b"an engine"


def manifest(**changes):
    values = {
        "sha256": hashlib.sha256(DATA).hexdigest(),
        "flavour": "tensorrt-rtx",
        "tensorrt": trt.__version__,
        "architectures": ("sm120",),
        "batch": BatchProfile(1, 4, 8),
        "artefact": Artefact(kind="network", precision="fp32", opset=21, weights="0" * 64),
        "onnx_sha256": "0" * 64,
        "verified": False,
        "why": "no GPU",
    }
    return EngineManifest(**{**values, **changes})


@pytest.fixture
def engine(tmp_path, spec):
    def writer(data=DATA, **changes):
        path = tmp_path / "known.engine"
        path.write_bytes(data)
        manifest_path(path).write_text(manifest(**changes).to_json(json.loads(spec.to_json()), {}))
        return path

    return writer


def test_the_manifest_is_read_back_as_it_was_written(engine, spec):
    assert read_engine(engine()) == (spec, manifest(), DATA)


@pytest.mark.parametrize("data", [b"", DATA[:-1], DATA + b"x", b"GIF89a"])
def test_an_engine_that_is_not_the_described_one_is_refused(engine, data):
    with pytest.raises(CheckpointError, match="truncated or was replaced"):
        Sampler.from_pretrained(engine(data))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"engine": {"sha256": 1}}'])
def test_a_damaged_manifest_is_refused(engine, text):
    path = engine()
    manifest_path(path).write_text(text)
    with pytest.raises(CheckpointError, match=re.escape(".engine.json")):
        Sampler.from_pretrained(path)


def test_an_engine_without_its_manifest_is_refused(engine):
    path = engine()
    manifest_path(path).unlink()
    with pytest.raises(CheckpointError, match="beside it"):
        Sampler.from_pretrained(path)


def test_another_tensorrt_version_is_refused_with_both_versions(engine):
    with pytest.raises(CheckpointError, match=r"10\.0\.0.*" + re.escape(trt.__version__)):
        Sampler.from_pretrained(engine(tensorrt="10.0.0"))


def test_a_whole_sampler_engine_is_refused(engine):
    artefact = Artefact("sampler", "fp32", 21, "0" * 64, (1.0, 0.0), 1)
    with pytest.raises(CheckpointError, match="whole sampler"):
        Sampler.from_pretrained(engine(artefact=artefact))


def test_a_device_that_does_not_exist_is_an_error(engine):
    with pytest.raises(DeviceError, match="no such device: 'tpu9'"):
        Sampler.from_pretrained(engine(), device="tpu9")


def test_without_a_gpu_the_error_says_what_runs_here(engine):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(DeviceError, match=r"NVIDIA GPU.*\.onnx"):
        Sampler.from_pretrained(engine())


@pytest.mark.parametrize(
    ("architectures", "capability", "fits"),
    [(("sm120",), (12, 0), True), (("sm120",), (8, 9), False), ((), (8, 0), True), ((), (7, 5), False)],
)
def test_the_gpu_must_be_one_that_the_engine_was_built_for(monkeypatch, engine, architectures, capability, fits):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    # A fitting engine gets as far as TensorRT, which refuses the nine bytes.
    with pytest.raises(CheckpointError, match="cannot load it: .*Error" if fits else "was built for"):
        load_engine(engine(architectures=architectures), None)


@pytest.mark.parametrize("b", [0, 9])
def test_a_batch_outside_the_profile_is_an_error_that_names_it(b):
    with pytest.raises(InvalidArgumentError, match="1:4:8"):
        BatchProfile(1, 4, 8).check(b)


@pytest.mark.parametrize("profile", [(0, 1, 2), (2, 1, 3), (1, 4, 3)])
def test_profiles_are_ordered(profile):
    with pytest.raises(InvalidArgumentError):
        BatchProfile(*profile)


class FakeContext:
    """The calls of the backend, each checked against the real binding's parameters."""

    def __init__(self, log):
        self.log = log

    def __getattr__(self, name):
        documented = getattr(trt.IExecutionContext, name).__doc__

        def call(*arguments):
            takes = {len(found.split(",")) - 1 for found in re.findall(rf"{name}\((self[^)]*)\) ->", documented)}
            assert len(arguments) in takes, (name, arguments)
            self.log.append((name, arguments))
            return True

        return call


class FakeEngine:
    def __init__(self, log):
        self.log = log

    def create_execution_context(self):
        return FakeContext(self.log)


def test_memory_is_bound_by_address_and_enqueued_on_torchs_stream(monkeypatch):
    log = []
    stream = type("Stream", (), {"cuda_stream": 1234})
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    network = EngineNetwork(FakeEngine(log), manifest(), 2, torch.device("cpu"))
    x, times = torch.zeros(3, 4), torch.zeros(3, 3)
    u = network(x, times)
    assert log == [
        ("set_input_shape", ("x", (3, 4))),
        ("set_tensor_address", ("x", x.data_ptr())),
        ("set_input_shape", ("times", (3, 3))),
        ("set_tensor_address", ("times", times.data_ptr())),
        ("set_tensor_address", ("u", u.data_ptr())),
        ("execute_async_v3", (1234,)),
    ]
    assert u.shape == (3, 2)
    with pytest.raises(InvalidArgumentError, match="profile"):
        network(torch.zeros(9, 4), torch.zeros(9, 3))


def test_the_bindings_have_what_the_backend_calls():
    assert hasattr(trt.Runtime, "deserialize_cuda_engine")
    assert "create_execution_context" in dir(trt.ICudaEngine)
    # Off unless switched on: an engine must not bring code that runs on the host.
    assert not trt.Runtime(tensorrt_log("tensorrt-rtx")).engine_host_code_allowed


def test_two_flavours_want_an_explicit_choice(monkeypatch):
    monkeypatch.setattr(flavours, "installed_flavours", lambda: ["tensorrt", "tensorrt-rtx"])
    with pytest.raises(InvalidArgumentError, match="which one"):
        load_flavour(None)
    assert load_flavour("tensorrt-rtx")[1] is trt


def test_a_missing_flavour_names_its_extra(monkeypatch):
    monkeypatch.setattr(flavours, "installed_flavours", list)
    with pytest.raises(MissingExtraError, match=r"stmd-sdk\[tensorrt\].*stmd-sdk\[tensorrt-rtx\]"):
        load_flavour(None)
    with pytest.raises(InvalidArgumentError, match="no TensorRT flavour"):
        load_flavour("tensorrt-lite")


def test_one_logger_a_process():
    assert tensorrt_log("tensorrt-rtx") is tensorrt_log("tensorrt-rtx")
    assert inspect.isclass(trt.ILogger)


def test_any_changed_number_of_the_json_beside_an_engine_is_noticed(engine):
    path = engine()
    text = manifest_path(path).read_text()
    for spot in [i for i, character in enumerate(text) if character.isdigit()]:
        manifest_path(path).write_text(text[:spot] + str(9 - int(text[spot])) + text[spot + 1 :])
        with pytest.raises(CheckpointError):
            read_engine(path)


def test_the_json_of_engines_from_before_the_seal_is_still_read(engine, spec):
    path = engine()
    values = json.loads(manifest_path(path).read_text())
    del values[SEAL]
    manifest_path(path).write_text(json.dumps(values))
    assert read_engine(path) == (spec, manifest(), DATA)
