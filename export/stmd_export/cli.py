"""``stmd-export``: a checkpoint to something to deploy."""

from __future__ import annotations

from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stmd_sdk.console import console, exit_on_error, plain, run_command, say, say_error
from stmd_sdk.errors import InvalidArgumentError

if TYPE_CHECKING:
    from stmd_sdk.backends.tensorrt import BatchProfile

__all__ = ["app", "main"]


class PrecisionName(StrEnum):
    """What the network computes in."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


def export(
    ckpt: Annotated[str, typer.Option(help="A bundled model's name, or a .safetensors file.", show_default=False)],
    to_onnx: Annotated[bool, typer.Option("--onnx", help="Write an ONNX file, for ONNX Runtime.")] = False,
    to_trt: Annotated[bool, typer.Option("--trt", help="Write a TensorRT engine (and its ONNX file).")] = False,
    whole: Annotated[
        bool,
        typer.Option("--whole", help="Export the whole sampler, noise to samples, in place of the one-step network."),
    ] = False,
    inference_steps: Annotated[
        int | None,
        typer.Option(min=1, help="With --whole: N, the inference steps inside. Default: the model's."),
    ] = None,
    mean_flow_steps: Annotated[
        int | None, typer.Option(min=1, help="With --whole: M, the Mean Flow steps of each. Default: 1.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder to write into.")] = Path(),
    precision: Annotated[PrecisionName, typer.Option(help="What the network computes in.")] = PrecisionName.fp32,
    batch: Annotated[
        str,
        typer.Option(metavar="MIN:OPT:MAX", help="Batch sizes: an engine's range; parity is checked up to MAX."),
    ] = "1:16:64",
    gpu_arch: Annotated[
        str,
        typer.Option(metavar="SM,...", help="GPUs of a TensorRT-RTX engine, as in sm120,sm89. Default: all from sm80."),
    ] = "",
    tensorrt: Annotated[str | None, typer.Option(help="tensorrt or tensorrt-rtx, where both are installed.")] = None,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Where built engines are kept. Default: ~/.cache/stmd/engines.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build the engine even if it is in the cache.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Export a model. What is written was compared with the trained network; if it differs, nothing is.

    A network (x and times to u) runs in every Sampler: Sampler.from_pretrained("mnist.onnx"). A whole sampler
    (noise to samples) runs in any runtime and language with one call; `stmd sample --model` runs it without
    PyTorch. The JSON beside each file holds the comparison. Exit codes: 0 done, 1 differs, 2 cannot be done.

    \b
    stmd-export --ckpt mnist --onnx --out deploy
    stmd-export --ckpt mnist --trt --gpu-arch sm120 --precision fp16 --out deploy
    stmd-export --ckpt mnist --whole --inference-steps 4 --onnx --out deploy
    """
    with exit_on_error():
        if not (to_onnx or to_trt):
            raise InvalidArgumentError("say what to write: --onnx, --trt, or both")
        if not whole and (inference_steps is not None or mean_flow_steps is not None):
            raise InvalidArgumentError("--inference-steps and --mean-flow-steps go with --whole")
        steps = (inference_steps, mean_flow_steps or 1) if whole else None
        architectures = tuple(filter(None, (name.strip().lower() for name in gpu_arch.split(","))))
        _export(
            ckpt,
            to_trt,
            steps,
            out,
            precision,
            _batch(batch),
            architectures,
            tensorrt,
            cache_dir,
            force,
            quiet,
        )


def _batch(text: str) -> BatchProfile:
    try:
        least, best, most = (int(part) for part in text.split(":"))
    except ValueError:
        raise InvalidArgumentError(f"--batch takes MIN:OPT:MAX, as in 1:16:64, got {text!r}") from None
    from stmd_sdk.backends.tensorrt import BatchProfile  # noqa: PLC0415  after --help has been answered

    return BatchProfile(least, best, most)


def _export(
    ckpt: str, to_trt: bool, steps: tuple[int | None, int] | None, out: Path, precision: PrecisionName,
    batch: BatchProfile, architectures: tuple[str, ...], flavour: str | None, cache: Path | None, force: bool,
    quiet: bool,
) -> None:  # fmt: skip
    from stmd_sdk.backends.flavours import load_flavour  # noqa: PLC0415
    from stmd_sdk.models.checkpoint import read_spec, resolve_model  # noqa: PLC0415

    from .engine import check_architectures  # noqa: PLC0415
    from .engine_export import export_engine  # noqa: PLC0415
    from .errors import ParityError  # noqa: PLC0415
    from .onnx_export import Whole, export_onnx  # noqa: PLC0415

    if to_trt:  # what cannot be built is said before the graph is traced
        name, trt = load_flavour(flavour)
        check_architectures(name, trt, architectures)
    elif architectures or flavour or cache or force:
        raise InvalidArgumentError("--gpu-arch, --tensorrt, --cache-dir and --force go with --trt")
    whole = None
    if steps is not None:
        whole = Whole(steps[0] or read_spec(resolve_model(ckpt)).default_inference_steps, steps[1])
    try:
        with nullcontext() if quiet else console.status("loading") as status:
            tell = _silence if status is None else lambda text: status.update(plain(text))
            file = export_onnx(ckpt, out, whole=whole, precision=precision.value, batch=batch, say=tell)
            _wrote(file)
            if not to_trt:
                return
            engine = export_engine(
                file,
                out,
                flavour=flavour,
                batch=batch,
                architectures=architectures,
                cache=cache,
                force=force,
                say=tell,
            )
            _wrote(engine)
    except ParityError as error:
        say_error(str(error))
        raise typer.Exit(1) from None


def _silence(_: str) -> None:
    """No progress."""


def _wrote(path: Path) -> None:
    say(f"wrote {path} and {path.name}.json")


def app() -> typer.Typer:
    """The command as an application."""
    command = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    command.command()(export)
    return command


def main() -> None:
    """Run ``stmd-export``."""
    run_command(app())
