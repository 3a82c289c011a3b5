"""What several tests share."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import jaxtyping
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stmd_sdk.diffusion.network import Network
from stmd_sdk.diffusion.target import ResidualTarget, X0Target
from stmd_sdk.diffusion.vp import VPSchedule
from stmd_sdk.models.checkpoint import load_model, resolve_model, save_model


def pytest_configure(config):
    # Forward-mode derivatives of PyTorch 2.13 go through its own deprecated torch.jit.script.
    config.addinivalue_line("filterwarnings", "ignore:`torch.jit.script` is deprecated:DeprecationWarning")
    # huggingface_hub 2.4 sends large files to httpx2 by its older name.
    config.addinivalue_line("filterwarnings", "ignore:Use 'content=:DeprecationWarning")
    # Ray Serve 2.60 gives pydantic's Field an argument of its own.
    config.addinivalue_line("filterwarnings", "ignore:Using extra keyword arguments on `Field`:DeprecationWarning")


def pytest_collection_modifyitems(items):
    """The files that take longest first, so that no core waits for the last one."""
    heavy = "serving", "export", "demo", "training", "benchmarks"
    rooms = {name: place for place, name in enumerate(heavy)}
    items.sort(key=lambda item: rooms.get(item.path.parent.name, len(heavy)))


@pytest.fixture(autouse=True)
def _deterministic():
    """Initial weights come from PyTorch's generator; one thread, so that sums have one order."""
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits_of_any_m(tmp_path_factory):
    """A file of the bundled digits that does not refuse M > 1."""
    path = tmp_path_factory.mktemp("digits") / "any-m.safetensors"
    spec, network = load_model(resolve_model("digits"))
    save_model(path, replace(spec, one_flow_step=""), dict(network.named_parameters()))
    return path


@pytest.fixture(scope="session")
def vae_folder(tmp_path_factory):
    """A tiny VAE of fixed weights as diffusers saves it: 16x16 images to 4x8x8 latents."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    folder = tmp_path_factory.mktemp("vae")
    with torch.random.fork_rng():
        torch.manual_seed(2)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 16),
            norm_num_groups=4,
        )
    vae.save_pretrained(folder)
    return folder


_spec = importlib.util.spec_from_file_location("loopback_hub", Path(__file__).parent / "loopback_hub.py")
loopback_hub = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = loopback_hub  # where its dataclasses look for their annotations
_spec.loader.exec_module(loopback_hub)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub on this machine, the only one there is, and an empty cache."""
    served, end = loopback_hub.serve()
    monkeypatch.setenv("HF_ENDPOINT", served.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    yield served
    end()


class Referee(TorchDispatchMode):
    """Refuses what reads a value on the host, makes a tensor of Python's numbers, or has tensors on two devices.

    The meta device has no values and is not the CPU: what reads one or crosses over fails there. Only on the CPU does a
    tensor of Python's numbers show.
    """

    REFUSED = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "lift_fresh", "lift_fresh_copy")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in self.REFUSED, f"{name} cannot be captured"
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        target = (kwargs or {}).get("device")
        devices = {tensor.device.type for tensor in tensors} | ({torch.device(target).type} if target else set())
        assert len(devices) < 2, f"{name} of tensors on {devices}"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def referee():
    """The referee of what a CUDA graph forbids."""
    return Referee


@pytest.fixture
def as_users_call(monkeypatch):
    """Switch the checking of annotations off, as it is for users, to reach the library's own checks."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def _gaussian_target(target, x_t, t, mean, deviation):
    """Mean and deviation of the target y given x_t, for data x_0 ~ N(mean, deviation² I); each [b, *d]."""
    schedule = target.schedule if isinstance(target, ResidualTarget) else VPSchedule()
    rows = (-1,) + (1,) * (x_t.ndim - 1)
    alpha, variance = schedule.alpha(t).reshape(rows), schedule.variance(t).reshape(rows)
    precision = 1 / deviation**2 + alpha**2 / variance
    y_mean = (mean / deviation**2 + alpha * x_t / variance) / precision
    y_deviation = precision.rsqrt().expand_as(x_t)
    if isinstance(target, X0Target):
        return y_mean, y_deviation
    c_skip, c_out = (coefficient.reshape(rows) for coefficient in target.coefficients(t))
    return (y_mean - c_skip * x_t) / c_out, y_deviation / c_out


@pytest.fixture
def gaussian_target():
    """The closed form of the target's law for Gaussian data, written out on its own."""
    return _gaussian_target


@pytest.fixture
def average_velocity():
    """A factory of STMD networks: the exact average velocity for data N(mean, deviation² I).

    The flow from N(a, b²) at τ = 0 to N(0, 1) at τ = 1 keeps ξ of z_τ = (1 - τ) a + s_τ ξ along each path,
    with s_τ² = (1 - τ)² b² + τ², so u(z, r, τ) = (z_τ - z_r) / (τ - r) is known.
    """

    def make(target, mean, deviation) -> Network:
        def network(x, times):
            z, x_t = x.chunk(2, dim=1)
            a, b = _gaussian_target(target, x_t, times[:, 2], mean, deviation)
            tau, span = (times[:, i].reshape((-1,) + (1,) * (x.ndim - 1)) for i in (0, 1))
            r = tau - span
            spread_tau, spread_r = (((1 - time) ** 2 * b**2 + time**2).sqrt() for time in (tau, r))
            z_r = (1 - r) * a + spread_r / spread_tau * (z - (1 - tau) * a)
            return (z - z_r) / span

        return network

    return make
