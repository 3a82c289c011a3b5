"""``stmd``: draw from a model, look at it, certify it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .certify import certify
from .console import console, exit_on_error
from .errors import InvalidArgumentError
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


@app.command()
def sample(
    model: Model = "mnist",
    n: Count = 64,
    steps: Steps = None,
    mean_flow_steps: MeanFlowSteps = 1,
    seed: Seed = None,
    first: First = 0,
    batch_size: Annotated[int | None, typer.Option(help="Samples at once; the result does not depend on it.")] = None,
    device: Device = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="A .png picture, or an .npz file with array x.")] = Path(
        "samples.png"
    ),
) -> None:
    """Draw samples into a picture or an .npz file.

    [dim]stmd sample[/dim]
    [dim]stmd sample -m digits -n 100 --steps 1 --seed 0 -o digits.png[/dim]
    [dim]stmd sample -m runs/mnist/model.safetensors -n 1000 -o draws.npz[/dim]
    """
    with exit_on_error():
        _check_out(out, (".png", ".npz"))
        if Path(model).suffix == ".onnx" and _is_whole(Path(model)):
            if steps is not None or mean_flow_steps != 1 or device is not None:
                raise InvalidArgumentError(
                    f"{model} holds its steps and runs on the CPU: leave out what says otherwise"
                )
            _sample_whole(Path(model), n, seed, first, batch_size, out)
            return
        sampler, seed = _open(model, device, seed)
        grid = _parse_steps(steps)
        started = time.perf_counter()
        x = sampler.sample(
            n,
            inference_steps=grid,
            mean_flow_steps=mean_flow_steps,
            seed=seed,
            first=first,
            batch_size=batch_size,
            progress=True,
        )
        seconds = time.perf_counter() - started
        _write(x, out)
        facts = _describe(sampler, grid, mean_flow_steps)
        console.print(f"{n} samples of {sampler.spec.name}: {facts}, seed {seed}, samples {first} to {first + n - 1}")
        console.print(f"{seconds:.2f} s on {sampler.device}, {n / seconds:.1f} samples a second, written to {out}")


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
        sampler, seed = _open(model, device, seed)
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
            rows += [sampler.spec.codec.decode(x_0), x_t.clamp(-1, 1)]
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
app.command()(restore)


def _is_whole(path: Path) -> bool:
    from .runner import is_whole_sampler  # noqa: PLC0415

    return is_whole_sampler(path)


def _sample_whole(path: Path, n: int, seed: int | None, first: int, batch_size: int | None, out: Path) -> None:
    """Draw from a whole-sampler file: NumPy and ONNX Runtime, no PyTorch."""
    import secrets  # noqa: PLC0415

    from .runner import WholeSampler  # noqa: PLC0415

    seed = secrets.randbelow(2**31) if seed is None else seed
    sampler = WholeSampler.open(path)
    started = time.perf_counter()
    x = sampler.sample(n, seed=seed, first=first, batch_size=batch_size)
    seconds = time.perf_counter() - started
    _write(x, out)
    console.print(f"{n} samples of {sampler.name}: {sampler.inference_steps} inference steps, seed {seed}")
    console.print(f"{seconds:.2f} s on the CPU, {n / seconds:.1f} samples a second, written to {out}")


def _open(model: str, device: str | None, seed: int | None) -> tuple[Sampler, int]:
    from .noise import fresh_seed  # noqa: PLC0415
    from .sampler import Sampler  # noqa: PLC0415

    return Sampler.from_pretrained(model, device=device), fresh_seed() if seed is None else seed


def _parse_steps(text: str | None) -> int | list[float] | None:
    if text is None:
        return None
    try:
        return [float(t) for t in text.split(",")] if "," in text else int(text)
    except ValueError:
        raise InvalidArgumentError(f"--steps must be a count or times such as 1,0.5,0, got {text!r}") from None


def _describe(sampler: Sampler, steps: int | list[float] | None, mean_flow_steps: int) -> str:
    count = len(steps) - 1 if isinstance(steps, list) else steps or sampler.spec.default_inference_steps
    return f"{count} inference steps x {mean_flow_steps} Mean Flow steps"


def _check_out(out: Path, suffixes: tuple[str, ...]) -> None:
    from .files import check_writable  # noqa: PLC0415

    if out.suffix not in suffixes:
        raise InvalidArgumentError(f"--out must end in {' or '.join(suffixes)}, got {str(out)!r}")
    check_writable(out)


def _write(x: Tensor | NDArray[np.float32], out: Path) -> None:
    import numpy as np  # noqa: PLC0415

    from .files import written_whole  # noqa: PLC0415
    from .images import grid  # noqa: PLC0415

    if out.suffix == ".png":
        _save_picture(grid(x), out)
        return
    with written_whole(out) as path:
        np.savez_compressed(path, x=x if isinstance(x, np.ndarray) else x.cpu().numpy())


def _save_picture(picture: Image.Image, out: Path) -> None:
    from .files import written_whole  # noqa: PLC0415

    with written_whole(out) as path:
        picture.save(path)


def main() -> None:
    """Run ``stmd``."""
    app()
