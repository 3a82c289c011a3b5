"""Checkpoints of freshly initialised networks, and their exports, each made once a session."""

from types import SimpleNamespace

import onnx
import pytest
import torch

from stmd_export import Whole, export_onnx, onnx_export
from stmd_sdk import Noise, Sampler
from stmd_sdk.backends.tensorrt import BatchProfile
from stmd_sdk.codecs.codec import PixelCodec, VectorCodec
from stmd_sdk.models.checkpoint import save_model
from stmd_sdk.models.objective import BY_KIND, STMD
from stmd_sdk.models.spec import ModelSpec
from stmd_sdk.networks import DiTConfig, MLPConfig, UNetConfig

BATCH = BatchProfile(1, 4, 65)  # diffusers branches at a batch of 64
NETWORKS = {
    "mlp": (MLPConfig(width=32, depth=2), (2,)),
    "dit": (DiTConfig(depth=2, width=64, heads=2), (1, 8, 8)),
    "unet": (UNetConfig(channels=(16, 32), groups=8, embedding_width=32), (1, 8, 8)),
}


def make_spec(name, **changes):
    network, shape = NETWORKS[name]
    codec = VectorCodec() if len(shape) == 1 else PixelCodec()
    values = {
        "name": name,
        "objective": STMD(),
        "shape": shape,
        "network": network,
        "codec": codec,
        "sigma_data": 0.96,
    }
    return ModelSpec(**{**values, **changes})


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A function that writes the checkpoint of a spec; layers that start at zero are perturbed."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def write(spec, file_name=None):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            network = spec.build_network()
            for parameter in network.parameters():
                if not parameter.abs().max():
                    torch.nn.init.normal_(parameter, std=0.05)
        path = folder / f"{file_name or spec.name}.safetensors"
        save_model(path, spec, network.state_dict())
        return path

    return write


@pytest.fixture(scope="session")
def exported(checkpoint, tmp_path_factory):
    """A function that exports a network at a precision, whole or not: (spec, checkpoint, onnx)."""
    done = {}

    def export(name, precision="fp32", whole=None, objective="stmd", **changes):
        key = (name, precision, whole, objective, *changes.items())
        if key not in done:
            own = {name: changes[name] for name in ("target", "output") if name in changes}
            rest = {name: change for name, change in changes.items() if name not in own}
            spec = make_spec(name, objective=BY_KIND[objective](**own), **rest)
            path = checkpoint(spec, "-".join([name, objective, *map(str, changes.values())]))
            file = export_onnx(
                path,
                tmp_path_factory.mktemp("exports"),
                whole=whole and Whole(*whole),
                precision=precision,
                batch=BATCH,
            )
            done[key] = SimpleNamespace(spec=spec, checkpoint=path, onnx=file)
        return done[key]

    return export


@pytest.fixture
def quick_trace(exported, monkeypatch):
    """The MLP's graph without tracing it again, for tests of what comes after."""
    model = onnx.load(exported("mlp").onnx)
    del model.metadata_props[:]
    monkeypatch.setattr(onnx_export, "trace_network", lambda *_: model)
    return model


def _difference(path, file, b=5):
    """The largest difference of u between a checkpoint and its export, at a batch that export did not try."""
    eager, session = (Sampler.from_pretrained(source, device="cpu") for source in (path, file))
    spec, noise = eager.spec, Noise.of(9, b)
    x, times = noise.fold(0).normal(spec.in_channels, *spec.shape[1:]), noise.fold(1).uniform(spec.times)
    u = eager.network(x, times)
    assert u.std() > 0.05  # else the comparison would say nothing
    return float((u - session.network(x, times)).abs().max())


@pytest.fixture
def difference():
    """A function of a checkpoint and its export: the largest difference of their u."""
    return _difference
