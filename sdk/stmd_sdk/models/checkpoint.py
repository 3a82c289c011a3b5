"""Model files: safetensors with the spec inside. Nothing in them is executed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file  # type: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from ..errors import CheckpointError, OutputError
from ..files import brief, is_file, is_folder, refuse_pointer, written_whole
from .spec import ModelSpec

__all__ = [
    "bundled_models",
    "checked_weights",
    "load_model",
    "read_spec",
    "read_tensors",
    "resolve_model",
    "save_model",
]

SPEC_KEY = "stmd_spec"
BUNDLED = Path(__file__).parent


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.stem for path in BUNDLED.glob("*.safetensors"))


def resolve_model(name_or_path: str | Path) -> Path:
    """The file of a bundled name or a path."""
    bundled = BUNDLED / f"{name_or_path}.safetensors"
    path = bundled if str(name_or_path) in bundled_models() else Path(name_or_path)
    if is_folder(path, CheckpointError):
        raise CheckpointError(f"{path} is a folder; name a file in it, as in {path / 'model.safetensors'}")
    if not is_file(path, CheckpointError):
        raise CheckpointError(
            f"no model {brief(repr(str(name_or_path)))}: neither a file nor one of the bundled models "
            f"({', '.join(bundled_models())})"
        )
    refuse_pointer(path, CheckpointError)
    return path


@contextmanager
def _opened(path: Path) -> Generator[Any, None, None]:
    try:
        with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
            yield file
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and metadata of a safetensors file."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def read_spec(path: Path) -> ModelSpec:
    """The spec of a model file, without its weights."""
    with _opened(path) as file:
        return _spec(path, dict(file.metadata() or {}))


def load_model(path: Path) -> tuple[ModelSpec, nn.Module]:
    """The spec and the network of a model file: float32, on the CPU, in evaluation mode."""
    tensors, metadata = read_tensors(path)
    spec = _spec(path, metadata)
    try:
        # On the meta device no weights are allocated, nor drawn at random only to be replaced.
        with torch.device("meta"):
            network = spec.build_network()
    except (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError) as error:  # PyTorch's and diffusers' too
        raise CheckpointError(f"{path}: its spec describes no network ({_line(error)})") from error
    network.load_state_dict(checked_weights(path, tensors, network.state_dict()), assign=True)
    return spec, network.eval().requires_grad_(False)


def checked_weights(path: Path, tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies in float32 of a file's tensors, once they have the names and shapes expected, and finite numbers."""
    if tensors.keys() != expected.keys():
        odd = sorted(tensors.keys() ^ expected.keys())
        raise CheckpointError(f"{path}: its tensors are not those of its spec's network, as {brief(odd[0])}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(expected[name].shape)}"
            raise CheckpointError(f"{path}: {name} has shape {shapes}")
        if not (tensor.is_floating_point() and tensor.isfinite().all()):
            raise CheckpointError(f"{path}: {name} has values that are not finite floating-point numbers")
    return {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}


def _line(error: Exception) -> str:
    return brief((str(error).strip() or type(error).__name__).splitlines()[0])


def save_model(path: Path, spec: ModelSpec, state: dict[str, Tensor]) -> None:
    """Write a model file, whole or not at all."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with written_whole(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={SPEC_KEY: spec.to_json()})
        except SafetensorError as error:
            raise OutputError(f"cannot write {path}: {error}") from error


def _spec(path: Path, metadata: dict[str, str]) -> ModelSpec:
    if SPEC_KEY not in metadata:
        raise CheckpointError(f"{path}: no STMD spec in it; it was not written by this project")
    return ModelSpec.from_json(metadata[SPEC_KEY], str(path))
