"""``stmd evaluate``: how near a model's samples are to data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import console, exit_on_error
from ..files import check_writable
from .options import ModelArgument, integers, named

__all__ = ["evaluate"]


def evaluate(
    model: ModelArgument,
    data: Annotated[str, typer.Option(help="Real data: a folder, an .npz file, hf:ID, digits.")],
    steps: Annotated[str | None, typer.Option(help="Inference steps N, as in 1,2,4,8. Default: the model's.")] = None,
    mean_flow_steps: Annotated[
        str | None, typer.Option(help="Mean Flow steps M, as in 1,2. Default: the model's.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, as in 0,1,2: the table gives mean and spread.")] = "0",
    n: Annotated[
        int | None, typer.Option(help="Samples, against as many real ones. Default: 10000, if there are.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(help="A classifier's name or file, pixels, inception[:FILE]. Default: by the samples' shape."),
    ] = None,
    labelled: Annotated[
        bool,
        typer.Option("--labelled", help="Ask for the classes of the real samples, one each."),
    ] = False,
    guidance: Annotated[float, typer.Option(help="With --labelled: classifier-free guidance.")] = 1.0,
    batch_size: Annotated[int | None, typer.Option(help="Samples at once; no figure depends on it.")] = None,
    out: Annotated[Path | None, typer.Option(help="The .json file. Default: MODEL-quality.json here.")] = None,
) -> None:
    """Measure Fréchet distance, precision, recall, density and coverage over N, M and seeds.

    [dim]stmd evaluate mnist --data MNIST_DIR --steps 1,2,4,8 --seeds 0,1,2[/dim]
    """
    with exit_on_error():
        out = Path(f"{named(model)}-quality.json") if out is None else out
        check_writable(out)
        sweep = None if steps is None else integers("--steps", steps)
        flow_steps = None if mean_flow_steps is None else integers("--mean-flow-steps", mean_flow_steps)
        keys = integers("--seeds", seeds)
        from ..evaluation.quality import evaluate_model, reference  # noqa: PLC0415  after --help has been answered
        from ..models.checkpoint import resolve_model  # noqa: PLC0415

        resolve_model(model)  # before the data are read
        report = evaluate_model(
            model,
            reference(data, n=n, features=features, labelled=labelled),
            steps=sweep,
            mean_flow_steps=flow_steps,
            seeds=keys,
            batch_size=batch_size,
            labelled=labelled,
            guidance=guidance,
            progress=console.is_terminal,
        )
        report.write_json(out)
        console.print(report.table())
