"""``stmd-train``: train a model from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stmd_sdk.cli.options import DeviceOption
from stmd_sdk.console import exit_on_error, run_command

__all__ = ["main"]

# Options of both commands.
Restart = Annotated[bool, typer.Option("--restart", help="Begin anew instead of resuming.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe; repeatable.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: PyTorch's choice.")]
Eager = Annotated[bool, typer.Option("--eager", help="On a GPU: no CUDA graph of a step. Slower, the same result.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]


def train_recipe(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, or the path of a TOML file.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="What to train on: a folder of IDX files or images, an .npz file, hf:ID. Default: the recipe's."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder. Default: runs/RECIPE.")] = None,
    init: Annotated[
        str | None, typer.Option(help="A model whose weights to start from: a bundled name, or a .safetensors file.")
    ] = None,
    restart: Restart = False,
    settings: Settings = None,
    device: DeviceOption = None,
    threads: Threads = None,
    eager: Eager = False,
    quiet: Quiet = False,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke", help="Try the whole path in seconds: a tiny network, four steps, in a folder RECIPE-smoke."
        ),
    ] = False,
) -> None:
    """Train a model. Interrupt at any time; the same command goes on from the last checkpoint.

    A finished run goes on with more --set steps: with a cosine decay the learning rate is then that of the same step of
    the longer run, and falls anew. --init starts a run from the weights of another.
    """
    with exit_on_error():
        from .commands import Running, run_recipe  # noqa: PLC0415  after --help has been answered

        running = Running(out, restart, tuple(settings or ()), device, threads, eager, quiet)
        run_recipe(recipe, data, init, running, smoke)


def tilt(
    init: Annotated[str, typer.Option(help="The model to tilt: a bundled name, or a .safetensors file.")],
    energy: Annotated[str, typer.Option(metavar="MODULE:FUNCTION", help="Your energy: samples to one number each.")],
    recipe: Annotated[
        str | None, typer.Option(help="What the model was trained with: a recipe, or a TOML file. Default: it knows.")
    ] = None,
    pool: Annotated[int, typer.Option(help="How many samples of the model to weigh.")] = 16_384,
    steps: Annotated[int | None, typer.Option(help="Inference steps N of the pool. Default: the model's.")] = None,
    beta: Annotated[float, typer.Option(help="The power of exp(-E); below 1 it tilts less.")] = 1.0,
    out: Annotated[Path | None, typer.Option(help="The run's folder. Default: runs/MODEL-tilted.")] = None,
    restart: Restart = False,
    settings: Settings = None,
    device: DeviceOption = None,
    threads: Threads = None,
    eager: Eager = False,
    quiet: Quiet = False,
) -> None:
    """Tilt a model towards p(x_0) exp(-E(x_0)): train it on its own samples, drawn by the weight exp(-E).

    E is a function of yours, of decoded samples to one number each, +inf for what must not be; its module is imported
    from where you are. Too few effective samples are refused: tilt in stages then, each with a part of --beta.

    \b
    stmd-train tilt --init mixture2d --energy energies:near --pool 65536 --set steps=2000
    stmd sample --model runs/mixture2d-tilted/model.safetensors
    """
    with exit_on_error():
        from .commands import Running, run_tilt  # noqa: PLC0415  after --help has been answered

        running = Running(out, restart, tuple(settings or ()), device, threads, eager, quiet)
        run_tilt(init, energy, recipe, pool, steps, beta, running)


def distill(
    recipe: Annotated[str, typer.Argument(help="What to train: a recipe's name, or the path of a TOML file.")],
    teacher: Annotated[str, typer.Option(help="The model that teaches: a bundled name, a file, a folder, owner/name.")],
    data: Annotated[
        str | None, typer.Option(help="What to train on, as of a recipe. Default: the teacher's own samples.")
    ] = None,
    pool: Annotated[int, typer.Option(help="How many samples of the teacher, without --data.")] = 16_384,
    steps: Annotated[int | None, typer.Option(help="Inference steps N of the pool. Default: the teacher's.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder. Default: runs/RECIPE-distilled.")] = None,
    restart: Restart = False,
    settings: Settings = None,
    device: DeviceOption = None,
    threads: Threads = None,
    eager: Eager = False,
    quiet: Quiet = False,
) -> None:
    """Distil a model's denoiser into a one-step model: its exact velocity takes the place of the data's noisy one.

    Each step costs one evaluation of the teacher a row. Without --data the student sees the teacher's samples alone: no
    data are needed, and it learns what the teacher draws.

    \b
    stmd-train distill mnist-compact-calibrated --teacher runs/mnist-compact-ddpm/model.safetensors --data ~/mnist
    stmd-train distill mixture2d-calibrated --teacher mixture2d --pool 65536 --set steps=2000
    """
    with exit_on_error():
        from .commands import Running, run_distillation  # noqa: PLC0415  after --help has been answered

        running = Running(out, restart, tuple(settings or ()), device, threads, eager, quiet)
        run_distillation(recipe, teacher, data, pool, steps, running)


HELP = """Train a model from a recipe: stmd-train RECIPE, in full stmd-train train RECIPE.

Recipes: digits, mixture2d, mixture64, mnist, cifar10, celeba train as the paper does; digits-calibrated and so on
add the residual target and the energy score, which keep the variance of the one-step draw; mixture64-local and so
on start from a mixture fitted to vectors, local-gaussians is such a fit without a network; mnist-meanflow,
mnist-ddpm and so on are the baselines. Under torchrun or accelerate launch each process takes its share of every batch.

\b
stmd-train digits-calibrated
stmd-train mnist-calibrated --data ~/mnist --set network=unet-compact --set steps=10000
stmd-train celeba --smoke
stmd-train tilt --init mixture2d --energy energies:near
stmd-train distill mixture2d-calibrated --teacher mixture2d
torchrun --nproc-per-node 8 -m stmd_training cifar10 --data ~/cifar10
stmd sample --model runs/digits-calibrated/model.safetensors
"""


class _RecipeGroup(TyperGroup):
    """Commands of which the first needs no name: what names no other is a recipe."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the first command's name before a recipe's."""
        if args and args[0] not in (*self.commands, "--help"):
            args = [next(iter(self.commands)), *args]
        return super().parse_args(ctx, args)


train_app = typer.Typer(
    cls=_RecipeGroup,
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
train_app.command("train")(train_recipe)
train_app.command("tilt")(tilt)
train_app.command("distill")(distill)


def main() -> None:
    """Run ``stmd-train``."""
    run_command(train_app)
