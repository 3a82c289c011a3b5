"""Strict reading of JSON and TOML, and of dataclasses from them: errors name the unknown, missing or mistyped key."""

from __future__ import annotations

import json
import math
import tomllib
import types
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from .errors import InvalidArgumentError, StmdError
from .files import brief

__all__ = ["read_config", "read_json", "read_toml"]

T = TypeVar("T")


def read_json(text: str | bytes, source: str, error: type[StmdError]) -> Any:
    """The value of a JSON text from outside; ``error``, which begins with ``source``, for all that is not one.

    Bytes are UTF-8 whatever the locale, with or without a byte order mark. Stricter than ``json.loads``: a key given
    twice, NaN, numbers beyond a float's range or of thousands of digits, nesting beyond Python's own and text that
    is no Unicode are refused.
    """
    try:
        decoded = _decoded(text)
        value: Any = json.loads(decoded, object_pairs_hook=_no_key_twice, parse_constant=_finite, parse_float=_finite)
        if "\\u" in decoded:  # the only way for half of a surrogate pair, which could not even be printed
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as reason:
        raise error(f"{source}: not JSON that can be read ({_reason(reason)})") from reason


def read_toml(text: str | bytes, source: str, error: type[StmdError]) -> dict[str, Any]:
    """The table of a TOML text from outside; ``error``, which begins with ``source``, for all that is not one."""
    try:
        return tomllib.loads(_decoded(text))
    except (ValueError, RecursionError) as reason:
        raise error(f"{source}: not TOML that can be read ({_reason(reason)})") from reason


def _decoded(text: str | bytes) -> str:
    return (text.decode() if isinstance(text, bytes) else text).removeprefix("\ufeff")


def _reason(error: ValueError | RecursionError) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else brief(str(error))


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        seen = set[str]()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice!r} is there twice")
    return table


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{brief(text)} is no finite number")
    return number


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
            raise InvalidArgumentError(f"{brief(prefix + key)}: unknown key; known are {', '.join(known)}")
    for name, field in known.items():
        if name not in table and field.default is MISSING and field.default_factory is MISSING:
            raise InvalidArgumentError(f"{prefix}{name}: missing")
    read = {key: _read(hints[key], value, prefix + key) for key, value in table.items()}
    try:
        return cls(**read)
    except (ValueError, OverflowError, RecursionError) as error:  # its own checks, or numbers that they cannot take
        raise InvalidArgumentError(f"{where}: {error}" if where else str(error)) from error


def _shown(value: Any) -> str:
    """A foreign value in an error: of one line's length, and whatever it is."""
    try:
        return brief(repr(value))
    except (ValueError, RecursionError):  # an integer of thousands of digits, lists in lists in lists
        return f"a value of type {type(value).__name__}"


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"{where}: expected a table, got {_shown(value)}")
    return cast(dict[str, Any], value)


def _read(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return read_config(hint, value, where)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise InvalidArgumentError(f"{where}: expected a list, got {_shown(value)}")
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
        return _float(value, where)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InvalidArgumentError(f"{where}: expected {hint.__name__}, got {_shown(value)}")
    return value


def _float(value: int, where: str) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise InvalidArgumentError(f"{where}: {_shown(value)} is too large for a floating-point number") from error


def _read_choice(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value not in choices:
        raise InvalidArgumentError(f"{where}: must be one of {', '.join(map(repr, choices))}, got {_shown(value)}")
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
