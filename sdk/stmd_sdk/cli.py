"""``stmd``: draw from a model, look at it, certify it."""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

import typer

from .certify import certify
from .console import console, exit_on_error
from .errors import InvalidArgumentError
from .evaluate import evaluate
from .restore import restore

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from .sampler import Sampler

__all__ = ["app", "main"]

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
        from . import __version__  # noqa: PLC0415

        console.print(f"stmd-sdk {__version__}", highlight=False)
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
        from .stream import Run, open_output, process, run_seed, stream  # noqa: PLC0415

        if out.suffix == ".png":
            _check_out(out, (".png",))
            if process()[1] > 1:
                raise InvalidArgumentError(
                    "a picture takes one process; with several, --out must be a folder or a .tar"
                )
            drawer = _drawer(model, steps, mean_flow_steps, device, batch_size, progress=True)
            seed, drawn = secrets.randbelow(2**31) if seed is None else seed, n
            started = time.perf_counter()
            _save_picture(_picture(drawer.draw(seed, first, n)), out)
        else:
            output = open_output(out, process()[1])
            drawer = _drawer(model, steps, mean_flow_steps, device, batch_size, progress=False)
            seed = run_seed(output, process()[1]) if seed is None else seed
            run = Run(drawer.digest, drawer.shape, drawer.facts, seed, first, n)
            started = time.perf_counter()
            drawn = stream(lambda start, count: drawer.draw(seed, start, count), run, output, show=True)
        seconds = time.perf_counter() - started
        there = "" if drawn == n else f" ({drawn} now)"
        console.print(
            f"{n} samples of {drawer.name}{there}: {drawer.facts}, seed {seed}, samples {first} to {first + n - 1}"
        )
        console.print(f"{seconds:.2f} s on {drawer.device}, {drawn / seconds:.1f} samples a second, written to {out}")


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
        sampler, seed = _open(model, device), secrets.randbelow(2**31) if seed is None else seed
        if len(sampler.spec.shape) != 3:
            raise InvalidArgumentError(f"trajectories of {sampler.spec.name} are no images; use Sampler.trajectory")
        import torch  # noqa: PLC0415

        from .images import grid as picture  # noqa: PLC0415

        path = sampler.trajectory(
            n, inference_steps=_parse_steps(steps), mean_flow_steps=mean_flow_steps, seed=seed, first=first
        )
        rows: list[Tensor] = []
        for t, x_t, x_0 in path:
            console.print(f"t = {t:.3f}")
            rows += [sampler.spec.codec.decode(x_0), sampler.spec.codec.decode(x_t)]
        _save_picture(picture(torch.cat(rows[:-1]), columns=n), out)
        facts = _describe(sampler, _parse_steps(steps), mean_flow_steps)
        console.print(f"{n} trajectories of {sampler.spec.name}: {facts}, seed {seed}, written to {out}")


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="A bundled model's name, or the path of a model file.")],
) -> None:
    """Show what a model is: its spec, its network and how it was trained."""
    with exit_on_error():
        from dataclasses import asdict  # noqa: PLC0415

        from rich.table import Table  # noqa: PLC0415

        from .checkpoint import load_model, resolve_model  # noqa: PLC0415

        path = resolve_model(model)
        spec, network = load_model(path)
        values = {**asdict(spec), **asdict(spec)["training"]}
        del values["training"]
        table = Table(show_header=False, box=None)
        table.add_row("file", f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
        table.add_row("parameters", f"{sum(p.numel() for p in network.parameters()):,}")
        for name, value in values.items():
            table.add_row(name, str(value))
        console.print(table)


@app.command()
def doctor() -> None:
    """Try every backend on this machine, and show the line that mends each one that does not work."""
    from . import doctor as checks  # noqa: PLC0415

    console.print(checks.report(checks.doctor()), markup=False)


app.command()(certify)
app.command()(evaluate)
app.command()(restore)


@final
@dataclass(frozen=True)
class _Drawer:
    """A model opened for drawing: ``draw(seed, first, n)``, and what the command says of it."""

    draw: Callable[[int, int, int], NDArray[np.float32]]
    name: str
    shape: tuple[int, ...]
    facts: str
    device: str
    digest: str


def _drawer(
    model: str, steps: str | None, mean_flow_steps: int, device: str | None, batch_size: int | None, *, progress: bool
) -> _Drawer:
    path = Path(model)
    if path.suffix == ".onnx" and _is_whole(path):
        if steps is not None or mean_flow_steps != 1 or device is not None:
            raise InvalidArgumentError(f"{model} holds its steps and runs on the CPU: leave out what says otherwise")
        return _whole_drawer(path, batch_size)
    from .checkpoint import resolve_model  # noqa: PLC0415

    grid, sampler = _parse_steps(steps), _open(model, device)

    def draw(seed: int, first: int, n: int) -> NDArray[np.float32]:
        return (
            sampler.sample(
                n,
                inference_steps=grid,
                mean_flow_steps=mean_flow_steps,
                seed=seed,
                first=first,
                batch_size=batch_size,
                progress=progress,
            )
            .cpu()
            .numpy()
        )

    spec, facts = sampler.spec, _describe(sampler, grid, mean_flow_steps)
    return _Drawer(draw, spec.name, spec.shape, facts, str(sampler.device), _digest(resolve_model(model)))


def _whole_drawer(path: Path, batch_size: int | None) -> _Drawer:
    """A whole-sampler file: NumPy and ONNX Runtime, no PyTorch."""
    from .runner import WholeSampler  # noqa: PLC0415

    sampler = WholeSampler.open(path)

    def draw(seed: int, first: int, n: int) -> NDArray[np.float32]:
        return sampler.sample(n, seed=seed, first=first, batch_size=batch_size)

    facts = f"{sampler.inference_steps} inference steps"
    return _Drawer(draw, sampler.name, sampler.shape, facts, "the CPU", _digest(path))


def _is_whole(path: Path) -> bool:
    from .runner import is_whole_sampler  # noqa: PLC0415

    return is_whole_sampler(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open(model: str, device: str | None) -> Sampler:
    """Each process of torchrun takes the GPU of its LOCAL_RANK, where there are GPUs."""
    import torch  # noqa: PLC0415

    from .sampler import Sampler  # noqa: PLC0415

    if device is None and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    return Sampler.from_pretrained(model, device=device)


def _parse_steps(text: str | None) -> int | list[float] | None:
    if text is None:
        return None
    try:
        return [float(t) for t in text.split(",")] if "," in text else int(text)
    except ValueError:
        raise InvalidArgumentError(f"--steps must be a count or times such as 1,0.5,0, got {text!r}") from None


def _describe(sampler: Sampler, steps: int | list[float] | None, mean_flow_steps: int) -> str:
    count = len(steps) - 1 if isinstance(steps, list) else steps or sampler.spec.default_inference_steps
    times = f" at {', '.join(map(str, steps))}" if isinstance(steps, list) else ""
    return f"{count} inference steps{times} x {mean_flow_steps} Mean Flow steps"


def _check_out(out: Path, suffixes: tuple[str, ...]) -> None:
    from .files import check_writable  # noqa: PLC0415

    if out.suffix not in suffixes:
        raise InvalidArgumentError(f"--out must end in {' or '.join(suffixes)}, got {str(out)!r}")
    check_writable(out)


def _picture(x: NDArray[np.float32]) -> Image.Image:
    from .images import grid  # noqa: PLC0415

    return grid(x)


def _save_picture(picture: Image.Image, out: Path) -> None:
    from .files import written_whole  # noqa: PLC0415

    with written_whole(out) as path:
        picture.save(path)


def main() -> None:
    """Run ``stmd``."""
    app()
