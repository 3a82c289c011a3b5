"""The two flavours of TensorRT, which share an API, and their one logger. Does not import PyTorch."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

from ..errors import InvalidArgumentError, MissingExtraError

__all__ = ["FLAVOURS", "installed_flavours", "load_flavour", "tensorrt_log"]

FLAVOURS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Extras and pip packages, and the modules they bring."""


def installed_flavours() -> list[str]:
    """The installed flavours of TensorRT, without importing them."""
    return [name for name, module in FLAVOURS.items() if importlib.util.find_spec(module) is not None]


def load_flavour(name: str | None) -> tuple[str, Any]:
    """The named flavour and its module; None takes the one that is installed."""
    installed = installed_flavours()
    if name is not None and name not in FLAVOURS:
        raise InvalidArgumentError(f"no TensorRT flavour {name!r}; there are {', '.join(FLAVOURS)}")
    if name is None and len(installed) == 2:
        raise InvalidArgumentError("tensorrt and tensorrt-rtx are both installed; say which one to use")
    if not installed or (name is not None and name not in installed):
        lines = " or ".join(f"pip install 'stmd-sdk[{extra}]'" for extra in ([name] if name else FLAVOURS))
        raise MissingExtraError(f"{name or 'TensorRT'} is not installed; it comes with: {lines}")
    chosen = name or installed[0]
    try:
        return chosen, importlib.import_module(FLAVOURS[chosen])
    except (ImportError, OSError) as error:
        raise MissingExtraError(
            f"{chosen} is installed but cannot be imported ({error}): "
            f"pip install --force-reinstall 'stmd-sdk[{chosen}]'"
        ) from error


@functools.cache
def tensorrt_log(flavour: str) -> Any:
    """The logger of a flavour, one a process: TensorRT ignores every logger after the first.

    ``take()`` returns the warnings and errors since the last call. TensorRT reports failures nowhere else.
    """
    _, trt = load_flavour(flavour)

    class Log(trt.ILogger):  # its base class is known at run time only
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
                self.lines.append(message.strip())

        def take(self) -> list[str]:
            taken, self.lines = self.lines, []
            return taken

    return Log()
