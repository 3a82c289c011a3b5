"""Strict reading of dataclasses from JSON and TOML: every unknown, missing or mistyped key is named in the error."""

from __future__ import annotations

import types
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import InvalidArgumentError

__all__ = ["read_config"]

T = TypeVar("T")


def read_config(cls: type[T], values: Any, where: str = "") -> T:
    """Build the dataclass ``cls`` from a mapping of plain values, checking every key and type.

    ``where`` names the place in error messages, as in ``network.width``. A field whose type is a union of
    dataclasses is told apart by the literal in their ``kind``.
    """
    hints = get_type_hints(cls)
    known: dict[str, Field[Any]] = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    if not isinstance(values, dict):
        raise InvalidArgumentError(f"{where or cls.__name__}: expected a table, got {values!r}")
    prefix = f"{where}." if where else ""
    for key in values:
        if key not in known:
            raise InvalidArgumentError(f"{prefix}{key}: unknown key; known are {', '.join(known)}")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise InvalidArgumentError(f"{prefix}{name}: missing")
    return cls(**{key: _read(hints[key], value, prefix + key) for key, value in values.items()})


def _read(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return read_config(hint, value, where)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value, where)
    if origin is Literal:
        if value not in arguments:
            raise InvalidArgumentError(f"{where}: must be one of {', '.join(map(repr, arguments))}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise InvalidArgumentError(f"{where}: expected a list, got {value!r}")
        return tuple(_read(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise InvalidArgumentError(f"{where}: expected a table, got {value!r}")
        return {key: _read(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InvalidArgumentError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value


def _read_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    kinds = {hint.kind: hint for hint in arguments if is_dataclass(hint) and hasattr(hint, "kind")}
    if kinds and not (isinstance(value, str) and str in arguments):
        kind = value.get("kind") if isinstance(value, dict) else None
        if kind not in kinds:
            raise InvalidArgumentError(f"{where}.kind: must be one of {', '.join(map(repr, kinds))}, got {kind!r}")
        return read_config(kinds[kind], value, where)
    if value is None and type(None) in arguments:
        return None
    errors: list[str] = []
    for hint in arguments:
        if hint in kinds.values():
            continue
        try:
            return _read(hint, value, where)
        except InvalidArgumentError as error:
            errors.append(str(error))
    raise InvalidArgumentError("; or ".join(errors))
