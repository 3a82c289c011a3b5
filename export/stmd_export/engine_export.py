"""A proven ONNX file to an engine with its JSON, through a content-addressed cache."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

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
from stmd_sdk.files import check_writable, read_bytes, sha256_of, sha256_of_file
from stmd_sdk.locks import locked
from stmd_sdk.models.artefact import Artefact, Precision, read_onnx
from stmd_sdk.models.spec import ModelSpec

from .engine import MIN_OPSET, build, check_architectures
from .onnx_export import report_path, versions
from .parity import network_parity
from .staging import staged

__all__ = ["default_cache", "engine_key", "export_engine"]

CACHE_VERSION = 1


def default_cache() -> Path:
    """``$STMD_CACHE``, or ``stmd`` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("STMD_CACHE") or Path(home) / "stmd") / "engines"


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
    sha256 = sha256_of_file(onnx_file)
    key = engine_key(sha256, name, trt.__version__, batch, architectures)
    kept = (default_cache() if cache is None else cache) / f"{key}.engine"
    with locked(target):
        try:
            with locked(kept, patience=math.inf):
                if force or not _is_of(kept, sha256, name, trt.__version__, batch):
                    _build_into(kept, onnx_file, sha256, name, trt, batch, architectures, say)
                else:
                    say("the engine is in the cache")
                engine, manifest = kept.read_bytes(), manifest_path(kept).read_bytes()
        except OSError as error:
            raise OutputError(
                f"cannot write in the cache {kept.parent}: {error.strerror or error}; choose another with --cache-dir"
            ) from error
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


def _is_of(engine: Path, onnx_sha256: str, flavour: str, tensorrt: str, batch: BatchProfile) -> bool:
    """Whether a cached engine is there, is what its JSON says, and is the one that its key asks for.

    A cache may be shared, and another model's engine and JSON fit each other as well.
    """
    try:
        _, manifest, _ = read_engine(engine)
    except CheckpointError:
        return False
    found = manifest.onnx_sha256, manifest.flavour, manifest.tensorrt, manifest.batch
    return found == (onnx_sha256, flavour, tensorrt, batch)


def _build_into(
    kept: Path, onnx_file: Path, onnx_sha256: str, flavour: str, trt: Any, batch: BatchProfile,
    architectures: tuple[str, ...], say: Callable[[str], None],
) -> None:  # fmt: skip
    started = time.monotonic()
    spec, artefact = read_onnx(onnx_file)
    timing = kept.parent / f"timing-{flavour}-{trt.__version__}.bin"
    values = asdict(ModelSpec.from_json(spec, str(onnx_file)))
    decoder = artefact.kind == "sampler" and values["codec"]["kind"] == "latents"
    built = build(
        onnx_file, flavour, trt, kind=artefact.kind, precision=artefact.precision, decoder=decoder, batch=batch,
        architectures=architectures, timing_cache=timing.read_bytes() if timing.is_file() else b"", say=say,
    )  # fmt: skip
    if sha256_of_file(onnx_file) != onnx_sha256:
        raise CheckpointError(f"{onnx_file}: was replaced while its engine was built; export it again")

    def manifest(verified: bool, why: str, parity: dict[str, Any]) -> str:
        return EngineManifest(
            sha256=sha256_of(built.data),
            flavour=flavour,
            tensorrt=trt.__version__,
            architectures=tuple(name.lower() for name in architectures) or _architectures_here(flavour),
            batch=batch,
            artefact=artefact,
            onnx_sha256=onnx_sha256,
            verified=verified,
            why=why,
            flags=built.flags,
            layers=built.layers,
            made_with={**versions(), flavour: trt.__version__},
            seconds=round(time.monotonic() - started, 2),
        ).to_json(values, parity)

    with staged(kept) as stage:
        if built.timing_cache:
            (stage / timing.name).write_bytes(built.timing_cache)
        engine = stage / kept.name
        engine.write_bytes(built.data)
        why = _cannot_run(artefact, architectures)
        manifest_path(engine).write_text(manifest(False, why, _parity_of(onnx_file)))
        if not why:
            say("comparing the engine with its ONNX graph")
            found = _engine_parity(engine, onnx_file, artefact.precision, batch)
            manifest_path(engine).write_text(manifest(True, "", found))


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
