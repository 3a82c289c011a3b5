"""A proven ONNX file to an engine with its JSON, through a content-addressed cache."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast, final

import torch

from stmd_sdk.backends.flavours import load_flavour
from stmd_sdk.backends.onnx import load_onnx
from stmd_sdk.backends.tensorrt import (
    MANIFEST_BYTES,
    BatchProfile,
    EngineManifest,
    load_engine,
    manifest_path,
    read_engine,
)
from stmd_sdk.config import read_json
from stmd_sdk.errors import CheckpointError, OutputError
from stmd_sdk.files import cache_folder, check_writable, read_bytes, sha256_of, sha256_of_file
from stmd_sdk.locks import locked
from stmd_sdk.models.artefact import Artefact, Precision, read_onnx
from stmd_sdk.models.spec import ModelSpec

from .engine import MIN_OPSET, BuiltEngine, build, check_architectures
from .onnx_export import report_path, versions
from .parity import network_parity
from .staging import staged

__all__ = ["default_cache", "engine_key", "export_engine"]

CACHE_VERSION = 1


def default_cache() -> Path:
    """``$STMD_CACHE``, or ``stmd`` in the user's cache folder."""
    return cache_folder("engines")


def export_engine(
    onnx_file: Path,
    out: Path,
    *,
    flavour: str | None = None,
    batch: BatchProfile = BatchProfile(),  # noqa: B008  frozen
    architectures: tuple[str, ...] = (),
    cache: Path | None = None,
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Build the engine of an ONNX file of :func:`export_onnx` into ``out``; returns the .engine file.

    An engine that is in the cache is copied unless ``force``. Builders of one engine wait for each other; another
    process that writes the same file in ``out`` is an :class:`OutputError`.
    """
    target = out / f"{onnx_file.stem}.engine"
    check_writable(target)
    _, artefact = read_onnx(onnx_file)
    if artefact.opset < MIN_OPSET:
        raise CheckpointError(
            f"{onnx_file}: opset {artefact.opset} is too low, TensorRT needs {MIN_OPSET}: export it again"
        )
    name, trt = load_flavour(flavour)
    check_architectures(name, trt, architectures)
    order = _Order(onnx_file, sha256_of_file(onnx_file), name, trt, batch, architectures)
    kept = (default_cache() if cache is None else cache) / f"{order.key}.engine"
    with locked(target):
        engine, manifest = _cached(kept, order, force, say)
        with staged(target) as stage:
            (stage / target.name).write_bytes(engine)
            manifest_path(stage / target.name).write_bytes(manifest)
    return target


def engine_key(
    onnx_sha256: str, flavour: str, tensorrt: str, batch: BatchProfile, architectures: tuple[str, ...]
) -> str:
    """The content address: graph and weights (and with them the precision), builder, profile, GPUs."""
    facts = {
        "cache": CACHE_VERSION,
        "onnx": onnx_sha256,
        "flavour": flavour,
        "tensorrt": tensorrt,
        "batch": str(batch),
        "architectures": sorted(architectures),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() and flavour == "tensorrt" else "",
    }
    return sha256_of(json.dumps(facts, sort_keys=True).encode())


@final
@dataclass(frozen=True)
class _Order:
    """The engine that is asked for: of which ONNX file, which was as its digest says, by which builder, for what."""

    onnx_file: Path
    onnx_sha256: str
    flavour: str
    trt: Any
    batch: BatchProfile
    architectures: tuple[str, ...]

    @property
    def tensorrt(self) -> str:
        """The builder's version."""
        return self.trt.__version__

    @property
    def key(self) -> str:
        """Where the engine is kept."""
        return engine_key(self.onnx_sha256, self.flavour, self.tensorrt, self.batch, self.architectures)


def _cached(kept: Path, order: _Order, force: bool, say: Callable[[str], None]) -> tuple[bytes, bytes]:
    """The engine and its JSON from the cache, built into it first if it is not there yet."""
    try:
        with locked(kept, patience=math.inf):
            if force or not _is_of(kept, order):
                _build_into(kept, order, say)
            else:
                say("the engine is in the cache")
            return kept.read_bytes(), manifest_path(kept).read_bytes()
    except OSError as error:
        raise OutputError(
            f"cannot write in the cache {kept.parent}: {error.strerror or error}; choose another with --cache-dir"
        ) from error


def _is_of(engine: Path, order: _Order) -> bool:
    """Whether a cached engine is there, is what its JSON says, and is the one that is ordered.

    A cache may be shared, and another model's engine and JSON fit each other as well.
    """
    try:
        _, manifest, _ = read_engine(engine)
    except CheckpointError:
        return False
    found = manifest.onnx_sha256, manifest.flavour, manifest.tensorrt, manifest.batch
    return found == (order.onnx_sha256, order.flavour, order.tensorrt, order.batch)


def _build_into(kept: Path, order: _Order, say: Callable[[str], None]) -> None:
    """Build the engine, compare it where it can be run, and keep it with the JSON that says so."""
    started, file = time.monotonic(), order.onnx_file
    text, artefact = read_onnx(file)
    spec = asdict(ModelSpec.from_json(text, str(file)))
    timing = kept.parent / f"timing-{order.flavour}-{order.tensorrt}.bin"
    built = build(
        file,
        order.flavour,
        order.trt,
        kind=artefact.kind,
        precision=artefact.precision,
        decoder=artefact.kind == "sampler" and spec["codec"]["kind"] == "latents",
        batch=order.batch,
        architectures=order.architectures,
        timing_cache=timing.read_bytes() if timing.is_file() else b"",
        say=say,
    )
    if sha256_of_file(file) != order.onnx_sha256:
        raise CheckpointError(f"{file}: was replaced while its engine was built; export it again")
    why = _cannot_run(artefact, order.architectures)
    manifest = _manifest(order, built, artefact, why, time.monotonic() - started)
    with staged(kept) as stage:
        if built.timing_cache:
            (stage / timing.name).write_bytes(built.timing_cache)
        engine = stage / kept.name
        engine.write_bytes(built.data)
        manifest_path(engine).write_text(manifest.to_json(spec, _parity_of(file)))
        if not why:
            say("comparing the engine with its ONNX graph")
            found = _engine_parity(engine, file, artefact.precision, order.batch)
            proven = replace(manifest, verified=True, seconds=round(time.monotonic() - started, 2))
            manifest_path(engine).write_text(proven.to_json(spec, found))


def _manifest(order: _Order, built: BuiltEngine, artefact: Artefact, why: str, seconds: float) -> EngineManifest:
    """What the JSON of an engine says before it was compared: ``why`` it cannot be, if so."""
    return EngineManifest(
        sha256=sha256_of(built.data),
        flavour=order.flavour,
        tensorrt=order.tensorrt,
        architectures=tuple(name.lower() for name in order.architectures) or _architectures_here(order.flavour),
        batch=order.batch,
        artefact=artefact,
        onnx_sha256=order.onnx_sha256,
        verified=False,
        why=why,
        flags=built.flags,
        layers=built.layers,
        made_with={**versions(), order.flavour: order.tensorrt},
        seconds=round(seconds, 2),
    )


def _architectures_here(flavour: str) -> tuple[str, ...]:
    """``tensorrt`` builds for the GPU at hand; TensorRT-RTX by default for all from Ampere on."""
    if flavour == "tensorrt-rtx" or not torch.cuda.is_available():
        return ()
    major, minor = torch.cuda.get_device_capability()
    return (f"sm{major}{minor}",)


def _cannot_run(artefact: Artefact, architectures: tuple[str, ...]) -> str:
    """Why the engine cannot be checked on this machine; empty if it can."""
    if not torch.cuda.is_available():
        return "built on a machine without a GPU that PyTorch can use; its ONNX graph was compared instead"
    major, minor = torch.cuda.get_device_capability()
    if architectures and f"sm{major}{minor}" not in [name.lower() for name in architectures]:
        return f"this GPU is sm{major}{minor}; its ONNX graph was compared instead"
    return (
        "a whole sampler has no backend that runs its engine; its ONNX graph was compared"
        if artefact.kind == "sampler"
        else ""
    )


def _engine_parity(engine: Path, onnx_file: Path, precision: Precision, batch: BatchProfile) -> dict[str, Any]:
    """Compare an engine on the GPU with its proven ONNX graph on the CPU."""
    spec, network = load_engine(engine, None)
    _, reference = load_onnx(onnx_file, torch.device("cpu"))

    def on_gpu(x: torch.Tensor, times: torch.Tensor, /) -> torch.Tensor:
        return network(x.cuda(), times.cuda()).cpu()

    sizes = sorted({size for size in (1, 2, 3, batch.max) if batch.min <= size <= batch.max})
    parity = network_parity(
        spec,
        reference,
        on_gpu,
        on_gpu,
        precision,
        sizes,
        "the engine on the GPU against its ONNX graph on the CPU",
    )
    return parity.to_dict()


def _parity_of(onnx_file: Path) -> dict[str, Any]:
    """The report of the ONNX file, if it is still that file's."""
    try:
        beside = report_path(onnx_file)
        report = read_json(read_bytes(beside, CheckpointError, MANIFEST_BYTES), str(beside), CheckpointError)
    except CheckpointError:
        return {}
    match report:
        case {"parity": dict(parity), "sha256": str(sha256)} if sha256 == sha256_of_file(onnx_file):
            return cast(dict[str, Any], parity)
        case _:
            return {}
