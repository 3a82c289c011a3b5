"""``stmd-train``: train a model from a recipe."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stmd_sdk.console import exit_on_error, run_command, say

if TYPE_CHECKING:
    from .run import Run

__all__ = ["main"]

# Options of both commands.
Restart = Annotated[bool, typer.Option("--restart", help="Begin anew instead of resuming.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe; repeatable.")
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda. Default: cuda where there is one.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: PyTorch's choice.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]


def train(
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
    device: Device = None,
    threads: Threads = None,
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

    Recipes: digits, mixture2d, mixture64, mnist, cifar10, celeba train as the paper does; digits-calibrated and so on
    add the residual target and the energy score, which keep the variance of the one-step draw; mixture64-local and so
    on start from a mixture fitted to vectors; mnist-meanflow, mnist-ddpm and so on are the baselines. Under torchrun or
    accelerate launch each process takes its share of every batch. stmd-train tilt changes a trained model by an energy:
    see stmd-train tilt --help.

    \b
    stmd-train digits-calibrated
    stmd-train mnist-calibrated --data ~/mnist --set network=unet-compact --set steps=10000
    stmd-train celeba --smoke
    torchrun --nproc-per-node 8 -m stmd_training cifar10 --data ~/cifar10
    stmd sample --model runs/digits-calibrated/model.safetensors
    """
    with exit_on_error():
        _train(recipe, data, out, init, restart, tuple(settings or ()), device, threads, quiet, smoke)


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
    device: Device = None,
    threads: Threads = None,
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
        _tilt(init, energy, recipe, pool, steps, beta, out, restart, tuple(settings or ()), device, threads, quiet)


def _tilt(
    init: str, energy: str, recipe: str | None, pool: int, steps: int | None, beta: float, out: Path | None,
    restart: bool, settings: tuple[str, ...], device: str | None, threads: int | None, quiet: bool,
) -> None:  # fmt: skip
    import torch  # noqa: PLC0415  after --help has been answered

    from stmd_sdk.diffusion.noise import Noise  # noqa: PLC0415
    from stmd_sdk.files import check_writable  # noqa: PLC0415
    from stmd_sdk.sampler import Sampler  # noqa: PLC0415

    from .batches import POOL  # noqa: PLC0415
    from .processes import joined_processes  # noqa: PLC0415
    from .run import Run  # noqa: PLC0415
    from .tilt import import_energy, load_base, tilt_facts, tilted_pool, tilted_recipe  # noqa: PLC0415

    if threads is not None:
        torch.set_num_threads(threads)
    base, function = load_base(init), import_energy(energy)
    source = f"{init} tilted by {beta:g} {energy}: {pool} samples, {steps or base.spec.default_inference_steps} steps"
    plan = tilted_recipe(base.spec, recipe, settings, source)
    folder = out or Path("runs") / plan.name
    check_writable(folder / "model.safetensors")
    with joined_processes(device) as (processes, own):
        sampler, noise = Sampler.from_pretrained(init, device=own), Noise.of(plan.seed, pool).fold(POOL)
        shown = not quiet and processes.main
        data = tilted_pool(sampler, function, noise, beta=beta, inference_steps=steps, progress=shown)
        facts = tilt_facts(data)
        if processes.main:
            say(", ".join(f"{name} {value:.6g}" for name, value in facts.items()))
        run = Run(plan, data, folder, sampler.device, processes=processes, base=base, facts=facts)
        path = _path_of(run, restart=restart, quiet=quiet)
    if processes.main:
        say(f"{plan.steps} steps done. Draw from it: stmd sample --model {path}")


def _train(
    name: str, source: str | None, out: Path | None, init: str | None, restart: bool, settings: tuple[str, ...],
    device: str | None, threads: int | None, quiet: bool, smoke: bool,
) -> None:  # fmt: skip
    import torch  # noqa: PLC0415  after --help has been answered

    from stmd_sdk.backends.devices import resolve_device  # noqa: PLC0415
    from stmd_sdk.data.labels import load_labelled_data  # noqa: PLC0415
    from stmd_sdk.data.load import load_data  # noqa: PLC0415

    from .processes import joined_processes  # noqa: PLC0415
    from .recipe import load_recipe  # noqa: PLC0415
    from .run import Run  # noqa: PLC0415
    from .smoke import smoke_test  # noqa: PLC0415
    from .tilt import check_makes, load_base  # noqa: PLC0415

    if threads is not None:
        torch.set_num_threads(threads)
    recipe, base = load_recipe(name, settings), None
    if init is not None:
        base = load_base(init)
        check_makes(recipe, base.spec, f"recipe {name!r}", "give the recipe that it was trained with")
    with joined_processes(device) as (processes, own):
        if smoke:
            folder = (out or Path("runs")) / f"{recipe.name}-smoke"  # of its own: it begins anew each time
            # Each process makes its own synthetic data: equal ones.
            recipe, samples = smoke_test(recipe, folder / f"process-{processes.rank}")
        else:
            load = load_labelled_data if recipe.classes else load_data
            folder, samples = out or Path("runs") / recipe.name, load(os.path.expanduser(source or recipe.data))
        run = Run(recipe, samples, folder, resolve_device(own), processes=processes, base=base)
        path = _path_of(run, restart=restart or smoke, quiet=quiet)
    if processes.main:
        say(f"{recipe.steps} steps done. Draw from it: stmd sample --model {path}")


def _path_of(run: Run, *, restart: bool, quiet: bool) -> Path:
    """The model of a run that has come to its end."""

    def tell(line: str) -> None:
        if run.processes.main:
            say(line)

    try:
        return run(restart=restart, progress=not quiet and run.processes.main, say=tell)
    except KeyboardInterrupt:
        tell(f"Interrupted. The same command goes on from the last checkpoint in {run.folder}.")
        raise typer.Exit(130) from None


def main() -> None:
    """Run ``stmd-train``: a recipe, or ``tilt`` and its options."""
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    if sys.argv[1:2] == ["tilt"]:
        app.command()(tilt)
        run_command(app, sys.argv[2:], prog_name="stmd-train tilt")
    app.command()(train)
    run_command(app)
