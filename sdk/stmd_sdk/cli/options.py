"""What the commands share: options, and how their text is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InvalidArgumentError

__all__ = [
    "METHODS",
    "OPERATORS",
    "CountOption",
    "DeviceOption",
    "FirstOption",
    "GuidanceOption",
    "LabelOption",
    "MeanFlowStepsOption",
    "ModelArgument",
    "ModelOption",
    "RayOption",
    "SeedOption",
    "StepsOption",
    "check_suffix",
    "integers",
    "named",
    "parse_steps",
]

ModelArgument = Annotated[str, typer.Argument(help="A bundled model's name, a model file, or owner/name on the Hub.")]
ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="A bundled model's name, a model file, or owner/name on the Hub.")
]
CountOption = Annotated[int, typer.Option("--n", "-n", help="How many samples.")]
StepsOption = Annotated[
    str | None,
    typer.Option(help="Inference steps N, or a decreasing grid of times such as 1,0.6,0.3,0. Default: the model's."),
]
MeanFlowStepsOption = Annotated[
    int | None, typer.Option(help="Mean Flow steps M of each inference step; the cost is N x M. Default: the model's.")
]
SeedOption = Annotated[
    int | None, typer.Option(help="Sample k of a seed is always the same. Default: a fresh one, printed.")
]
FirstOption = Annotated[int, typer.Option(help="Index of the first sample of the seed.")]
LabelOption = Annotated[
    str | None,
    typer.Option(
        help="The class to draw, by number or name; each: a row of each; random: each sample's is drawn with it. "
        "Default: all together, as the model learnt them without labels."
    ),
]
GuidanceOption = Annotated[
    float, typer.Option(help="Towards the label: above 1 more like its class than the data, at two evaluations each.")
]
METHODS = "gibbs", "condition", "chain"
OPERATORS = "mask:FILE, sr2, sr4, bicubic2, bicubic4, deblur[:DEVIATION], motion[:LENGTH[:ANGLE]], gray"
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray", help="Spread the work over a Ray cluster: HOST:PORT, auto, or local for this machine's cores."
    ),
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu or cuda. Default: cuda where there is one.")]


def parse_steps(text: str | None) -> int | list[float] | None:
    """``4`` or ``1,0.6,0.3,0`` as a count or times."""
    if text is None:
        return None
    try:
        return [float(t) for t in text.split(",")] if "," in text else int(text)
    except ValueError:
        raise InvalidArgumentError(f"--steps must be a count or times such as 1,0.5,0, got {text!r}") from None


def integers(option: str, text: str) -> list[int]:
    """``1,2,4`` as integers."""
    try:
        return [int(one) for one in text.split(",")]
    except ValueError:
        raise InvalidArgumentError(f"{option} takes integers such as 1,2,4, got {text!r}") from None


def named(model: str) -> str:
    """What a model's files are called: by its own name, or by its run's folder where each run has a model.*."""
    path = Path(model.removeprefix("bundled:"))
    return path.absolute().parent.name or path.stem if path.stem == "model" and path.suffix else path.stem


def check_suffix(out: Path, suffix: str, option: str = "--out") -> None:
    """Raise unless the output ends as it must."""
    if out.suffix != suffix:
        raise InvalidArgumentError(f"{option} must end in {suffix}, got {str(out)!r}")
