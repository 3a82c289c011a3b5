"""PyTorch's compiler as a network: it computes what eager computes, and says what it lacks."""

import shutil

import pytest
import torch

from stmd_sdk import DeviceError, InvalidArgumentError, Noise, Sampler
from stmd_sdk.backends import torch as backend
from stmd_sdk.backends.torch import CompiledNetwork, TorchNetwork
from stmd_sdk.models.checkpoint import save_model

CPU = torch.device("cpu")


@pytest.fixture
def model(tmp_path, spec):
    path = tmp_path / "known.safetensors"
    save_model(path, spec, spec.build_network().state_dict())
    return path


@pytest.mark.long
@pytest.mark.skipif(not any(map(shutil.which, backend.COMPILERS)), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_equals_eager():
    class Small(torch.nn.Module):  # without annotations, whose checks would be compiled with it
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(7, 2)

        def forward(self, x, times):
            return torch.nn.functional.silu(self.layer(torch.cat([x, times], dim=1))) + x[:, :2]

    module, noise = Small().requires_grad_(False), Noise.of(0, 5)
    x, times = noise.fold(0).normal(4), noise.fold(1).uniform(3)
    expected = TorchNetwork(module, CPU, torch.float32)(x, times)
    found = CompiledNetwork(module, CPU, torch.float32)(x, times)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # it was compiled, and whole
    assert (found - expected).abs().max() <= 1e-6
    assert expected.std() > 0.1


@pytest.mark.skipif(not any(map(shutil.which, backend.COMPILERS)), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_the_sampler_compiles_when_asked(model):
    assert isinstance(Sampler.from_pretrained(model, device="cpu", compile=True).network, CompiledNetwork)
    assert isinstance(Sampler.from_pretrained(model, device="cpu").network, TorchNetwork)


def test_what_holds_no_module_is_not_compiled(write, tmp_path):
    engine = tmp_path / "known.engine"
    engine.write_bytes(b"an engine")
    for path in (write(), engine):
        with pytest.raises(InvalidArgumentError, match=r"no PyTorch module.*compile=True"):
            Sampler.from_pretrained(path, compile=True)


def test_a_missing_compiler_is_said_at_once(model, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(DeviceError, match=r"C\+\+ compiler"):
        Sampler.from_pretrained(model, device="cpu", compile=True)


def test_a_compiler_that_fails_is_an_error_of_ours(spec, monkeypatch):
    from torch._inductor.exc import CppCompileError

    def broken(*_):
        raise CppCompileError(["g++"], "no Python.h")

    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: setattr(module, "forward", broken))
    monkeypatch.setattr(backend, "compiler", lambda _: "g++")
    network = CompiledNetwork(spec.build_network(), CPU, torch.float32)
    with pytest.raises(DeviceError, match="without compile=True"):
        network(torch.zeros(1, 4), torch.zeros(1, 3))
