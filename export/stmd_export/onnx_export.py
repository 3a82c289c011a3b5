"""A checkpoint to a proven ONNX file: the one-step network, or the whole sampler."""

from __future__ import annotations

import json
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from stmd_sdk.backends.onnx import load_onnx
from stmd_sdk.backends.session import open_session, runtime
from stmd_sdk.backends.tensorrt import BatchProfile
from stmd_sdk.backends.torch import TorchNetwork
from stmd_sdk.diffusion.loop import time_grid
from stmd_sdk.diffusion.network import Network
from stmd_sdk.errors import CheckpointError, InvalidArgumentError, requires_extra
from stmd_sdk.files import check_writable, sha256_of_file
from stmd_sdk.locks import locked
from stmd_sdk.models.artefact import Artefact, Precision, data_path, sealed
from stmd_sdk.models.checkpoint import resolve_model
from stmd_sdk.models.spec import ModelSpec
from stmd_sdk.pretrained.opening import load_pretrained
from stmd_sdk.runs.exported import ExportedRun
from stmd_sdk.sampler import Sampler

from .graph import OPSET, OPSET_BF16, trace_network, trace_sampler
from .parity import Parity, network_parity, sampler_parity
from .precision import check_precision, lowered, precision_found
from .restoring import WholeRestoration, restorer_parity
from .staging import staged

with requires_extra("export"):
    import onnx

__all__ = [
    "Say",
    "Whole",
    "export_onnx",
    "loaded_checkpoint",
    "parity_batches",
    "report_path",
    "report_text",
    "versions",
]

Say = Callable[[str], None]
"""What progress is told to."""

# A protobuf message ends at 2 GiB; the weights of larger models go beside the file.
INLINE_BYTES = 2**31 - 2**24
CPU = torch.device("cpu")


@final
@dataclass(frozen=True)
class Whole:
    """The whole sampler: N inference steps of M Mean Flow steps each.

    It draws one class, the ``label`` by number or name, or all together; with ``takes_labels`` those of a second input.
    """

    inference_steps: int
    mean_flow_steps: int = 1
    label: int | str | None = None
    takes_labels: bool = False
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.label is not None and self.takes_labels:
            raise InvalidArgumentError("a whole sampler has one label, or takes labels, not both")


def export_onnx(
    model: str | Path,
    out: Path,
    *,
    whole: Whole | WholeRestoration | None = None,
    precision: Precision = "fp32",
    batch: BatchProfile = BatchProfile(),  # noqa: B008  frozen
    say: Say = lambda _: None,
) -> Path:
    """Export a checkpoint (a bundled name or a .safetensors file) into the folder ``out``; returns the file.

    The graph is compared with the trained network before the file appears, and :class:`ParityError` leaves
    nothing. The report is in the JSON beside it. One process at a time writes a file; :class:`OutputError` names it.
    """
    started = time.monotonic()
    runtime()  # parity needs it: say that it is missing before the work
    weights, spec, module = loaded_checkpoint(resolve_model(model))
    trained = Sampler(TorchNetwork(module, CPU, torch.float32), spec, CPU)
    if isinstance(whole, WholeRestoration) and precision != "fp32":
        raise InvalidArgumentError("a restoring sampler is exported in fp32 alone")
    asked = _asked(trained, whole)
    spec.codec.prepare(spec.shape)
    target = out / _file_name(spec, whole, precision)
    check_writable(target)
    with locked(target, target):
        say("tracing the network")
        cast = lowered(module, precision)
        graph = trace_network(spec, cast, OPSET_BF16 if precision == "bf16" else OPSET)
        check_precision(graph, precision)
        artefact = Artefact("network", precision, graph.opset_import[0].version, weights)
        if whole is not None:
            artefact = replace(artefact, **asked)
            say(f"unrolling {len(artefact.couplings) or len(artefact.times) - 1} steps of the sampler")
            graph = trace_sampler(spec, graph, artefact)
        found = precision_found(graph)
        with staged(target) as folder:
            file = folder / target.name
            artefact = _write(graph, file, spec, artefact)
            say("comparing with the trained network")
            parity = _parity(trained, cast, file, artefact, batch)
            seconds = time.monotonic() - started
            report_path(file).write_text(report_text(file, spec, artefact, found, parity, seconds))
    return target


def loaded_checkpoint(path: Path) -> tuple[str, ModelSpec, nn.Module]:
    """A checkpoint: its digest, its spec and its network."""
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: only .safetensors checkpoints can be exported")
    weights = sha256_of_file(path)
    spec, module = load_pretrained(path)
    if sha256_of_file(path) != weights:
        raise CheckpointError(f"{path}: was replaced while it was loaded; export it again")
    return weights, spec, module


def report_text(
    file: Path, spec: ModelSpec, artefact: Artefact, operators: dict[str, Any], parity: Parity, seconds: float
) -> str:
    """The JSON beside an exported file."""
    facts = {
        "file": file.name,
        "sha256": sha256_of_file(file),
        "artefact": json.loads(artefact.to_json()),
        "spec": json.loads(spec.to_json()),
        "operators": operators,
        "parity": parity.to_dict(),
        "made_with": versions(),
        "seconds": round(seconds, 2),
    }
    return json.dumps(facts, indent=2, sort_keys=True)


