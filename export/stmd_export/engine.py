"""ONNX to a TensorRT engine: parse, profile, build, and say why where it fails.

Tried against TensorRT-RTX's real parser and builder. The path of ``tensorrt`` (data-centre GPUs) differs by
the timing cache and by building for the GPU at hand alone; it has not been run on a GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from stmd_sdk.backends.flavours import tensorrt_log
from stmd_sdk.backends.tensorrt import BatchProfile
from stmd_sdk.errors import InvalidArgumentError
from stmd_sdk.models.artefact import ArtefactKind, Precision

from .errors import EngineError

__all__ = ["BuiltEngine", "build", "check_architectures"]

MIN_OPSET = 21


@final
@dataclass(frozen=True)
class BuiltEngine:
    """A serialised engine, the flags it was built with, and the element types its layers compute in."""

    data: bytes
    flags: tuple[str, ...]
    layers: dict[str, dict[str, int]]
    timing_cache: bytes


def check_architectures(flavour: str, trt: Any, architectures: tuple[str, ...]) -> None:
    """Raise for architectures that this flavour cannot build for."""
    if not architectures:
        return
    if not hasattr(trt, "ComputeCapability"):
        raise InvalidArgumentError(f"{flavour} builds for the GPU at hand alone: leave out --gpu-arch")
    known = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    for name in architectures:
        if name.upper() not in known:
            raise InvalidArgumentError(
                f"{flavour} {trt.__version__} cannot build for {name!r}; it knows {', '.join(known).lower()}"
            )


def build(
    onnx_file: Path,
    flavour: str,
    trt: Any,
    *,
    kind: ArtefactKind,
    precision: Precision,
    decoder: bool,
    batch: BatchProfile,
    architectures: tuple[str, ...],
    timing_cache: bytes,
    say: Callable[[str], None],
) -> BuiltEngine:
    """Build an engine. Whatever TensorRT only logs becomes an :class:`EngineError` with its log lines.

    ``decoder`` says whether the graph ends in a decoder with weights, which is float32 in every precision.
    """
    log = tensorrt_log(flavour)
    log.take()
    builder = trt.Builder(log)
    network, parser = _parsed(onnx_file, trt, builder, log)
    layers = _layer_types(trt, network)
    _check_layers(layers, precision, decoder)
    config = builder.create_builder_config()
    flags = _configured(trt, config, precision, architectures)
    config.add_optimization_profile(_profile(builder, network, kind, batch))
    cache = _timing_cache(flavour, config, timing_cache)
    monitor = _monitor(trt, say)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    del parser  # not before
    if plan is None:
        raise EngineError(f"TensorRT could not build the engine: {_said(log)}")
    return BuiltEngine(bytes(plan), flags, layers, bytes(cache.serialize()) if cache is not None else b"")


def _parsed(onnx_file: Path, trt: Any, builder: Any, log: Any) -> tuple[Any, Any]:
    """The network, and the parser that owns weights it refers to."""
    creation = trt.NetworkDefinitionCreationFlag
    # TensorRT 11 is always strongly typed and may drop the flag.
    flags = 1 << int(creation.STRONGLY_TYPED) if hasattr(creation, "STRONGLY_TYPED") else 0
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx_file)):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        reasons = "; ".join(f"node {e.node_name() or '?'} ({e.node_operator() or '?'}): {e.desc()}" for e in errors)
        raise EngineError(f"TensorRT cannot read {onnx_file.name}: {reasons or _said(log)}")
    return network, parser


def _layer_types(trt: Any, network: Any) -> dict[str, dict[str, int]]:
    """What the parsed network computes in. It is strongly typed, so the engine's types are these."""
    watched = {
        trt.LayerType.CONVOLUTION: "convolution",
        trt.LayerType.MATRIX_MULTIPLY: "matrix_multiply",
        trt.LayerType.NORMALIZATION: "normalization",
    }
    counts: dict[str, Counter[str]] = {}
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.type in watched:
            counts.setdefault(watched[layer.type], Counter())[layer.get_output(0).dtype.name] += 1
    return {name: dict(found) for name, found in sorted(counts.items())}


def _check_layers(layers: dict[str, dict[str, int]], precision: Precision, decoder: bool) -> None:
    wanted = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}[precision]
    for name, found in layers.items():
        expected = {"FLOAT"} if name == "normalization" else {wanted}
        if name == "matrix_multiply" or decoder:
            expected.add("FLOAT")  # the embedding of times, the decoder
        odd = set(found) - expected
        if odd or (name == "matrix_multiply" and wanted not in found):
            raise EngineError(f"TensorRT's {name} layers compute in {found}, not in {wanted}")


def _configured(trt: Any, config: Any, precision: Precision, architectures: tuple[str, ...]) -> tuple[str, ...]:
    for i, name in enumerate(architectures):
        if i == 0:
            config.num_compute_capabilities = len(architectures)
        if not config.set_compute_capability(trt.ComputeCapability.__members__[name.upper()], i):
            raise EngineError(f"TensorRT does not accept the architecture {name}")
    if precision == "fp32" and hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)  # 10 bits of mantissa are not fp32
    members = trt.BuilderFlag.__members__.items()
    return tuple(sorted(name for name, flag in members if config.get_flag(flag)))


def _profile(builder: Any, network: Any, kind: ArtefactKind, batch: BatchProfile) -> Any:
    profile = builder.create_optimization_profile()
    axis = 1 if kind == "sampler" else 0
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        shape = tuple(tensor.shape)

        def sized(n: int, shape: tuple[int, ...] = shape) -> tuple[int, ...]:
            return (*shape[:axis], n, *shape[axis + 1 :])

        profile.set_shape(tensor.name, sized(batch.min), sized(batch.opt), sized(batch.max))
    return profile


def _timing_cache(flavour: str, config: Any, data: bytes) -> Any | None:
    """The timing cache in use; TensorRT-RTX has none, its calls do nothing but warn."""
    if flavour == "tensorrt-rtx":
        return None
    cache = config.create_timing_cache(data)
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _monitor(trt: Any, say: Callable[[str], None]) -> Any:
    class Monitor(trt.IProgressMonitor):  # its base class is known at run time only
        def __init__(self) -> None:
            super().__init__()
            self.totals: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.totals[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            self.totals.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            say(f"TensorRT: {phase_name.lower()}, {step + 1} of {self.totals.get(phase_name, '?')}")
            return True

    return Monitor()


def _said(log: Any) -> str:
    return " | ".join(log.take()) or "its log says nothing"
