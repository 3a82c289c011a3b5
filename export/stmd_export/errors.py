"""Errors of exporting, below the SDK's root."""

from __future__ import annotations

from stmd_sdk.errors import StmdError

__all__ = ["EngineError", "ExportError", "ParityError"]


class ExportError(StmdError, RuntimeError):
    """A network that cannot be exported: an operator without a translation, a batch that would be frozen."""


class ParityError(StmdError, ArithmeticError):
    """An exported graph that does not compute what the trained network computes; no file is left."""


class EngineError(StmdError, RuntimeError):
    """TensorRT refused a graph; the message holds what its log said."""
