"""Opening a model file with the backend that its suffix names."""

from __future__ import annotations

from pathlib import Path

import torch

from ..backends.devices import resolve_device
from ..backends.onnx import default_device, load_onnx
from ..backends.openvino import load_openvino
from ..backends.tensorrt import load_engine, read_engine
from ..backends.torch import CompiledNetwork, TorchNetwork
from ..diffusion.network import Network
from ..errors import CheckpointError, InvalidArgumentError
from ..models.artefact import check_network, read_onnx
from ..models.ir import read_ir
from ..models.spec import ModelSpec
from ..pretrained.opening import load_pretrained, pretrained_spec
from .captured import CapturedRun, CudaGraphs, Graphs

__all__ = ["network_spec", "open_model"]


def open_model(
    path: Path, device: torch.device | str | None, dtype: torch.dtype, *, compile: bool, eager: bool
) -> tuple[Network, ModelSpec, torch.device, CapturedRun | None]:
    """The network of a model file, its spec, the device it is on, and a run that captures it where it can be captured.

    See ``Sampler.from_pretrained``.
    """
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise InvalidArgumentError(f"dtype must be float32, bfloat16 or float16, got {dtype}")
    if path.suffix in (".onnx", ".engine") and dtype != torch.float32:
        raise InvalidArgumentError(f"the precision of {path} was fixed by stmd-export --precision; leave out dtype")
    if path.suffix in (".onnx", ".xml", ".engine") and compile:
        raise InvalidArgumentError(f"{path} holds no PyTorch module to compile; leave out compile=True")
    match path.suffix:
        case ".safetensors":
            chosen = resolve_device(device)
            spec, module = load_pretrained(path)
            network = (CompiledNetwork if compile else TorchNetwork)(module, chosen, dtype)
            if chosen.type == "cuda" and not eager:
                return network, spec, chosen, CapturedRun(Graphs(network, spec, chosen, CudaGraphs(chosen)))
            return network, spec, chosen, None
        case ".onnx":
            chosen = default_device() if device is None else resolve_device(device)
            spec, session = load_onnx(path, chosen)
            return session, spec, chosen, None
        case ".xml":
            spec, session = load_openvino(path, device, dtype)
            return session, spec, session.device, None
        case ".engine":
            spec, engine = load_engine(path, device)
            return engine, spec, engine.device, None
        case _:
            raise CheckpointError(
                f"{path}: cannot load a {path.suffix or 'suffixless'} file, only .safetensors, .onnx, .xml or .engine"
            )


def network_spec(path: Path) -> ModelSpec:
    """The spec of a model file that holds a network, by the same suffixes, without a backend and without weights."""
    match path.suffix:
        case ".onnx":
            text, artefact = read_onnx(path)
            check_network(artefact, path)
            return ModelSpec.from_json(text, str(path))
        case ".xml":
            ir = read_ir(path)
            check_network(ir.artefact, path)
            return ModelSpec.from_json(ir.spec, str(path))
        case ".engine":
            return read_engine(path)[0]
        case _:
            return pretrained_spec(path)
