"""Checks for the public borders: integers that users pass, gradients that a backend cannot give."""

from __future__ import annotations

import operator
from typing import Any

from .errors import InvalidArgumentError

__all__ = ["check_integer", "refuse_gradients"]


def check_integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """``value`` as a Python integer in [least, most]; NumPy's integers pass, bools and floats do not."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InvalidArgumentError(f"{name} must be an integer {bounds}, got {value!r}")
    return number


def refuse_gradients(x: Any, what: str) -> None:
    """Raise where ``x`` asks for gradients, which a compiled artefact would drop in silence."""
    if x.requires_grad:
        raise InvalidArgumentError(
            f"{what} cannot be differentiated: likelihood guidance needs the model's .safetensors file; "
            "range-null space guidance, chain and steer need no gradient"
        )
