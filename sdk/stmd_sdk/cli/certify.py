"""``stmd certify``: how true a model's draws are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..console import console, exit_on_error
from ..errors import InvalidArgumentError
from .options import OPERATORS, ModelArgument, named

__all__ = ["certify"]

SIGMA = 0.1


def certify(
    model: ModelArgument,
    data: Annotated[
        str | None,
        typer.Option(help="A mixture, or held-out data; by default the data that the model was trained on."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write OUT.json and OUT.png; by default MODEL-certificate, or MODEL-posterior.")
    ] = None,
    pairs: Annotated[
        int | None,
        typer.Option(help="Pairs (x_0, x_t) at each t, by default 16384, 1024 on held-out data; or (x, y), 200."),
    ] = None,
    mean_flow_steps: Annotated[
        int | None, typer.Option(help="M, network evaluations a draw. Default: the model's.")
    ] = None,
    labelled: Annotated[
        bool, typer.Option("--labelled", help="Of a model with classes: given the labels of the held-out data.")
    ] = False,
    features: Annotated[
        str | None,
        typer.Option(help="Of held-out images: the classifier in whose features to look too. Default: a bundled one."),
    ] = None,
    posterior: Annotated[
        str | None,
        typer.Option(help=f"Test the draws of gibbs given y instead: {OPERATORS}, or projections[:COUNT] of vectors."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="own-denoiser: compare with draws by the flow of the model's own denoiser, without a verdict; or the "
            "float32 model that an exported file of reduced precision was made of."
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="bfloat16 or float16: what the network computes in, beside the same model in float32."),
    ] = None,
    sigma: Annotated[float, typer.Option(help="With --posterior, the noise of y.")] = SIGMA,
    resample: Annotated[bool, typer.Option("--resample", help="With --posterior, resampled draws.")] = False,
    seed: Annotated[int, typer.Option(help="The seed of all pairs and draws.")] = 0,
) -> None:
    """Test a model's draws of p(x_0 | x_t), print a verdict, and exit with 1 if it fails.

    With --posterior, its draws of p(x | y), y measured of its own samples x: each must be like x given y. With --dtype,
    or --against FILE, what a reduced precision does: PASS if 4096 samples are not told from float32's and no figure
    leaves its tolerance that is within it in float32.

    [dim]stmd certify mixture2d[/dim]
    [dim]stmd certify mnist --data MNIST_DIR[/dim]
    [dim]stmd certify digits --posterior sr2[/dim]
    [dim]stmd certify mnist --against own-denoiser[/dim]
    [dim]stmd certify mnist --dtype bfloat16 --data MNIST_DIR[/dim]
    """
    with exit_on_error():
        # After --help has been answered.
        from ..evaluation.certify import certify_model  # noqa: PLC0415
        from ..evaluation.own_denoiser import certify_own_denoiser  # noqa: PLC0415
        from ..evaluation.posterior_report import certify_posterior  # noqa: PLC0415
        from ..evaluation.reduced import certify_precision  # noqa: PLC0415

        shared: dict[str, Any] = {"pairs": pairs, "mean_flow_steps": mean_flow_steps, "seed": seed}
        shared["progress"] = console.is_terminal
        if dtype is not None or (against is not None and against != "own-denoiser"):
            if posterior is not None or against == "own-denoiser" or features:
                raise InvalidArgumentError("--dtype goes without --posterior, --features and --against own-denoiser")
            out = Path(f"{named(model)}-{dtype or 'precision'}") if out is None else out
            report = certify_precision(model, dtype, against=against, data=data, out=out, labelled=labelled, **shared)
        elif against is not None:
            if posterior is not None or data is not None or labelled or features:
                raise InvalidArgumentError(
                    "--against own-denoiser goes without --data, --labelled, --features and --posterior"
                )
            out = Path(f"{named(model)}-own-denoiser") if out is None else out
            report = certify_own_denoiser(model, out=out, **shared)
        elif posterior is None:
            if resample or sigma != SIGMA:
                raise InvalidArgumentError("--sigma and --resample are of --posterior OPERATOR")
            out = Path(f"{named(model)}-certificate") if out is None else out
            report = certify_model(model, data, out=out, labelled=labelled, features=features, **shared)
        else:
            if data is not None or labelled or features:
                raise InvalidArgumentError(
                    "--posterior takes x of the model's own law: leave out --data, --labelled and --features"
                )
            out = Path(f"{named(model)}-posterior") if out is None else out
            report = certify_posterior(model, posterior, out=out, sigma=sigma, resample=resample, **shared)
        console.print(report.table())
        if not report.passed:
            raise typer.Exit(1)
