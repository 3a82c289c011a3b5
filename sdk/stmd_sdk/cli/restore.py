"""``stmd restore``: images that could have produced a damaged one, their mean and their uncertainty."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import exit_on_error, say
from .options import OPERATORS, DeviceOption, ModelOption, check_suffix

__all__ = ["restore"]


def restore(
    image: Annotated[Path, typer.Argument(help="The damaged image (small for sr4), or with --simulate a clean one.")],
    operator: Annotated[str, typer.Option(help=f"What damaged it: {OPERATORS}. In a mask black hides.")],
    model: ModelOption = "mnist",
    draws: Annotated[int, typer.Option(help="How many restored images to draw.")] = 64,
    sigma: Annotated[
        float | None, typer.Option(help="Deviation of the noise, of images in -1 to 1; 0, or 0.02 for blurs.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Inference steps N.")] = 20,
    simulate: Annotated[bool, typer.Option(help="Damage the image first.")] = False,
    seed: Annotated[int | None, typer.Option(help="The seed; a fresh one, printed, by default.")] = None,
    device: DeviceOption = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="A .png picture.")] = Path("restored.png"),
) -> None:
    """Draw what a damaged image may have been: one picture of the draws, their mean and deviation.

    [dim]stmd restore damaged.png --operator mask:mask.png[/dim]
    [dim]stmd restore digit.png --simulate --operator sr4 --draws 64 -o restored.png[/dim]
    """
    with exit_on_error():
        check_suffix(out, ".png")
        from .restoring import Damage, restored  # noqa: PLC0415  after --help has been answered

        say(restored(image, Damage(operator, sigma, simulate), model, draws, steps, seed, device, out))
