"""``stmd-train``: train a model from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stmd_sdk.console import console, exit_on_error

__all__ = ["main"]


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, or the path of a TOML file.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="What to train on: a folder of IDX files or images, an .npz file, hf:ID. Default: the recipe's."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder. Default: runs/RECIPE.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew instead of resuming.")] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe; repeatable."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: cuda where there is one.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: PyTorch's choice.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Try the whole path in seconds: a tiny network, synthetic data, four steps.")
    ] = False,
) -> None:
    """Train a model. Interrupt at any time; the same command goes on from the last checkpoint.

    Recipes: digits, mixture2d, mixture64, mnist, cifar10, celeba train as the paper does; digits-calibrated and so on
    add the residual target and the energy score, which keep the variance of the one-step draw; mnist-meanflow,
    mnist-ddpm and so on are the baselines. Under torchrun or accelerate launch each process takes its share of every
    batch.

    \b
    stmd-train digits-calibrated
    stmd-train mnist-calibrated --data ~/mnist --set network=unet-compact --set steps=10000
    stmd-train celeba --smoke
    torchrun --nproc-per-node 8 -m stmd_training cifar10 --data ~/cifar10
    stmd sample --model runs/digits-calibrated/model.safetensors
    """
    with exit_on_error():
        _train(recipe, data, out, restart, tuple(settings or ()), device, threads, quiet, smoke)


def _train(
    name: str, source: str | None, out: Path | None, restart: bool, settings: tuple[str, ...],
    device: str | None, threads: int | None, quiet: bool, smoke: bool,
) -> None:  # fmt: skip
    import torch  # noqa: PLC0415  after --help has been answered

    from stmd_sdk.data import load_data  # noqa: PLC0415
    from stmd_sdk.devices import resolve_device  # noqa: PLC0415

    from .processes import joined_processes  # noqa: PLC0415
    from .recipe import load_recipe  # noqa: PLC0415
    from .run import Run  # noqa: PLC0415
    from .smoke import smoke_test  # noqa: PLC0415

    if threads is not None:
        torch.set_num_threads(threads)
    recipe = load_recipe(name, settings)
    with joined_processes(device) as (processes, own):
        if smoke:
            folder = out or Path("runs") / f"{recipe.name}-smoke"
            # Each process makes its own synthetic data: equal ones.
            recipe, samples = smoke_test(recipe, folder / f"process-{processes.rank}")
        else:
            folder, samples = out or Path("runs") / recipe.name, load_data(source or recipe.data)
        run = Run(recipe, samples, folder, resolve_device(own), processes=processes)
        try:
            path = run(restart=restart or smoke, progress=not quiet and processes.main)
        except KeyboardInterrupt:
            console.print(f"Interrupted. The same command goes on from the last checkpoint in {run.folder}.")
            raise typer.Exit(130) from None
    if processes.main:
        console.print(f"{recipe.steps} steps done. Draw from it: [bold]stmd sample --model {path}[/bold]")


def main() -> None:
    """Run ``stmd-train``."""
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(train)
    app()
