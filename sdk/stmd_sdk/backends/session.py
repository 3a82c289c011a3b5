"""Opening an ONNX Runtime session without its silent fallbacks. Does not import PyTorch."""

from __future__ import annotations

import importlib
from importlib import metadata
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DeviceError, MissingExtraError, check_version, first_line, requires_extra

__all__ = ["has_cuda_provider", "open_session", "runtime"]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
FLAVOURS = "onnxruntime", "onnxruntime-gpu"
LEAST = 1, 26
"""The lowest version that is asked for, as in pyproject.toml: older ones read weights from wherever a file says."""


def runtime() -> Any:
    """The module ``onnxruntime``. Both flavours at once is an error: they share a folder."""
    if all(_installed(name) for name in FLAVOURS):
        raise MissingExtraError(
            "onnxruntime and onnxruntime-gpu are both installed and break each other; keep one: "
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'stmd-sdk[onnx]' (or [onnx-gpu])"
        )
    with requires_extra("onnx"):
        module = importlib.import_module("onnxruntime")
    check_version(module, LEAST, "onnx")
    return module


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def open_session(
    path: Path, graph: bytes | None = None, *, cuda: dict[str, str] | None = None, threads: int = 0
) -> Any:
    """A session on the CPU, or with ``cuda`` (the provider's options) on CUDA and on nothing else.

    ``graph`` is what was read from ``path`` and checked; without it the runtime reads the file itself.
    ``threads`` 0 leaves their number to the runtime. A CUDA provider that cannot start is an error here; the
    runtime by itself would go on with the CPU.
    """
    ort = runtime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # Planning which values share memory takes the square of the nodes: most of the opening of a whole sampler.
    # Values are still freed after their last use, so neither the memory in use nor the speed changes.
    options.enable_mem_reuse = False
    providers: list[str | tuple[str, dict[str, str]]] = [CPU]
    if cuda is not None:
        _check_cuda_provider()
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        providers = [(CUDA, cuda)]
    if graph is not None:  # where weights are that a message could not hold
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    try:
        session = ort.InferenceSession(
            path if graph is None else graph, options, providers=providers, enable_fallback=0
        )
    except Exception as error:  # the runtime's exceptions share no base class but this one
        if cuda is not None:
            raise DeviceError(f"{path}: ONNX Runtime cannot run it on CUDA ({first_line(error)[:300]})") from error
        raise CheckpointError(f"{path}: ONNX Runtime cannot load it ({first_line(error)[:300]})") from error
    if cuda is not None and session.get_providers()[0] != CUDA:
        raise DeviceError(
            "ONNX Runtime could not start its CUDA provider and would fall back to the CPU; it needs an "
            "NVIDIA driver, CUDA and cuDNN 9: see `stmd doctor`"
        )
    return session


def has_cuda_provider() -> bool:
    """Whether the installed ONNX Runtime was built with CUDA; that it can start there is another matter."""
    return CUDA in runtime().get_available_providers()


def _check_cuda_provider() -> None:
    if not has_cuda_provider():
        raise DeviceError(
            "CUDA was asked for, but the installed onnxruntime has no CUDA provider: "
            "pip uninstall -y onnxruntime && pip install 'stmd-sdk[onnx-gpu]'"
        )
