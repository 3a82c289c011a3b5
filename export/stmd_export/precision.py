"""Reduced precision in the graph itself: cast weights, float32 islands, and a look into the result."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterator
from typing import final

import torch
from torch import Tensor, nn

from stmd_sdk.errors import requires_extra
from stmd_sdk.models.artefact import Precision
from stmd_sdk.networks.embedding import TimesEmbedding

from .errors import ExportError

with requires_extra("export"):
    import onnx

__all__ = ["DTYPES", "check_precision", "lowered", "precision_found"]

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# Sums over many numbers and the times, whose rounding the whole sampling run would share.
ISLANDS = nn.GroupNorm, nn.LayerNorm, TimesEmbedding
ISLAND_NAME = "embed."

HEAVY = "Conv", "MatMul", "Gemm"
NORMS = "InstanceNormalization", "LayerNormalization"


@final
class Island(nn.Module):
    """A module kept in float32 within a reduced network."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """Compute in float32, answer in the network's precision."""
        return self.module(x.float()).to(self.dtype)


@final
class Lowered(nn.Module):
    """A network with float32 inputs and output that computes in ``dtype`` between them."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        """Evaluate the network; the times stay float32 until they are embedded."""
        return self.network(x.to(self.dtype), times).float()


def lowered(network: nn.Module, precision: Precision) -> nn.Module:
    """A copy of ``network`` that computes in ``precision``, norms and the embedding of times in float32."""
    if precision == "fp32":
        return network
    network, dtype = copy.deepcopy(network), DTYPES[precision]
    islands = {name: module for name, module in network.named_modules() if isinstance(module, ISLANDS)}
    # The norms inside an embedding are in float32 with it.
    islands = {name: module for name, module in islands.items() if not _inside(name, islands)}
    network.to(dtype)
    for name, module in islands.items():
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, Island(module.float(), dtype))
    return Lowered(network, dtype)


def _inside(name: str, names: Collection[str]) -> bool:
    return any(name.startswith(f"{other}.") for other in names)


def precision_found(model: onnx.ModelProto) -> dict[str, dict[str, int]]:
    """What each kind of heavy operator and norm really computes in: {operator: {element type: count}}."""
    counts: dict[str, Counter[str]] = {}
    for node, kind in _typed(model):
        counts.setdefault(node.op_type, Counter())[kind] += 1
    return {operator: dict(found) for operator, found in sorted(counts.items())}


def check_precision(model: onnx.ModelProto, precision: Precision) -> None:
    """Raise unless every convolution and product computes in ``precision``, the islands in float32."""
    wanted = {"fp32": "FLOAT", "fp16": "FLOAT16", "bf16": "BFLOAT16"}[precision]
    for node, kind in _typed(model):
        island = node.op_type not in HEAVY or any(ISLAND_NAME in name for name in node.input)
        expected = "FLOAT" if island else wanted
        if kind != expected:
            raise ExportError(f"{node.op_type} {node.name} computes in {kind}, not {expected}")


def _typed(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, str]]:
    """The watched nodes and the element type of their first input.

    Types are followed from the weights and inputs through the graph.
    """
    graph = model.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types |= {value.name: value.type.tensor_type.elem_type for value in graph.input}
    for node in graph.node:
        if node.op_type == "Cast":
            found = next(attribute.i for attribute in node.attribute if attribute.name == "to")
        elif node.op_type in ("Shape", "Size"):
            found = onnx.TensorProto.INT64
        else:
            found = types[node.input[1 if node.op_type == "Where" else 0]] if node.input else 0
        types.update(dict.fromkeys(node.output, found))
        if node.op_type in (*HEAVY, *NORMS):
            yield node, onnx.TensorProto.DataType.Name(types[node.input[0]])
