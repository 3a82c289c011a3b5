"""From PyTorch modules to ONNX graphs: the network, and the whole sampler around it."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from stmd_sdk.errors import requires_extra
from stmd_sdk.models.artefact import Artefact
from stmd_sdk.models.spec import ModelSpec

from .errors import ExportError
from .whole import PLACEHOLDER, RestoringModule, WholeModule

with requires_extra("export"):
    import onnx
    import onnxscript  # noqa: F401  # pyright: ignore[reportUnusedImport]  torch.onnx.export needs it

__all__ = ["OPSET", "OPSET_BF16", "mask_shape", "trace_network", "trace_sampler"]

# 21 is the first opset to which PyTorch exports a GroupNorm as one node; 23's Attention operator fails in TensorRT-RTX.
OPSET = 21
# Conv takes bfloat16 from opset 22 on.
OPSET_BF16 = 22

# An example batch of 1 would be frozen into the graph.
EXAMPLE_BATCH = 2


def trace_network(spec: ModelSpec, module: nn.Module, opset: int = OPSET) -> onnx.ModelProto:
    """The graph x [b, c_in, ...], times [b, k] → u [b, c, ...] with a free batch b."""
    x = torch.zeros(EXAMPLE_BATCH, spec.in_channels, *spec.shape[1:])
    times = torch.full((EXAMPLE_BATCH, spec.times), 0.5)
    traced = _traced(module, (x, times), (0, 0), opset, inputs=["x", "times"], output="u")
    model = _with_instance_norms(traced)
    _check_shapes(model, {"x": ["b", *x.shape[1:]], "times": ["b", spec.times], "u": ["b", *spec.shape]})
    return model


def trace_sampler(spec: ModelSpec, network: onnx.ModelProto, artefact: Artefact) -> onnx.ModelProto:
    """The graph noise [2N, b, ...] → samples [b, ...]: the SDK's own loop around N x M copies of ``network``.

    What it draws is what ``artefact`` says; where that takes labels they are a last input, labels [b]. Of a restorer
    noise is [2 + 4L, b, ...], and its mask and y [1, ...], of one measurement for all rows, are inputs before them.
    The loop is traced with a placeholder for the network, which takes seconds whatever N and M; then each
    placeholder is replaced by the network's nodes. The weights are shared. A decoder with weights, as that of
    latents, is part of the loop and stays float32.
    """
    shapes: dict[str, list[int | str]]
    if artefact.kind == "restorer":
        module = RestoringModule(spec, artefact)
        keys, mask = 2 + 4 * len(artefact.couplings), mask_shape(spec.shape)
        shapes = {"noise": [keys, "b", *spec.shape], "mask": [*mask], "y": [1, *spec.shape]}
    else:
        module = WholeModule(spec, artefact.times, artefact.mean_flow_steps, artefact.label, artefact.guidance)
        shapes = {"noise": [2 * (len(artefact.times) - 1), "b", *spec.shape]}
    if artefact.takes_labels:
        shapes["labels"] = ["b"]
    opset = network.opset_import[0].version
    loop = _traced(module, *_examples(shapes), opset, inputs=list(shapes), output="samples")
    model = _inlined(_with_instance_norms(loop), network)
    samples = ["b", *spec.codec.decoded_shape(spec.shape)]
    _check_shapes(model, {**shapes, "samples": samples})
    return model


def mask_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a mask: of images [1, h, w], one for all channels."""
    return (1, *shape[1:]) if len(shape) > 1 else shape


def _examples(shapes: dict[str, list[int | str]]) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """An example of each input, and the axis of its batch if it has one."""
    sizes = {name: [EXAMPLE_BATCH if side == "b" else int(side) for side in sides] for name, sides in shapes.items()}
    kinds = {"labels": torch.int64}
    example = tuple(torch.zeros(sides, dtype=kinds.get(name, torch.float32)) for name, sides in sizes.items())
    return example, tuple(sides.index("b") if "b" in sides else None for sides in shapes.values())


