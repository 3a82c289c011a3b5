"""Export: a checkpoint to ONNX, OpenVINO and TensorRT, each proven equal to what was trained.

>>> from stmd_export import export_onnx
>>> from stmd_sdk import Sampler
>>> samples = Sampler.from_pretrained(export_onnx("mnist", Path("out"))).sample(64, seed=0)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engine_export import export_engine
    from .errors import EngineError, ExportError, ParityError
    from .onnx_export import Whole, export_onnx
    from .openvino_export import export_openvino
    from .restoring import WholeRestoration

# Names are imported when first used: `stmd-export --help` must not wait for PyTorch.
HOMES = {
    "EngineError": "errors",
    "ExportError": "errors",
    "ParityError": "errors",
    "Whole": "onnx_export",
    "WholeRestoration": "restoring",
    "export_engine": "engine_export",
    "export_onnx": "onnx_export",
    "export_openvino": "openvino_export",
}

__all__ = [
    "EngineError",
    "ExportError",
    "ParityError",
    "Whole",
    "WholeRestoration",
    "export_engine",
    "export_onnx",
    "export_openvino",
]


def __getattr__(name: str) -> object:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{HOMES[name]}", __name__), name)
