"""Checks of what users pass, for the public borders."""

from __future__ import annotations

import operator
from typing import Any

import torch

from .errors import DeviceError, InvalidArgumentError

__all__ = ["check_integer", "choose_device"]


def check_integer(name: str, value: Any, least: int) -> int:
    """``value`` as a Python integer of at least ``least``; NumPy's integers pass, bools and floats do not."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise InvalidArgumentError(f"{name} must be an integer of at least {least}, got {value!r}")
    return number


def choose_device(device: torch.device | str | None) -> torch.device:
    """The device asked for, with its index; None takes CUDA where there is one. No silent fallback."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(f"no such device: {device!r}") from error
    if chosen.type not in ("cpu", "cuda"):
        raise DeviceError(f"device must be cpu or cuda, got {device!r}")
    if chosen.type == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        built = "this PyTorch is a CPU build" if torch.version.cuda is None else "no CUDA device is visible"
        raise DeviceError(f"CUDA was asked for, but {built}")
    index = torch.cuda.current_device() if chosen.index is None else chosen.index
    if index >= torch.cuda.device_count():
        raise DeviceError(f"{device} was asked for, but there are only {torch.cuda.device_count()} CUDA devices")
    return torch.device("cuda", index)
