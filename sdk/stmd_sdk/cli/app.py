"""``stmd``: draw from a model, look at it, certify it."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..console import exit_on_error, run_command, say
from ..errors import InvalidArgumentError
from .certify import certify
from .drawer import describe, open_drawer, open_sampler, parse_steps
from .evaluate import evaluate
from .info import info
from .restore import restore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

__all__ = ["app", "main"]

PICTURED = 1_000_000  # samples of a picture, which are all in memory

app = typer.Typer(
    help="Stochastic one- and few-step diffusion: draw samples, look at models, certify their transitions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Model = Annotated[str, typer.Option("--model", "-m", help="A bundled model's name, or the path of a model file.")]
Count = Annotated[int, typer.Option("--n", "-n", help="How many samples.")]
Steps = Annotated[
    str | None,
    typer.Option(help="Inference steps N, or a decreasing grid of times such as 1,0.6,0.3,0. Default: the model's."),
]
MeanFlowSteps = Annotated[int, typer.Option(help="Mean Flow steps M of each inference step; the cost is N x M.")]
Seed = Annotated[int | None, typer.Option(help="Sample k of a seed is always the same. Default: a fresh one, printed.")]
First = Annotated[int, typer.Option(help="Index of the first sample of the seed.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda. Default: cuda where there is one.")]


def _print_version(asked: bool) -> bool:
    if asked:
        from .. import __version__  # noqa: PLC0415

        say(f"stmd-sdk {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of ``stmd`` itself; its help is the app's."""


@app.command()
def sample(
    model: Model = "mnist",
    n: Count = 64,
    steps: Steps = None,
    mean_flow_steps: MeanFlowSteps = 1,
    seed: Seed = None,
    first: First = 0,
    batch_size: Annotated[int | None, typer.Option(help="Samples at once; it moves last digits alone.")] = None,
    device: Device = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="A .png picture, an .npz with array x, a .tar for WebDataset shards, or a folder."
        ),
    ] = Path("samples.png"),
) -> None:
    """Draw samples into a picture, a folder, an .npz file or WebDataset shards.

    All but the picture are written while they are drawn; the same command goes on where a run stopped. Under
    torchrun or accelerate launch each process draws its share.

    [dim]stmd sample[/dim]
    [dim]stmd sample -m digits -n 100 --steps 1 --seed 0 -o digits.png[/dim]
    [dim]stmd sample -m runs/mnist/model.safetensors -n 50000 --seed 0 -o draws.npz[/dim]
    [dim]torchrun --no-python --nproc-per-node 2 stmd sample -n 50000 --seed 0 -o draws.tar[/dim]
    """
    with exit_on_error():
        from ..runs.outputs import open_output  # noqa: PLC0415
        from ..runs.stream import Run, process, run_seed, stream  # noqa: PLC0415

        if out.suffix == ".png":
            _check_out(out, (".png",))
            if process()[1] > 1:
                raise InvalidArgumentError(
                    "a picture takes one process; with several, --out must be a folder or a .tar"
                )
            if n > PICTURED:
                raise InvalidArgumentError(f"a picture shows at most {PICTURED} samples: name an .npz or a folder")
            drawer = open_drawer(model, steps, mean_flow_steps, device, batch_size, progress=True)
            seed, drawn = secrets.randbelow(2**31) if seed is None else seed, n
            started = time.perf_counter()
            _save_picture(_picture(drawer.draw(seed, first, n)), out)
        else:
            output = open_output(out, process()[1])
            drawer = open_drawer(model, steps, mean_flow_steps, device, batch_size, progress=False)
            seed = run_seed(output, process()[1]) if seed is None else seed
            run = Run(drawer.digest, drawer.shape, drawer.facts, seed, first, n)
            started = time.perf_counter()
            drawn = stream(lambda start, count: drawer.draw(seed, start, count), run, output, show=True)
        seconds = time.perf_counter() - started
        there = "" if drawn == n else f" ({drawn} now)"
        say(f"{n} samples of {drawer.name}{there}: {drawer.facts}, seed {seed}, samples {first} to {first + n - 1}")
        say(f"{seconds:.2f} s on {drawer.device}, {drawn / seconds:.1f} samples a second, written to {out}")


@app.command()
def trajectory(
    model: Model = "mnist",
    n: Count = 8,
    steps: Steps = None,
    mean_flow_steps: MeanFlowSteps = 1,
    seed: Seed = None,
    first: First = 0,
    device: Device = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="A .png picture.")] = Path("trajectory.png"),
) -> None:
    """Draw how samples come to be: a row of x_0 draws, then a row of the x_s they lead to, for each step."""
    with exit_on_error():
        _check_out(out, (".png",))
        sampler, seed = open_sampler(model, device), secrets.randbelow(2**31) if seed is None else seed
        if len(sampler.spec.shape) != 3:
            raise InvalidArgumentError(f"trajectories of {sampler.spec.name} are no images; use Sampler.trajectory")
        import torch  # noqa: PLC0415

        from ..images import grid as picture  # noqa: PLC0415

        path = sampler.trajectory(
            n, inference_steps=parse_steps(steps), mean_flow_steps=mean_flow_steps, seed=seed, first=first
        )
        rows: list[Tensor] = []
        for t, x_t, x_0 in path:
            say(f"t = {t:.3f}")
            rows += [sampler.spec.codec.decode(x_0), sampler.spec.codec.decode(x_t)]
        _save_picture(picture(torch.cat(rows[:-1]), columns=n), out)
        facts = describe(sampler, parse_steps(steps), mean_flow_steps)
        say(f"{n} trajectories of {sampler.spec.name}: {facts}, seed {seed}, written to {out}")


@app.command()
def doctor() -> None:
    """Try every backend on this machine, and show the line that mends each one that does not work."""
    from . import doctor as checks  # noqa: PLC0415

    say(checks.report(checks.doctor()))


app.command()(certify)
app.command()(evaluate)
app.command()(restore)
app.command()(info)


def _check_out(out: Path, suffixes: tuple[str, ...]) -> None:
    from ..files import check_writable  # noqa: PLC0415

    if out.suffix not in suffixes:
        raise InvalidArgumentError(f"--out must end in {' or '.join(suffixes)}, got {str(out)!r}")
    check_writable(out)


def _picture(x: NDArray[np.float32]) -> Image.Image:
    from ..images import grid  # noqa: PLC0415

    return grid(x)


def _save_picture(picture: Image.Image, out: Path) -> None:
    from ..files import written_whole  # noqa: PLC0415

    with written_whole(out) as path:
        picture.save(path)


def main() -> None:
    """Run ``stmd``."""
    run_command(app)