def report_path(file: Path) -> Path:
    """The JSON beside an artefact."""
    return file.with_name(file.name + ".json")


def versions() -> dict[str, str]:
    """What an artefact was made with."""
    packages = ("stmd-sdk", "torch", "diffusers", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino")
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _asked(trained: Sampler, whole: Whole | WholeRestoration | None) -> dict[str, Any]:
    """What an artefact says of a whole sampler. What the sampler refuses is refused before any work."""
    if trained.guides:
        raise InvalidArgumentError("a guided sampler cannot be exported: its guide is not part of the graph")
    if whole is None:
        return {}
    if isinstance(whole, WholeRestoration):
        return whole.asked(trained)
    steps = {"inference_steps": whole.inference_steps, "mean_flow_steps": whole.mean_flow_steps}
    label = 0 if whole.takes_labels else whole.label
    next(trained.trajectory(1, **steps, labels=label, guidance=whole.guidance, seed=0))
    classes = trained.spec.classes
    label = None if whole.label is None or classes is None else classes.number(whole.label)
    return {
        "kind": "sampler",
        "times": tuple(time_grid(whole.inference_steps)),
        "mean_flow_steps": whole.mean_flow_steps,
        "label": label,
        "takes_labels": whole.takes_labels,
        "guidance": whole.guidance,
    }


def _file_name(spec: ModelSpec, whole: Whole | WholeRestoration | None, precision: Precision) -> str:
    name = re.sub(r"[^\w.-]+", "-", spec.name).strip("-.") or "model"
    steps = whole.suffix if isinstance(whole, WholeRestoration) else ""
    if isinstance(whole, Whole):
        steps = f"-sampler-n{whole.inference_steps}-m{whole.mean_flow_steps}"
        steps += "-labels" if whole.takes_labels else "" if whole.label is None else f"-{whole.label}"
        steps += "" if whole.guidance == 1 else f"-w{whole.guidance:g}"
    return f"{name}{steps}{'' if precision == 'fp32' else '-' + precision}.onnx"


def _write(graph: onnx.ModelProto, file: Path, spec: ModelSpec, artefact: Artefact) -> Artefact:
    """Write the sealed file, its weights beside it where a message could not hold them, and check it."""
    if sum(len(tensor.raw_data) for tensor in graph.graph.initializer) > INLINE_BYTES:
        data = data_path(file)
        onnx.save_model(graph, file, save_as_external_data=True, location=data.name)
        artefact = replace(artefact, data=sha256_of_file(data))
        model = file.read_bytes()
    else:
        model = graph.SerializeToString()
    file.write_bytes(sealed(model, spec.to_json(), artefact))
    onnx.checker.check_model(file, full_check=True)
    return artefact


def parity_batches(batch: BatchProfile) -> list[int]:
    """The batch sizes at which a graph is compared: small ones, where graphs branch, and the largest."""
    return sorted({size for size in (1, 2, 3, batch.max) if batch.min <= size <= batch.max})


def _parity(trained: Sampler, cast: nn.Module, file: Path, artefact: Artefact, batch: BatchProfile) -> Parity:
    precision = artefact.precision
    batches = parity_batches(batch)
    if precision == "bf16":
        # ONNX Runtime has no bfloat16 on the CPU; ONNX's reference implementation has, slowly.
        batches = [size for size in batches if size <= 3] or batches[:1]
    if artefact.kind == "restorer":
        opened = open_session(file, threads=torch.get_num_threads())
        return restorer_parity(
            trained, lambda given: opened.run(["samples"], given)[0], artefact, batches, _compared(precision)
        )
    if artefact.kind == "sampler":
        session = _evaluator(file) if precision == "bf16" else open_session(file, threads=torch.get_num_threads())
        run = ExportedRun(session, trained.spec.name, trained.spec.shape, artefact, trained.spec.classes)
        return sampler_parity(trained, run, artefact, batches, _compared(precision))
    candidate: Network = _reference_network(file) if precision == "bf16" else load_onnx(file, CPU)[1]
    sampled = _eager(cast) if precision == "bf16" else candidate
    return network_parity(trained.spec, trained.network, candidate, sampled, precision, batches, _compared(precision))


def _eager(cast: nn.Module) -> Network:
    """A reduced network in PyTorch as it is; TorchNetwork would cast it back."""

    def network(x: Tensor, times: Tensor, /) -> Tensor:
        with torch.inference_mode():
            return cast(x, times)

    return network


def _compared(precision: Precision) -> str:
    runtime = "ONNX's reference implementation" if precision == "bf16" else "ONNX Runtime on the CPU"
    return f"{runtime} against eager PyTorch in float32 on the CPU"


def _reference_network(file: Path) -> Network:
    evaluator = _evaluator(file)

    def run(x: Tensor, times: Tensor, /) -> Tensor:
        return torch.from_numpy(np.asarray(evaluator.run(["u"], {"x": x.numpy(), "times": times.numpy()})[0]))

    return run


def _evaluator(file: Path) -> Any:
    """ONNX's reference implementation, which runs like a session of ONNX Runtime."""
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

    return ReferenceEvaluator(str(file))
