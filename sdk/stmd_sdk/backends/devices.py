"""Devices: the CPU, or CUDA where there is one."""

from __future__ import annotations

import torch

from ..errors import DeviceError

__all__ = ["resolve_device"]


def resolve_device(device: torch.device | str | None) -> torch.device:
    """The CPU or CUDA device asked for, or CUDA where there is one; DeviceError if it is absent."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(f"no such device: {device!r}") from error
    if chosen.type not in ("cpu", "cuda"):
        raise DeviceError(f"device must be cpu or cuda, got {device!r}")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        built = "this PyTorch is a CPU build" if torch.version.cuda is None else "no CUDA device is visible"
        raise DeviceError(f"CUDA was asked for, but {built}")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"{device!r} was asked for, but only {torch.cuda.device_count()} CUDA devices are visible")
    return chosen
