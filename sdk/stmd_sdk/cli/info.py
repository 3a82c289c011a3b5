"""``stmd info``: what a model is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..console import console, exit_on_error, plain

if TYPE_CHECKING:
    from ..models.spec import ModelSpec

__all__ = ["info"]


def info(
    model: Annotated[str, typer.Argument(help="A bundled model's name, or a .safetensors, .onnx or .engine file.")],
) -> None:
    """Show what a model is: its spec, its network and how it was trained; of exported files, how they were made."""
    with exit_on_error():
        from ..models.checkpoint import resolve_model  # noqa: PLC0415

        path = resolve_model(model)
        facts, spec = _facts(path)
        values: dict[str, Any] = {**asdict(spec), "local_gaussians": spec.local_gaussians}
        del values["training"]
        size = f"{path} ({path.stat().st_size / 1e6:.1f} MB)"
        table = Table(show_header=False, box=None)
        for rows in ({"file": size}, facts, values, spec.training):  # apart: a fact may be called "file"
            for name, value in rows.items():
                table.add_row(plain(name), plain(str(value)))
        console.print(table)


def _facts(path: Path) -> tuple[dict[str, Any], ModelSpec]:
    """What a file says of itself, by the backend that its suffix names, and the spec in it."""
    from ..models.spec import ModelSpec  # noqa: PLC0415

    if path.suffix == ".onnx":
        from ..models.artefact import read_onnx  # noqa: PLC0415

        text, artefact = read_onnx(path)
        facts = {f"artefact.{name}": value for name, value in asdict(artefact).items()}
        return facts, ModelSpec.from_json(text, str(path))
    if path.suffix == ".engine":
        from ..backends.tensorrt import read_engine  # noqa: PLC0415

        spec, manifest, _ = read_engine(path)
        return {f"engine.{name}": value for name, value in asdict(manifest).items() if name != "layers"}, spec
    from ..models.checkpoint import load_model  # noqa: PLC0415

    spec, network = load_model(path)
    return {"parameters": f"{sum(p.numel() for p in network.parameters()):,}"}, spec
