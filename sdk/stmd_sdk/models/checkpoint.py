"""Model files: safetensors with the spec inside. Nothing in them is executed."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, InvalidArgumentError, first_line
from ..files import brief, is_file, is_folder, refuse_pointer
from ..hub import hub_name
from .folders import refuse_pickle, weights_in
from .spec import ModelSpec
from .tensors import opened_tensors, read_metadata, write_tensors

__all__ = [
    "SPEC_KEY",
    "bundled_models",
    "checked_weights",
    "load_model",
    "network_of",
    "read_spec",
    "resolve_model",
    "save_model",
]

SPEC_KEY = "stmd_spec"
BUNDLED = Path(__file__).parent


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.stem for path in BUNDLED.glob("*.safetensors"))


def resolve_model(name_or_path: str | Path, revision: str | None = None) -> Path:
    """The file of a bundled name, of a path, or of ``owner/name`` on the Hub, in that order.

    A path is that of a model file, or of a folder of diffusers, whose weights it then is. ``revision`` is a branch, tag
    or commit of the Hub's, as what follows the @ of ``owner/name@revision``.
    """
    text, names = str(name_or_path), bundled_models()
    bundled = text.removeprefix("bundled:")
    if bundled in names and bundled == text:
        _check_doubt(text)
    path = BUNDLED / f"{bundled}.safetensors" if bundled in names else Path(name_or_path)
    named = None if is_file(path, CheckpointError) or is_folder(path, CheckpointError) else hub_name(text)
    if named is not None:
        from ..hub.client import fetched  # noqa: PLC0415  takes a second to import

        path = _of_repository(fetched(named[0], revision or named[1]))
    elif revision is not None:
        raise InvalidArgumentError(f"revision {revision!r} is of a model on the Hub, and {brief(repr(text))} is none")
    if is_folder(path, CheckpointError):
        weights = weights_in(path)
        if weights is None:
            raise CheckpointError(f"{path} is a folder; name a file in it, as in {path / 'model.safetensors'}")
        path = weights
    if not is_file(path, CheckpointError):
        raise CheckpointError(
            f"no model {brief(repr(str(name_or_path)))}: neither a file nor one of the bundled models "
            f"({', '.join(bundled_models())})"
        )
    refuse_pickle(path)
    refuse_pointer(path, CheckpointError)
    return path


def _of_repository(folder: Path) -> Path:
    """This project's one file in what was fetched, or the folder, where diffusers' JSON says what is in it."""
    files = list(folder.glob("*.safetensors"))
    foreign = (folder / "model_index.json").exists() or (folder / "config.json").exists()
    return folder if foreign or len(files) != 1 else files[0]


def _check_doubt(name: str) -> None:
    """Raise where a bundled model's name may stand for one that lies here; a folder of data may have the name."""
    here = [Path(name, "model.safetensors"), Path(f"{name}.safetensors")]
    found = next((path for path in here if path.is_file()), None)
    if found is not None:
        raise CheckpointError(f"{name} is a bundled model, and there is {found} here: say ./{found} or bundled:{name}")


def read_spec(path: Path) -> ModelSpec:
    """The spec of a model file, without its weights."""
    return _spec(path, read_metadata(path))


def load_model(path: Path) -> tuple[ModelSpec, nn.Module]:
    """The spec and the network of a model file: float32, on the CPU, in evaluation mode."""
    with opened_tensors(path) as (tensors, metadata):
        spec = _spec(path, metadata)
        return spec, network_of(path, spec, tensors)


def network_of(path: Path, spec: ModelSpec, tensors: dict[str, Tensor]) -> nn.Module:
    """The network of a spec, with a file's tensors: float32, on the CPU, in evaluation mode."""
    try:
        # On the meta device no weights are allocated, nor drawn at random only to be replaced.
        with torch.device("meta"):
            network = spec.build_network()
    except (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError) as error:  # diffusers' too
        raise CheckpointError(f"{path}: its spec describes no network ({brief(first_line(error))})") from error
    network.load_state_dict(checked_weights(path, tensors, network.state_dict()), assign=True)
    return network.eval().requires_grad_(False)


def checked_weights(path: Path, tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies in float32 of a file's tensors, once they have the names and shapes expected, and finite numbers."""
    if tensors.keys() != expected.keys():
        odd = sorted(tensors.keys() ^ expected.keys())
        raise CheckpointError(f"{path}: its tensors are not those of its spec's network, as {brief(odd[0])}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(expected[name].shape)}"
            raise CheckpointError(f"{path}: {name} has shape {shapes}")
        if not (tensor.is_floating_point() and _finite(tensor)):
            raise CheckpointError(f"{path}: {name} has values that are not finite floating-point numbers")
    return {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}


def save_model(path: Path, spec: ModelSpec, state: dict[str, Tensor]) -> None:
    """Write a model file, whole or not at all."""
    write_tensors(path, state, {SPEC_KEY: spec.to_json()})


def _finite(tensor: Tensor) -> bool:
    """Whether all values are finite numbers: their extremes are, and NaN is one. Five times faster than isfinite."""
    return tensor.numel() == 0 or bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def _spec(path: Path, metadata: dict[str, str]) -> ModelSpec:
    if SPEC_KEY not in metadata:
        raise CheckpointError(f"{path}: no STMD spec in it; it was not written by this project")
    return ModelSpec.from_json(metadata[SPEC_KEY], str(path))
