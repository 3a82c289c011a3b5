"""A proven ONNX file to OpenVINO's .xml and .bin, proven again."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import onnx
import torch

from stmd_sdk.backends.openvino import load_openvino
from stmd_sdk.backends.openvino_session import openvino
from stmd_sdk.backends.tensorrt import BatchProfile
from stmd_sdk.backends.torch import TorchNetwork
from stmd_sdk.errors import CheckpointError, InvalidArgumentError
from stmd_sdk.files import check_writable
from stmd_sdk.locks import locked
from stmd_sdk.models.artefact import Artefact, read_graph
from stmd_sdk.models.checkpoint import resolve_model
from stmd_sdk.models.ir import ROOM, blank_entries, sealed_ir, weights_path
from stmd_sdk.runs.exported import ExportedRun
from stmd_sdk.sampler import Sampler

from .onnx_export import Say, loaded_checkpoint, parity_batches, report_path, report_text
from .parity import Parity, network_parity, sampler_parity
from .staging import staged

__all__ = ["export_openvino"]

CPU = torch.device("cpu")


def export_openvino(
    onnx_file: Path,
    model: str | Path,
    out: Path,
    *,
    batch: BatchProfile = BatchProfile(),  # noqa: B008  frozen
    say: Say = lambda _: None,
) -> Path:
    """Convert an ONNX file of :func:`export_onnx`, made of ``model``, into ``out``; returns the .xml file.

    It is compared with the trained network by OpenVINO in float32 before it appears, and :class:`ParityError` leaves
    nothing. What it computes in later is chosen where it is opened (``dtype``), so reduced ONNX files are refused.
    """
    started = time.monotonic()
    openvino()  # say that it is missing before the work
    target = out / f"{onnx_file.stem}.xml"
    check_writable(target)
    graph, text, artefact = read_graph(onnx_file)
    if artefact.precision != "fp32":
        raise InvalidArgumentError(
            f"{onnx_file} computes in {artefact.precision}: give OpenVINO the float32 graph, and the precision where "
            "it is opened, as in Sampler.from_pretrained(..., dtype=torch.bfloat16)"
        )
    if artefact.data:
        raise CheckpointError(f"{onnx_file}: its weights are too large for OpenVINO's files here (2 GiB)")
    weights, spec, module = loaded_checkpoint(resolve_model(model))
    if weights != artefact.weights:
        raise CheckpointError(f"{onnx_file} was not made of {model}")
    trained = Sampler(TorchNetwork(module, CPU, torch.float32), spec, CPU)
    spec.codec.prepare(spec.shape)
    with locked(target, target), staged(target) as folder:
        file = folder / target.name
        say("converting to OpenVINO")
        operators = _write(graph, file, text, artefact)
        say("comparing with the trained network")
        parity = _parity(trained, file, artefact, batch)
        seconds = time.monotonic() - started
        report_path(file).write_text(report_text(file, spec, artefact, operators, parity, seconds))
    return target


def _write(graph: bytes, file: Path, spec: str, artefact: Artefact) -> dict[str, int]:
    """Write both files, the .xml sealed; how many operators of each kind there are."""
    ov = openvino()
    bare = onnx.load_model_from_string(graph)
    del bare.metadata_props[:]  # ours, which would be copied
    model = ov.Core().read_model(bare.SerializeToString())
    beside = weights_path(file)
    ov.serialize(model, str(file), str(beside))
    for name, value in blank_entries(spec, artefact, beside.read_bytes()).items():
        model.set_rt_info(value, [ROOM, name])
    ov.serialize(model, str(file), str(beside))  # the weights are the same bytes
    file.write_bytes(sealed_ir(file.read_bytes()))
    return dict(sorted(Counter(operator.get_type_name() for operator in model.get_ops()).items()))


def _parity(trained: Sampler, file: Path, artefact: Artefact, batch: BatchProfile) -> Parity:
    compared = f"OpenVINO {openvino().__version__} on the CPU against eager PyTorch in float32 on the CPU"
    batches = parity_batches(batch)
    if artefact.kind == "sampler":
        run = ExportedRun.open(file, threads=torch.get_num_threads())
        return sampler_parity(trained, run, artefact, batches, compared)
    candidate = load_openvino(file, CPU, torch.float32)[1]
    return network_parity(trained.spec, trained.network, candidate, candidate, "fp32", batches, compared)
