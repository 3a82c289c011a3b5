"""``stmd certify``: how true a model's draws are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import console, exit_on_error
from .options import ModelArgument, named

__all__ = ["certify"]


def certify(
    model: ModelArgument,
    data: Annotated[
        str | None,
        typer.Option(help="A mixture, or held-out data; by default the data that the model was trained on."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write OUT.json and OUT.png; by default MODEL-certificate here.")
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(help="Pairs (x_0, x_t) at each t; by default 16384, 1024 on held-out data.")
    ] = None,
    mean_flow_steps: Annotated[int, typer.Option(help="M, network evaluations a draw.")] = 1,
    labelled: Annotated[
        bool, typer.Option("--labelled", help="Of a model with classes: given the labels of the held-out data.")
    ] = False,
    seed: Annotated[int, typer.Option(help="The seed of all pairs and draws.")] = 0,
) -> None:
    """Test a model's draws of p(x_0 | x_t), print a verdict, and exit with 1 if it fails."""
    with exit_on_error():
        from ..evaluation.certify import certify_model  # noqa: PLC0415  after --help has been answered

        out = Path(f"{named(model)}-certificate") if out is None else out
        show = console.is_terminal
        report = certify_model(
            model,
            data,
            out=out,
            pairs=pairs,
            mean_flow_steps=mean_flow_steps,
            labelled=labelled,
            seed=seed,
            progress=show,
        )
        console.print(report.table())
        if not report.passed:
            raise typer.Exit(1)
