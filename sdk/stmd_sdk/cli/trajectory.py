"""``stmd trajectory``: how samples come to be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import exit_on_error, say
from .options import (
    CountOption,
    DeviceOption,
    FirstOption,
    GuidanceOption,
    LabelOption,
    MeanFlowStepsOption,
    ModelOption,
    SeedOption,
    StepsOption,
    check_suffix,
    parse_steps,
)

__all__ = ["trajectory"]


def trajectory(
    model: ModelOption = "mnist",
    n: CountOption = 8,
    steps: StepsOption = None,
    mean_flow_steps: MeanFlowStepsOption = None,
    label: LabelOption = None,
    guidance: GuidanceOption = 1.0,
    seed: SeedOption = None,
    first: FirstOption = 0,
    device: DeviceOption = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="A .png picture.")] = Path("trajectory.png"),
) -> None:
    """Draw how samples come to be: a row of x_0 draws, then a row of the x_s they lead to, for each step."""
    with exit_on_error():
        check_suffix(out, ".png")
        from .sampling import draw_trajectory  # noqa: PLC0415  after --help has been answered

        parsed = parse_steps(steps)
        for line in draw_trajectory(model, device, parsed, mean_flow_steps, label, guidance, seed, first, n, out):
            say(line)
