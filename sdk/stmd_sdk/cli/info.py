"""``stmd info``: what a model is."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from ..console import console, exit_on_error, plain

__all__ = ["info"]


def info(
    model: Annotated[
        str, typer.Argument(help="A bundled model's name, a .safetensors, .onnx, .xml or .engine file, or owner/name.")
    ],
) -> None:
    """Show what a model is: its spec, its network and how it was trained; of exported files, how they were made."""
    with exit_on_error():
        from ..runs.description import describe_file  # noqa: PLC0415  after --help has been answered

        table = Table(show_header=False, box=None)
        for name, said in describe_file(model):
            table.add_row(plain(name), plain(said))
        console.print(table)
