"""A network small enough to write down as an ONNX graph: u = 2 z - x_t + τ, with the spec of a 2-D MLP."""

from dataclasses import replace

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stmd_sdk import Noise
from stmd_sdk.codecs.codec import VectorCodec
from stmd_sdk.models.artefact import Artefact, sealed
from stmd_sdk.models.objective import STMD
from stmd_sdk.models.spec import ModelSpec
from stmd_sdk.networks import MLPConfig

ARTEFACT = Artefact(kind="network", precision="fp32", opset=21, weights="0" * 64)


def known(x, times):
    return 2 * x[:, :2] - x[:, 2:] + times[:, :1]


def inputs(b):
    noise = Noise.of(3, b)
    return noise.fold(0).normal(4), noise.fold(1).uniform(3)


def constant(name, values):
    import numpy as np

    return numpy_helper.from_array(np.array(values), name)


@pytest.fixture(scope="session")
def spec():
    return ModelSpec(
        name="known", objective=STMD(), shape=(2,), network=MLPConfig(width=8, depth=1), codec=VectorCodec()
    )


@pytest.fixture(scope="session")
def known_graph():
    nodes = [
        helper.make_node("Split", ["x"], ["z", "x_t"], axis=1, num_outputs=2),
        helper.make_node("Slice", ["times", "zero", "one", "one"], ["tau"]),
        helper.make_node("Mul", ["z", "two"], ["double"]),
        helper.make_node("Sub", ["double", "x_t"], ["difference"]),
        helper.make_node("Add", ["difference", "tau"], ["u"]),
    ]
    graph = helper.make_graph(
        nodes,
        "known",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 4]),
            helper.make_tensor_value_info("times", TensorProto.FLOAT, ["b", 3]),
        ],
        [helper.make_tensor_value_info("u", TensorProto.FLOAT, ["b", 2])],
        [constant("zero", [0]), constant("one", [1]), numpy_helper.from_array(numpy_float(2.0), "two")],
    )
    # Slice takes starts, ends, axes: here [0], [1], [1].
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def numpy_float(value):
    import numpy as np

    return np.array([value], np.float32)


@pytest.fixture
def write(tmp_path, spec, known_graph):
    """Write the known network, with changes to its artefact, spec or bytes."""

    def writer(name="known.onnx", *, artefact=None, spec_json=None, graph=None, **changes):
        path = tmp_path / name
        chosen = replace(artefact or ARTEFACT, **changes)
        path.write_bytes(sealed(graph or known_graph, spec_json or spec.to_json(), chosen))
        return path

    return writer
