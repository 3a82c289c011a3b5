"""The check of integers that users pass, for the public borders."""

from __future__ import annotations

import operator
from typing import Any

from .errors import InvalidArgumentError

__all__ = ["check_integer"]


def check_integer(name: str, value: Any, least: int) -> int:
    """``value`` as a Python integer of at least ``least``; NumPy's integers pass, bools and floats do not."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise InvalidArgumentError(f"{name} must be an integer of at least {least}, got {value!r}")
    return number
