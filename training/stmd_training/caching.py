"""``stmd-cache-latents``: encode pictures once, for recipes that train on latents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from stmd_sdk.cli.options import DeviceOption
from stmd_sdk.console import console, exit_on_error, run_command, say

__all__ = ["main"]


def _cache(
    source: Annotated[str, typer.Argument(help="A folder of pictures, CelebA's folder, or hf:ID, which is streamed.")],
    out: Annotated[Path, typer.Option(help="The folder of latents.")] = Path("celeba-latents"),
    vae: Annotated[
        str | None, typer.Option(help="A folder, or owner/name@commit in the local cache. Default: the paper's.")
    ] = None,
    size: Annotated[int, typer.Option(help="Pictures are cropped to the square and resized to this side.")] = 256,
    split: Annotated[str, typer.Option(help="train or test.")] = "train",
    seed: Annotated[int, typer.Option(min=0, help="Of the draws of the VAE's posterior.")] = 0,
    device: DeviceOption = None,
) -> None:
    """Cache latents. Interrupt at any time; the same command goes on.

    \b
    stmd-cache-latents ~/celeba --out celeba-latents
    stmd-train celeba --data celeba-latents
    """
    with exit_on_error():
        from .commands import cache_pictures  # noqa: PLC0415  after --help has been answered

        with Progress(disable=not console.is_terminal, transient=True) as bar:
            task = bar.add_task("pictures", total=None)
            count = cache_pictures(
                source, out, vae, size, split, seed, device, lambda done: bar.update(task, completed=done)
            )
        say(f"{count} latents in {out}. Train on them: stmd-train celeba --data {out}")


def main() -> None:
    """Run ``stmd-cache-latents``."""
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(_cache)
    run_command(app)
