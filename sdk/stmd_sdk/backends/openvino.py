"""OpenVINO as a network: an exported .xml on the CPU, on its matrix units where it has some."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import DeviceError
from ..models.artefact import check_network
from ..models.ir import read_ir
from ..models.spec import ModelSpec
from .onnx import SessionNetwork, check_signature
from .openvino_session import Arithmetic, open_ir

__all__ = ["ARITHMETIC", "load_openvino"]

ARITHMETIC: dict[torch.dtype, Arithmetic] = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}


def load_openvino(
    path: Path, device: torch.device | str | None, dtype: torch.dtype
) -> tuple[ModelSpec, SessionNetwork]:
    """The spec and the session of an exported network, which computes in ``dtype``.

    What the CPU has no units for is a :class:`DeviceError`. Whole samplers are refused: they hold no network.
    """
    if device is not None and torch.device(device).type != "cpu":
        raise DeviceError(f"{path} runs on the CPU alone, not on {device}")
    ir = read_ir(path)
    check_network(ir.artefact, path)
    spec = ModelSpec.from_json(ir.spec, str(path))
    session = open_ir(ir, path, threads=torch.get_num_threads(), arithmetic=ARITHMETIC[dtype])
    check_signature(path, session, spec)
    return spec, SessionNetwork(session, spec.shape[0], torch.device("cpu"))
