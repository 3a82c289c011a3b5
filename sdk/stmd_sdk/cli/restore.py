"""``stmd restore``: images that could have produced a damaged one, their mean and their uncertainty."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import exit_on_error, say
from .options import METHODS, OPERATORS, DeviceOption, ModelOption, RayOption

__all__ = ["restore"]


def restore(
    image: Annotated[
        Path,
        typer.Argument(help="The damaged image (small for sr4), or with --simulate a clean one; or a folder of such."),
    ],
    operator: Annotated[str, typer.Option(help=f"What damaged it: {OPERATORS}. In a mask black hides.")],
    model: ModelOption = "mnist",
    method: Annotated[str, typer.Option(help=f"{', '.join(METHODS)}; chain starts from draws of condition.")] = "gibbs",
    draws: Annotated[int, typer.Option(help="How many restored images to draw.")] = 64,
    sigma: Annotated[
        float | None,
        typer.Option(help="Deviation of the noise, of images in -1 to 1; 0.02, or none of condition but for blurs."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Levels of gibbs (40; with --resample the most, 300), steps of condition (20), chain (100)."),
    ] = None,
    resample: Annotated[
        bool, typer.Option("--resample", help="Of gibbs: draws that cooperate, for several modes and log p(y).")
    ] = False,
    label: Annotated[
        str | None, typer.Option(help="The class of the image, by number or name, of a model that has some.")
    ] = None,
    simulate: Annotated[bool, typer.Option(help="Damage the image first.")] = False,
    seed: Annotated[int | None, typer.Option(help="The seed; a fresh one, printed, by default.")] = None,
    device: DeviceOption = None,
    ray: RayOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A .png picture (restored.png), or of a folder a folder (restored)."),
    ] = None,
    save_draws: Annotated[
        Path | None, typer.Option(help="Write the draws too: x and y in an .npz, or of a folder a folder of them.")
    ] = None,
) -> None:
    """Draw what a damaged image may have been: one picture of the draws, their mean and deviation.

    Of a folder each image gets its picture, as the command alone would make it of the same seed; the same command goes
    on where it stopped. With --ray the workers of a cluster restore them.

    [dim]stmd restore damaged.png --operator mask:mask.png[/dim]
    [dim]stmd restore digit.png --simulate --operator sr4 --draws 64 -o restored.png[/dim]
    [dim]stmd restore blurred --operator motion:9:30 --sigma 0.1 --save-draws draws[/dim]
    """
    with exit_on_error():
        from .restoring_folders import Damage, Restoring, restored_images  # noqa: PLC0415  after --help was answered

        damage, how = Damage(operator, sigma, simulate), Restoring(method, draws, steps, resample, label)
        say(restored_images(image, model, device, damage, how, seed, out, save_draws, ray))
