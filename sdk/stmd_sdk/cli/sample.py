"""``stmd sample``: draw samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import exit_on_error, say
from ..errors import InvalidArgumentError
from .options import (
    DeviceOption,
    FirstOption,
    GuidanceOption,
    LabelOption,
    MeanFlowStepsOption,
    ModelOption,
    RayOption,
    SeedOption,
    StepsOption,
)

__all__ = ["sample"]


def sample(
    model: ModelOption = "mnist",
    n: Annotated[
        int | None, typer.Option("--n", "-n", help="How many samples. Default: 64, or 8 of each class.")
    ] = None,
    steps: StepsOption = None,
    mean_flow_steps: MeanFlowStepsOption = None,
    label: LabelOption = None,
    guidance: GuidanceOption = 1.0,
    seed: SeedOption = None,
    first: FirstOption = 0,
    batch_size: Annotated[int | None, typer.Option(help="Samples at once; it moves last digits alone.")] = None,
    batch_invariant: Annotated[
        bool, typer.Option("--batch-invariant", help="Not even those: sample k is the same bits, as from stmd serve.")
    ] = False,
    device: DeviceOption = None,
    ray: RayOption = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="A .png picture, an .npz with array x, a .tar for WebDataset shards, or a folder."
        ),
    ] = Path("samples.png"),
) -> None:
    """Draw samples into a picture, a folder, an .npz file or WebDataset shards.

    All but the picture are written while they are drawn; the same command goes on where a run stopped. Under
    torchrun or accelerate launch each process draws its share; with --ray the workers of a cluster draw.

    [dim]stmd sample[/dim]
    [dim]stmd sample -m digits -n 100 --steps 1 --seed 0 -o digits.png[/dim]
    [dim]stmd sample --label seven --guidance 2[/dim]
    [dim]stmd sample --label each -n 100 -o classes.png[/dim]
    [dim]stmd sample --label random -n 50000 --seed 0 -o draws.npz[/dim]
    [dim]stmd sample -m runs/mnist/model.safetensors -n 50000 --seed 0 -o draws.npz[/dim]
    [dim]torchrun --no-python --nproc-per-node 2 stmd sample -n 50000 --seed 0 -o draws.tar[/dim]
    [dim]stmd sample -n 50000 --seed 0 --ray 10.0.0.1:6379 -o draws.tar[/dim]
    """
    with exit_on_error():
        from .drawer import DrawnRun, draw_picture, draw_stream  # noqa: PLC0415  after --help has been answered

        how = seed, first, n, label, guidance, batch_invariant
        run = DrawnRun(model, steps, mean_flow_steps, device, batch_size, *how)
        if ray is not None and out.suffix == ".png":
            raise InvalidArgumentError("--ray draws into a folder, an .npz or shards, not into a picture")
        say(draw_picture(run, out) if out.suffix == ".png" else draw_stream(run, out, ray))
