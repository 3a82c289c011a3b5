"""OpenVINO as a network: a graph with a known answer at every batch, the seal on both files, and every refusal."""

import random
import sys
from dataclasses import replace

import pytest
import torch

from stmd_sdk import Sampler
from stmd_sdk.backends.openvino import load_openvino
from stmd_sdk.backends.openvino_session import KEPT, bucket, cpu_arithmetic
from stmd_sdk.errors import CheckpointError, DeviceError, InvalidArgumentError, MissingExtraError, OutputError
from stmd_sdk.models.ir import ROOM, blank_entries, read_ir, sealed_ir, weights_path
from stmd_sdk.runs.exported import is_whole_sampler

from .conftest import ARTEFACT, inputs, known

ov = pytest.importorskip("openvino")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STMD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def write_ir(tmp_path, spec, known_graph):
    """Write the known network for OpenVINO, with changes to its artefact or spec."""

    def writer(name="known.xml", *, spec_json=None, **changes):
        path = tmp_path / name
        model = ov.Core().read_model(known_graph)
        ov.serialize(model, str(path), str(weights_path(path)))
        artefact = replace(ARTEFACT, **changes)
        for key, value in blank_entries(spec_json or spec.to_json(), artefact, weights_path(path).read_bytes()).items():
            model.set_rt_info(value, [ROOM, key])
        ov.serialize(model, str(path), str(weights_path(path)))
        path.write_bytes(sealed_ir(path.read_bytes()))
        return path

    return writer


def test_a_bucket_holds_its_batch_is_its_own_and_wastes_less_than_half():
    for b in range(1, 200):
        assert b <= bucket(b) < 2 * b or b == bucket(b) == 1
        assert bucket(bucket(b)) == bucket(b)


def test_the_session_computes_the_graph_at_every_batch_and_keeps_few(write_ir):
    _, network = load_openvino(write_ir(), None, torch.float32)
    for b in (1, 2, 7, 40, 7):
        x, times = inputs(b)
        torch.testing.assert_close(network(x, times), known(x, times), rtol=0, atol=1e-6)
    assert len(network.session._compiled) == KEPT


def test_the_sampler_draws_what_the_known_network_says(write_ir, spec):
    drawn = Sampler.from_pretrained(write_ir()).sample(9, seed=0)
    torch.testing.assert_close(drawn, Sampler(known, spec, CPU).sample(9, seed=0), rtol=0, atol=1e-5)


def test_what_was_compiled_is_kept_on_disk(write_ir, cache):
    load_openvino(write_ir(), None, torch.float32)[1](*inputs(2))
    assert list((cache / "openvino").iterdir())


def test_no_changed_byte_of_either_file_is_accepted(write_ir):
    path, chance = write_ir(), random.Random(0)
    read_ir(path)
    for file in (path, weights_path(path)):
        whole = file.read_bytes()
        for _ in range(100):
            place = chance.randrange(len(whole))
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)]) + whole[place + 1 :])
            with pytest.raises(CheckpointError):
                read_ir(path)
        for cut in (0, 1, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:cut])
            with pytest.raises(CheckpointError):
                read_ir(path)
        file.write_bytes(whole)


def test_files_that_stmd_export_did_not_write_are_named(write_ir, tmp_path, known_graph):
    foreign = tmp_path / "foreign.xml"
    ov.serialize(ov.Core().read_model(known_graph), str(foreign), str(weights_path(foreign)))
    with pytest.raises(CheckpointError, match="not written by stmd-export"):
        Sampler.from_pretrained(foreign)
    foreign.write_text("<html></html>")
    with pytest.raises(CheckpointError, match="not an OpenVINO model"):
        Sampler.from_pretrained(foreign)
    path = write_ir()
    weights_path(path).unlink()
    with pytest.raises(CheckpointError, match=r"known\.bin: no such file; it holds the weights of known\.xml"):
        Sampler.from_pretrained(path)


def test_an_xml_of_another_bin_is_refused(write_ir, tmp_path):
    path = write_ir()
    weights_path(path).write_bytes(weights_path(path).read_bytes()[::-1])
    with pytest.raises(CheckpointError, match="another model's"):
        Sampler.from_pretrained(path)


def test_a_whole_sampler_is_refused_with_the_command_that_runs_it(write_ir):
    path = write_ir(kind="sampler", times=(1.0, 0.0), mean_flow_steps=1)
    assert is_whole_sampler(path)
    with pytest.raises(CheckpointError, match="stmd sample --model"):
        Sampler.from_pretrained(path)


def test_a_precision_without_units_and_a_gpu_are_refused(write_ir, monkeypatch):
    path = write_ir()
    monkeypatch.setattr("stmd_sdk.backends.openvino_session.cpu_arithmetic", lambda _: ["f32"])
    with pytest.raises(DeviceError, match="no units for bf16, only for f32"):
        Sampler.from_pretrained(path, dtype=torch.bfloat16)
    with pytest.raises(DeviceError, match="on the CPU alone"):
        Sampler.from_pretrained(path, device="cuda")
    with pytest.raises(InvalidArgumentError, match="compile"):
        Sampler.from_pretrained(path, compile=True)


@pytest.mark.skipif("bf16" not in cpu_arithmetic(), reason="this CPU has no bfloat16 units")
def test_bfloat16_is_what_was_asked_for(write_ir):
    x, times = inputs(16)
    found = load_openvino(write_ir(), None, torch.bfloat16)[1](x, times)
    assert 0 < (found - known(x, times)).abs().max() < 0.1


def test_a_cache_that_cannot_be_written_is_said(write_ir, cache):
    path = write_ir()
    cache.write_text("a file")
    with pytest.raises(OutputError, match="STMD_CACHE"):
        Sampler.from_pretrained(path)


def test_without_openvino_the_extra_is_named(write_ir, monkeypatch):
    path = write_ir()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"stmd-sdk\[openvino\]"):
        Sampler.from_pretrained(path)


@pytest.mark.parametrize("version", ["2026.3.0-20000-abc-releases/2026/3", "2025.4.1", ""])
def test_an_openvino_too_old_is_named_with_the_line_that_mends_it(write_ir, monkeypatch, version):
    path = write_ir()
    monkeypatch.setattr(ov, "__version__", version)
    with pytest.raises(MissingExtraError, match=r"older than 2026\.4: pip install -U 'stmd-sdk\[openvino\]'"):
        Sampler.from_pretrained(path)
