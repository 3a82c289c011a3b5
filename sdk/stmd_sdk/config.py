"""Strict reading of dataclasses from JSON and TOML: errors name the unknown, missing or mistyped key."""

from __future__ import annotations

import types
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from .errors import InvalidArgumentError

__all__ = ["read_config"]

T = TypeVar("T")


def read_config(cls: type[T], values: Any, where: str = "") -> T:
    """Build the dataclass ``cls`` from a mapping of plain values, checking every key and type.

    ``where`` names the place in error messages, as in ``network.width``. A field whose type is a union of
    dataclasses is told apart by the literal in their ``kind``.
    """
    table = _table(values, where or cls.__name__)
    hints = get_type_hints(cls)
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
    prefix = f"{where}." if where else ""
    for key in table:
        if key not in known:
            raise InvalidArgumentError(f"{prefix}{key}: unknown key; known are {', '.join(known)}")
    for name, field in known.items():
        if name not in table and field.default is MISSING and field.default_factory is MISSING:
            raise InvalidArgumentError(f"{prefix}{name}: missing")
    read = {key: _read(hints[key], value, prefix + key) for key, value in table.items()}
    try:
        return cls(**read)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{where}: {error}" if where else str(error)) from error


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"{where}: expected a table, got {value!r}")
    return cast(dict[str, Any], value)


def _read(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return read_config(hint, value, where)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise InvalidArgumentError(f"{where}: expected a list, got {value!r}")
        items = enumerate(cast(list[Any], value))
        return tuple(_read(arguments[0], item, f"{where}[{i}]") for i, item in items)
    if origin is dict:
        table = _table(value, where)
        return {key: _read(arguments[1], item, f"{where}.{key}") for key, item in table.items()}
    return _read_scalar(hint, value, where)


def _read_scalar(hint: Any, value: Any, where: str) -> Any:
    if get_origin(hint) is Literal:
        return _read_choice(get_args(hint), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InvalidArgumentError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value


def _read_choice(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value not in choices:
        raise InvalidArgumentError(f"{where}: must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def _read_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    tables: list[Any] = [hint for hint in arguments if is_dataclass(hint)]
    kinds = {hint.kind: hint for hint in tables if hasattr(hint, "kind")}
    if kinds and not (isinstance(value, str) and str in arguments):
        kind = _read_choice(tuple(kinds), _table(value, where).get("kind"), f"{where}.kind")
        return read_config(kinds[kind], value, where)
    errors: list[str] = []
    for hint in arguments:
        if hint in kinds.values():
            continue
        try:
            return _read(hint, value, where)
        except InvalidArgumentError as error:
            errors.append(str(error))
    raise InvalidArgumentError("; or ".join(errors))