def _traced(
    module: nn.Module,
    example: tuple[Tensor, ...],
    batch_axes: tuple[int | None, ...],
    opset: int,
    *,
    inputs: list[str],
    output: str,
) -> onnx.ModelProto:
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module.eval(),
                example,
                dynamo=True,
                opset_version=opset,
                # Not a named dimension: diffusers branches at a batch of 64 for the sake of a memory format,
                # so a free one is refused, and the exporter traces the network twice to find that out.
                dynamic_shapes=tuple(None if axis is None else {axis: torch.export.Dim.DYNAMIC} for axis in batch_axes),
                input_names=inputs,
                output_names=[output],
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter's errors share no base class but this one
        raise ExportError(f"PyTorch cannot export this network to ONNX: {_cause(error)}") from error
    if program is None:
        raise ExportError("PyTorch's ONNX exporter returned nothing")
    return _tidy(program.model_proto)


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """Silence the exporter's remarks on its own internals; what fails raises."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _cause(error: BaseException) -> str:
    """The first line of the innermost cause: the exporter wraps what went wrong several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Strip the stack traces and other remarks, which are most of a file; call the batch b."""
    graph = model.graph
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output, graph, model):
        del item.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = "b"
    model.producer_name, graph.name = "stmd-sdk", "main"
    return model


def _with_instance_norms(network: onnx.ModelProto) -> onnx.ModelProto:
    """Spell each GroupNormalization, which is a function to ONNX Runtime, as an InstanceNormalization of groups.

    The runtime expands functions when it opens a file, which takes seconds for a sampler's many; and an evaluation of
    their dozen operators each is slower.
    """
    model = copy.deepcopy(network)
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    del model.graph.node[:]
    for node in network.graph.node:
        if node.op_type == "GroupNormalization":
            nodes, constants = _instance_norm(node, weights)
            model.graph.node.extend(nodes)
            model.graph.initializer.extend(constants)
        else:
            model.graph.node.append(node)
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def _instance_norm(
    node: onnx.NodeProto, weights: dict[str, np.ndarray]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes and constants of one GroupNormalization; x may have any number of spatial axes."""
    options = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    groups, name = options["num_groups"], node.name
    x, scale, bias = node.input[0], weights[node.input[1]], weights[node.input[2]]
    constants = {
        "to_groups": np.array([0, groups, -1]),
        "to_channels": np.array([0, len(scale), -1]),
        "ones": np.ones(groups, np.float32),
        "zeros": np.zeros(groups, np.float32),
        "scale": scale[:, None],
        "bias": bias[:, None],
    }
    steps = [
        ("Reshape", [x, f"{name}/to_groups"], f"{name}/groups"),
        ("InstanceNormalization", [f"{name}/groups", f"{name}/ones", f"{name}/zeros"], f"{name}/normed"),
        ("Reshape", [f"{name}/normed", f"{name}/to_channels"], f"{name}/channels"),
        ("Mul", [f"{name}/channels", f"{name}/scale"], f"{name}/scaled"),
        ("Add", [f"{name}/scaled", f"{name}/bias"], f"{name}/shifted"),
        ("Shape", [x], f"{name}/shape"),
        ("Reshape", [f"{name}/shifted", f"{name}/shape"], node.output[0]),
    ]
    nodes = [onnx.helper.make_node(operator, inputs, [out], name=out) for operator, inputs, out in steps]
    epsilon = onnx.helper.make_attribute("epsilon", options.get("epsilon", 1e-5))
    nodes[1].attribute.append(epsilon)
    return nodes, [onnx.numpy_helper.from_array(value, f"{name}/{key}") for key, value in constants.items()]


def _inlined(loop: onnx.ModelProto, network: onnx.ModelProto) -> onnx.ModelProto:
    """Replace each placeholder in ``loop`` by the nodes of ``network``, its weights held once."""
    shared = {tensor.name: f"network/{tensor.name}" for tensor in network.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in loop.graph.node:
        if node.domain != PLACEHOLDER.partition("::")[0]:
            nodes.append(node)
            continue
        borders = dict(zip((value.name for value in network.graph.input), node.input, strict=True))
        borders |= dict(zip((value.name for value in network.graph.output), node.output, strict=True))
        nodes.extend(_renamed(network, {**shared, **borders}, f"evaluation{count}/"))
        count += 1
    model = copy.deepcopy(loop)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for tensor in network.graph.initializer:
        model.graph.initializer.add().CopyFrom(tensor)
        model.graph.initializer[-1].name = shared[tensor.name]
    del model.opset_import[:]
    model.opset_import.extend(network.opset_import)
    return model


def _renamed(network: onnx.ModelProto, names: dict[str, str], prefix: str) -> Iterator[onnx.NodeProto]:
    for node in network.graph.node:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.name = prefix + node.name
        # An empty name is an input that is left out.
        copied.input[:] = [name and names.get(name, prefix + name) for name in node.input]
        copied.output[:] = [name and names.get(name, prefix + name) for name in node.output]
        yield copied


def _check_shapes(model: onnx.ModelProto, expected: dict[str, list[int | str]]) -> None:
    """The exporter can "succeed" with a frozen batch: the graph must say what was meant."""
    for value in (*model.graph.input, *model.graph.output):
        dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if dims != expected.get(value.name):
            raise ExportError(f"the exported graph has {value.name} {dims}, not {expected.get(value.name)}")
