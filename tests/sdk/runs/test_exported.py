"""Whole samplers without PyTorch: the same bits of noise, a known graph, and no PyTorch in sight."""

import math
import subprocess
import sys
from functools import reduce
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stmd_sdk import Noise
from stmd_sdk.codecs.codec import VectorCodec
from stmd_sdk.diffusion import philox
from stmd_sdk.diffusion.host_philox import host_normals
from stmd_sdk.errors import CheckpointError, InvalidArgumentError
from stmd_sdk.models.artefact import Artefact, sealed
from stmd_sdk.models.objective import STMD
from stmd_sdk.models.spec import ModelSpec
from stmd_sdk.networks import MLPConfig
from stmd_sdk.runs import exported
from stmd_sdk.runs.exported import ExportedRun, is_whole_sampler

SPEC = ModelSpec(name="known", objective=STMD(), shape=(3,), network=MLPConfig(width=8, depth=1), codec=VectorCodec())
ARTEFACT = Artefact("sampler", "fp32", 21, "0" * 64, (1.0, 0.5, 0.0), 1)


def whole(path, keys=4, artefact=ARTEFACT):
    """samples = Σ_i (i + 1) noise[i]: a linear graph in the place of a sampler."""
    weights = numpy_helper.from_array(np.arange(1, keys + 1, dtype=np.float32).reshape(keys, 1, 1), "weights")
    nodes = [
        helper.make_node("Mul", ["noise", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axes"], ["samples"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "known",
        [helper.make_tensor_value_info("noise", TensorProto.FLOAT, [keys, "b", 3])],
        [helper.make_tensor_value_info("samples", TensorProto.FLOAT, ["b", 3])],
        [weights, numpy_helper.from_array(np.array([0]), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(sealed(model.SerializeToString(), SPEC.to_json(), artefact))
    return path


@pytest.fixture
def path(tmp_path):
    return whole(tmp_path / "whole.onnx")


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 28, 28), (2, 3, 5)])
@pytest.mark.parametrize(("seed", "first"), [(0, 0), (2**64 - 1, 7), (5, 2**32 - 4)])
def test_numpys_noise_has_the_bits_of_the_sdks(shape, seed, first):
    indices = np.arange(first, first + 4)
    for folds in ((), (0,), (3, 2**33)):
        noise = Noise.of(seed, 4, first=first)
        for i in folds:
            noise = noise.fold(i)
        drawn = host_normals([reduce(philox.fold, folds, seed)], indices, math.prod(shape)).reshape(4, *shape)
        assert np.array_equal(drawn, noise.normal(*shape).numpy())


def test_the_noise_enters_key_by_key(path):
    noise = Noise.of(11, 5, first=2)
    expected = sum((i + 1) * noise.fold(i).normal(3) for i in range(4)).numpy()
    drawn = ExportedRun.open(path).sample(5, seed=11, first=2)
    assert np.allclose(drawn, expected, atol=1e-6)


def test_sample_k_does_not_depend_on_its_batch(path):
    sampler = ExportedRun.open(path)
    together = sampler.sample(9, seed=1)
    assert np.array_equal(sampler.sample(9, seed=1, batch_size=2), together)
    assert np.array_equal(sampler.sample(3, seed=1, first=4), together[4:7])
    assert not np.array_equal(sampler.sample(9, seed=2), together)
    assert not np.array_equal(sampler.sample(9), sampler.sample(9))


@pytest.mark.parametrize(
    "bad",
    [
        {"n": 0},
        {"n": 1, "seed": -1},
        {"n": 1, "seed": 2**64},
        {"n": 1, "first": -1},
        {"n": 2, "batch_size": 0},
        {"n": 2, "seed": 1.5},
        {"n": 2.0},
        {"n": 2, "first": 2**32 - 1},
    ],
)
def test_bad_arguments_are_refused(path, bad, as_users_call):
    with pytest.raises(InvalidArgumentError):
        ExportedRun.open(path).sample(**bad)


def test_a_network_is_told_from_a_whole_sampler(tmp_path, path):
    network = whole(tmp_path / "network.onnx", artefact=Artefact("network", "fp32", 21, "0" * 64))
    assert is_whole_sampler(path)
    assert not is_whole_sampler(network)
    with pytest.raises(CheckpointError, match="--whole"):
        ExportedRun.open(network)


def test_an_input_that_does_not_fit_the_steps_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="noise"):
        ExportedRun.open(whole(tmp_path / "odd.onnx", keys=6))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        ExportedRun.open(tmp_path / "nowhere.onnx")


def test_with_pytorch_it_is_a_run_of_its_own_times_and_no_others(path):
    run = ExportedRun.open(path)
    drawn = run(Noise.of(11, 5, first=2), (1.0, 0.5, 0.0), 1)
    assert np.array_equal(drawn.numpy(), run.sample(5, seed=11, first=2))
    for times, m in (((1.0, 0.0), 1), ((1.0, 0.5, 0.0), 2)):
        with pytest.raises(InvalidArgumentError, match=r"holds a run with times \(1.0, 0.5, 0.0\) and M = 1"):
            run(Noise.of(11, 5), times, m)


def test_it_draws_where_pytorch_and_diffusers_are_not_installed(path):
    sdk = Path(exported.__file__).parents[2]
    program = f"""
import sys
for absent in ("torch", "diffusers", "safetensors", "onnx", "jaxtyping", "rich", "typer"):
    sys.modules[absent] = None
sys.path.insert(0, {str(sdk)!r})
from stmd_sdk.runs.exported import ExportedRun
print(ExportedRun.open({str(path)!r}).sample(2, seed=3).tolist())
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert np.allclose(eval(printed), ExportedRun.open(path).sample(2, seed=3), atol=1e-6)


def test_the_command_line_draws_where_they_are_not_installed(path, tmp_path):
    program = f"""
import sys
for absent in ("torch", "diffusers", "safetensors", "onnx", "jaxtyping"):
    sys.modules[absent] = None
sys.path.insert(0, {str(Path(exported.__file__).parents[2])!r})
from stmd_sdk.cli.app import app
app(["sample", "--n", "2", "--seed", "3", "--out", {str(tmp_path / "x.npz")!r}, "--model", *sys.argv[1:]])
"""

    def run(model):
        command = [sys.executable, "-c", program, str(model)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = run(path)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "x.npz")["x"], ExportedRun.open(path).sample(2, seed=3))
    refused = run("mnist")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: torch is not installed: pip install stmd-sdk")
    assert refused.stderr.count("\n") == 1
