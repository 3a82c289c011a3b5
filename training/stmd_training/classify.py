"""``stmd-train-classifier``: train the classifier of ``stmd evaluate`` on one's own labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stmd_sdk.console import exit_on_error, run_command, say

__all__ = ["main"]


def _train(
    data: Annotated[str, typer.Option(help="A folder of MNIST's or CIFAR-10's files, with labels.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")] = Path("classifier.safetensors"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes through the training split.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the first weights and of the order.")] = 0,
) -> None:
    """Train a classifier for `stmd evaluate --features FILE`, and state its accuracy on the test split."""
    with exit_on_error():
        from .commands import fit_classifier  # noqa: PLC0415  after --help has been answered

        say(fit_classifier(data, out, epochs, seed))


def main() -> None:
    """Run ``stmd-train-classifier``."""
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(_train)
    run_command(app)
