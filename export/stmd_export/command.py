"""The work of ``stmd-export``."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import final

from stmd_sdk.backends.flavours import load_flavour
from stmd_sdk.backends.tensorrt import BatchProfile
from stmd_sdk.console import console, plain, say, say_error
from stmd_sdk.diffusion.classes import parsed_label
from stmd_sdk.models.artefact import Precision
from stmd_sdk.models.checkpoint import resolve_model
from stmd_sdk.models.spec import ModelSpec
from stmd_sdk.pretrained.opening import pretrained_spec

from .engine import check_architectures
from .engine_export import export_engine
from .errors import ParityError
from .onnx_export import Whole, export_onnx
from .openvino_export import export_openvino
from .restoring import WholeRestoration

__all__ = ["EngineOptions", "RestorationOptions", "WholeOptions", "write_export"]


@final
@dataclass(frozen=True)
class EngineOptions:
    """How a TensorRT engine is built: for which GPUs, by which flavour, kept where."""

    architectures: tuple[str, ...]
    flavour: str | None
    cache: Path | None
    force: bool


@final
@dataclass(frozen=True)
class WholeOptions:
    """What a whole sampler draws: by how many steps, of which classes."""

    inference_steps: int | None
    mean_flow_steps: int | None
    label: str | None
    takes_labels: bool
    guidance: float

    def of(self, spec: ModelSpec) -> Whole:
        """The same of a model."""
        return Whole(
            self.inference_steps or spec.default_inference_steps,
            spec.flow_steps(self.mean_flow_steps),
            parsed_label(self.label, spec.classes),
            self.takes_labels,
            self.guidance,
        )


@final
@dataclass(frozen=True)
class RestorationOptions:
    """What a whole restoring sampler draws: given what, in how many levels, of which classes."""

    operator: str
    levels: int
    sigma: float
    mean_flow_steps: int | None
    label: str | None
    takes_labels: bool

    def of(self, spec: ModelSpec) -> WholeRestoration:
        """The same of a model."""
        label, m = parsed_label(self.label, spec.classes), spec.flow_steps(self.mean_flow_steps)
        return WholeRestoration(self.operator, self.levels, self.sigma, m, label, self.takes_labels)


def write_export(
    ckpt: str,
    asked: WholeOptions | RestorationOptions | None,
    out: Path,
    precision: Precision,
    sizes: tuple[int, int, int],
    to_openvino: bool,
    engine: EngineOptions | None,
    quiet: bool,
) -> bool:
    """Write the ONNX file and what else is asked for; False, said, where one differs from the trained network."""
    batch = BatchProfile(*sizes)
    if engine is not None:  # what cannot be built is said before the graph is traced
        name, trt = load_flavour(engine.flavour)
        check_architectures(name, trt, engine.architectures)
    whole = None if asked is None else asked.of(pretrained_spec(resolve_model(ckpt)))
    try:
        with nullcontext() if quiet else console.status("loading") as status:
            tell = _silence if status is None else lambda text: status.update(plain(text))
            file = export_onnx(ckpt, out, whole=whole, precision=precision, batch=batch, say=tell)
            _wrote(file)
            if to_openvino:
                _wrote(export_openvino(file, ckpt, out, batch=batch, say=tell))
            if engine is not None:
                built = export_engine(
                    file,
                    out,
                    flavour=engine.flavour,
                    batch=batch,
                    architectures=engine.architectures,
                    cache=engine.cache,
                    force=engine.force,
                    say=tell,
                )
                _wrote(built)
    except ParityError as error:
        say_error(str(error))
        return False
    return True


def _silence(_: str) -> None:
    """No progress."""


def _wrote(path: Path) -> None:
    say(f"wrote {path} and {path.name}.json")
