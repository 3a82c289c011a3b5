"""``stmd-export``: a checkpoint to something to deploy."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from stmd_sdk.console import exit_on_error, run_command
from stmd_sdk.errors import InvalidArgumentError

__all__ = ["export_app", "main"]


class PrecisionName(StrEnum):
    """What the network computes in."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


def export(
    ckpt: Annotated[str, typer.Option(help="A bundled model's name, or a .safetensors file.", show_default=False)],
    to_onnx: Annotated[bool, typer.Option("--onnx", help="Write an ONNX file, for ONNX Runtime.")] = False,
    to_openvino: Annotated[
        bool, typer.Option("--openvino", help="Write OpenVINO's .xml and .bin, for CPUs (and their ONNX file).")
    ] = False,
    to_trt: Annotated[bool, typer.Option("--trt", help="Write a TensorRT engine (and its ONNX file).")] = False,
    whole: Annotated[
        bool,
        typer.Option("--whole", help="Export the whole sampler, noise to samples, in place of the one-step network."),
    ] = False,
    restore: Annotated[
        str | None,
        typer.Option(
            metavar="OPERATOR",
            help="mask: export the whole restoring sampler, noise, mask and y to draws, in place of the network.",
        ),
    ] = None,
    levels: Annotated[int, typer.Option(min=1, help="With --restore: its levels, an evaluation each.")] = 12,
    sigma: Annotated[
        float, typer.Option(help="With --restore: the deviation of the noise in y, of images in -1 to 1.")
    ] = 0.02,
    inference_steps: Annotated[
        int | None,
        typer.Option(min=1, help="With --whole: N, the inference steps inside. Default: the model's."),
    ] = None,
    mean_flow_steps: Annotated[
        int | None,
        typer.Option(min=1, help="With --whole, --restore: M, the Mean Flow steps of each. Default: the model's."),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="With --whole, --restore: the one class drawn, by number or name. Default: all."),
    ] = None,
    labels: Annotated[
        bool,
        typer.Option("--labels", help="With --whole, --restore: a last input, labels, each sample's class."),
    ] = False,
    guidance: Annotated[float, typer.Option(help="With --whole and labels: classifier-free guidance.")] = 1.0,
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
    stmd-export --ckpt mnist --openvino --out deploy
    stmd-export --ckpt mnist --trt --gpu-arch sm120 --precision fp16 --out deploy
    stmd-export --ckpt mnist --whole --inference-steps 4 --onnx --out deploy
    stmd-export --ckpt mnist --whole --label seven --onnx --out deploy
    stmd-export --ckpt mnist --restore mask --levels 12 --labels --onnx --out deploy
    """
    with exit_on_error():
        if not (to_onnx or to_openvino or to_trt):
            raise InvalidArgumentError("say what to write: --onnx, --openvino or --trt, or several")
        if to_openvino and precision != PrecisionName.fp32:
            raise InvalidArgumentError(
                "--openvino takes no --precision: an .xml is opened with the dtype to compute in"
            )
        if not whole and (inference_steps, guidance) != (None, 1):
            raise InvalidArgumentError("--inference-steps and --guidance go with --whole")
        if not (whole or restore) and (mean_flow_steps, label, labels) != (None, None, False):
            raise InvalidArgumentError("--mean-flow-steps, --label and --labels go with --whole or --restore")
        if restore is None and (levels, sigma) != (12, 0.02):
            raise InvalidArgumentError("--levels and --sigma go with --restore")
        if restore is not None and (whole or to_openvino or to_trt):
            raise InvalidArgumentError("--restore goes with --onnx, and without --whole")
        if labels and to_trt:
            raise InvalidArgumentError("--labels: an engine takes noise alone; fix a class with --label, or --onnx")
        if not to_trt and (gpu_arch or tensorrt or cache_dir or force):
            raise InvalidArgumentError("--gpu-arch, --tensorrt, --cache-dir and --force go with --trt")
        sizes = _sizes(batch)
        from .command import EngineOptions, RestorationOptions, WholeOptions, write_export  # noqa: PLC0415  after --help has been answered

        asked = WholeOptions(inference_steps, mean_flow_steps, label, labels, guidance) if whole else None
        if restore is not None:
            asked = RestorationOptions(restore, levels, sigma, mean_flow_steps, label, labels)
        architectures = tuple(filter(None, (name.strip().lower() for name in gpu_arch.split(","))))
        engine = EngineOptions(architectures, tensorrt, cache_dir, force) if to_trt else None
        if not write_export(ckpt, asked, out, precision.value, sizes, to_openvino, engine, quiet):
            raise typer.Exit(1)


def _sizes(batch: str) -> tuple[int, int, int]:
    try:
        least, best, most = (int(part) for part in batch.split(":"))
    except ValueError:
        raise InvalidArgumentError(f"--batch takes MIN:OPT:MAX, as in 1:16:64, got {batch!r}") from None
    return least, best, most


export_app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
export_app.command()(export)


def main() -> None:
    """Run ``stmd-export``."""
    run_command(export_app)
