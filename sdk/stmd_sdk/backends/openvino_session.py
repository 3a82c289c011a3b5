"""OpenVINO on the CPU, called as a session of ONNX Runtime is. Does not import PyTorch."""

from __future__ import annotations

import importlib
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError, DeviceError, OutputError, check_version, requires_extra
from ..files import cache_folder
from ..models.ir import IR

__all__ = ["Arithmetic", "OpenVinoSession", "bucket", "compile_options", "cpu_arithmetic", "open_ir", "openvino"]

Arithmetic = Literal["f32", "bf16", "f16"]
"""What matrix products compute in."""

LEAST = 2026, 4
"""The lowest version that is asked for, as in pyproject.toml."""

UNITS: dict[Arithmetic, str] = {"f32": "FP32", "bf16": "BF16", "f16": "FP16"}
KEPT = 2
"""Compiled models at once: one for full batches and one for the rest."""


def openvino() -> Any:
    """The module ``openvino``, of a version that was tried: older ones fail late, in words of their own."""
    with requires_extra("openvino"):
        module = importlib.import_module("openvino")
    check_version(module, LEAST, "openvino")
    return module


def cpu_arithmetic(core: Any = None) -> list[Arithmetic]:
    """What this CPU's units multiply in, of what OpenVINO can ask of them."""
    capabilities = (core or openvino().Core()).get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [name for name, unit in UNITS.items() if unit in capabilities]


def bucket(batch: int) -> int:
    """The batch that ``batch`` rows are computed in: the next power of two up to 16, then the next multiple of 16."""
    return 1 << (batch - 1).bit_length() if batch <= 16 else -(-batch // 16) * 16


@final
@dataclass(frozen=True)
class Port:
    """An input or output: its name and shape, None where the batch is."""

    name: str
    shape: list[int | None]


@final
class OpenVinoSession:
    """A model on the CPU with a free batch, compiled for one batch at a time, which OpenVINO runs fastest.

    Compiling takes seconds, so batches are filled up to a few sizes, and what is compiled is kept on disk. Takes and
    gives float32 (labels int64), whatever it computes in.
    """

    def __init__(self, model: Any, core: Any, options: Mapping[str, Any]) -> None:
        self.model, self.core, self.options = model, core, dict(options)
        self._inputs = [_port(port) for port in model.inputs]
        self._outputs = [_port(port) for port in model.outputs]
        self._compiled: OrderedDict[int, Any] = OrderedDict()

    def get_inputs(self) -> list[Port]:
        """The inputs, in order."""
        return self._inputs

    def get_outputs(self) -> list[Port]:
        """The outputs, in order."""
        return self._outputs

    def run(self, names: Sequence[str], given: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
        """The named outputs of the given inputs."""
        axes = {port.name: port.shape.index(None) for port in self._inputs}
        name, axis = next(iter(axes.items()))
        rows = given[name].shape[axis]
        size = bucket(rows)
        filled = np.minimum(np.arange(size), rows - 1)  # the last row again: real inputs keep arithmetic at speed
        request = self._request(size)
        found = request.infer({name: np.take(array, filled, axes[name]) for name, array in given.items()})
        return [np.array(found[name][:rows]) for name in names]

    def _request(self, size: int) -> Any:
        if size not in self._compiled:
            self.model.reshape({port.name: _sized(port, size) for port in self._inputs})
            compiled = self.core.compile_model(self.model, "CPU", self.options)
            self._compiled[size] = compiled.create_infer_request()
            while len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(size)
        return self._compiled[size]


def open_ir(ir: IR, path: Path, *, threads: int = 0, arithmetic: Arithmetic = "f32") -> OpenVinoSession:
    """A session of what was read from ``path`` and checked; ``threads`` 0 leaves their number to the runtime.

    Raises :class:`DeviceError` where the CPU has no units for the ``arithmetic``: OpenVINO would take float32 silently.
    """
    ov = openvino()
    core = ov.Core()
    options = compile_options(core, threads, arithmetic) | {"CACHE_DIR": str(_cache())}
    try:
        weights = ov.Tensor(np.frombuffer(ir.weights, np.uint8)) if ir.weights else ov.Tensor()
        model = core.read_model(ir.graph, weights)
    except Exception as error:  # the runtime raises RuntimeError and its own
        raise CheckpointError(f"{path}: OpenVINO {ov.__version__} cannot load it ({_line(error)})") from error
    return OpenVinoSession(model, core, options)


def compile_options(core: Any, threads: int, arithmetic: Arithmetic) -> dict[str, Any]:
    """How a model is compiled: in one stream, by so many threads (0 leaves their number to the runtime).

    Raises :class:`DeviceError` for an arithmetic that the CPU has no units for.
    """
    if arithmetic not in (known := cpu_arithmetic(core)):
        raise DeviceError(f"this CPU has no units for {arithmetic}, only for {', '.join(known)}; leave out dtype")
    options = {"INFERENCE_PRECISION_HINT": arithmetic, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    return options | ({"INFERENCE_NUM_THREADS": threads} if threads else {})


def _cache() -> Path:
    """Where compiled models are kept."""
    folder = cache_folder("openvino")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot keep compiled models in {folder}: {error.strerror}; set STMD_CACHE") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"cannot keep compiled models in {folder}: it may not be written to; set STMD_CACHE")
    return folder


def _port(port: Any) -> Port:
    sides = [None if side.is_dynamic else side.get_length() for side in port.get_partial_shape()]
    return Port(port.get_any_name(), sides)


def _sized(port: Port, batch: int) -> list[int]:
    return [batch if side is None else side for side in port.shape]


def _line(error: Exception) -> str:
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    return said[-1][:300] if said else type(error).__name__
