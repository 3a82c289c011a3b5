"""What a model's file says of itself, whatever its kind, as people read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from ..backends.tensorrt import read_engine
from ..models.artefact import read_onnx
from ..models.checkpoint import resolve_model
from ..models.ir import read_ir
from ..models.spec import ModelSpec
from ..pretrained.opening import load_pretrained

__all__ = ["describe_file", "describe_spec"]


def describe_file(name_or_path: str) -> list[tuple[str, str]]:
    """Rows of a name and what is said: the file, how it was exported, the spec, and how it was trained."""
    path = resolve_model(name_or_path)
    exported, spec = _read(path)
    return [("file", f"{path} ({path.stat().st_size / 1e6:.1f} MB)"), *_rows(exported), *describe_spec(spec)]


def describe_spec(spec: ModelSpec) -> list[tuple[str, str]]:
    """The rows of a spec, and after them how the model was trained."""
    own = {field.name: getattr(spec, field.name) for field in fields(spec) if field.name != "training"}
    own["shape"] = " x ".join(map(str, spec.shape))
    return [*_rows(own), *_rows(spec.training)]  # apart: a fact of the training may be called "shape"


def _rows(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, _shown(value)) for name, value in values.items() if _says(value)]


def _read(path: Path) -> tuple[Mapping[str, Any], ModelSpec]:
    """What a file is beside its spec, by the backend that its suffix names, and the spec in it."""
    match path.suffix:
        case ".onnx":
            text, artefact = read_onnx(path)
            return {"graph": artefact}, ModelSpec.from_json(text, str(path))
        case ".xml":
            ir = read_ir(path)
            return {"graph": ir.artefact}, ModelSpec.from_json(ir.spec, str(path))
        case ".engine":
            spec, manifest, _ = read_engine(path)
            named = {field.name: getattr(manifest, field.name) for field in fields(manifest) if field.name != "layers"}
            return {f"engine {name}": value for name, value in named.items()}, spec
        case _:
            spec, network = load_pretrained(path)
            return {"parameters": f"{sum(parameter.numel() for parameter in network.parameters()):,}"}, spec


def _says(value: Any) -> bool:
    """Whether a value is more than the absence of one; 0 is a number."""
    return value is not None and value is not False and value not in ("", (), [], {})


def _shown(value: Any) -> str:
    """A value in words: a configuration by its kind and what it holds, a switch by its name."""
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value) if field.repr}
    if isinstance(value, Mapping):
        inside = {str(name): one for name, one in value.items() if _says(one)}
        kind = str(inside.pop("kind", ""))
        words = [name + ("" if one is True else f" {_shown(one)}") for name, one in inside.items()]
        return ": ".join(filter(None, (kind, ", ".join(words))))
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_shown, value))})"
    if value is True:
        return "yes"
    return f"{value:g}" if isinstance(value, float) else str(value)
