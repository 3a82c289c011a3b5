"""The spec: it survives JSON, refuses what it does not know, and builds what it describes."""

import json
import math
from dataclasses import replace

import pytest
import torch

from stmd_sdk import CheckpointError, InvalidArgumentError, ModelSpec, Noise, VPSchedule
from stmd_sdk.codecs.codec import PixelCodec, VectorCodec
from stmd_sdk.diffusion.posterior import FlowPosterior, MeanFlowPosterior, PointPosterior
from stmd_sdk.diffusion.target import ResidualTarget, X0Target
from stmd_sdk.models.objective import DDPM, STMD, MeanFlow
from stmd_sdk.networks import PRESETS, DiTConfig, MLPConfig, UNetConfig

VECTOR = ModelSpec("points", STMD(), (2,), MLPConfig(width=8, depth=1), VectorCodec())
SPECS = [
    VECTOR,
    ModelSpec(
        name='größe "x"',
        objective=STMD("residual", "x0", bounded=True),
        shape=(1, 8, 8),
        network=UNetConfig(channels=(8, 16), groups=4),
        codec=PixelCodec(),
        schedule=VPSchedule(0.2, 15.5),
        sigma_data=0.1 + 0.2,
        training={"data": "digits", "steps": 10, "seconds": 1.0, "loss": math.inf},
    ),
    ModelSpec("flow", MeanFlow("x0"), (4, 4, 8), DiTConfig(depth=1, width=8, heads=2), PixelCodec()),
    ModelSpec("ddpm", DDPM(), (1, 8, 8), UNetConfig(channels=(8,), attention=(), groups=4), PixelCodec()),
]


@pytest.mark.parametrize("spec", SPECS)
def test_json_brings_back_the_same_spec(spec):
    read = ModelSpec.from_json(spec.to_json(), "here")
    assert read == spec
    assert read.to_json() == spec.to_json()


def test_a_limit_of_m_is_refused_with_its_reason_and_left_out_where_there_is_none():
    VECTOR.check_steps(4, 2)
    assert "one_flow_step" not in VECTOR.to_json()
    limited = replace(VECTOR, one_flow_step="two are worse")
    assert ModelSpec.from_json(limited.to_json(), "here") == limited
    limited.check_steps(4, 1)
    with pytest.raises(InvalidArgumentError, match=r"^mean_flow_steps: points takes 1 alone: two are worse$"):
        limited.check_steps(4, 2)


@pytest.mark.parametrize("network", PRESETS.values(), ids=PRESETS)
def test_json_brings_back_every_preset(network):
    spec = replace(VECTOR, network=network)
    assert ModelSpec.from_json(spec.to_json(), "here").network == network


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("colour", 1, "colour: unknown key"),
        ("network.colour", 1, r"network\.colour: unknown key"),
        ("schedule.gamma", 1, r"schedule\.gamma: unknown key"),
        ("name", None, "name: missing"),
        ("network.groups", 0, "network: groups"),
        ("network.channels", None, r"network\.channels: missing"),
        ("network.channels", [8, "16"], r"network\.channels\[1\]: expected int"),
        ("network.kind", "cnn", r"network\.kind: must be one of"),
        ("network", "unet", "network: expected a table"),
        ("codec", {}, r"codec\.kind: must be one of 'pixels', 'vector'"),
        ("objective.kind", "gan", r"objective\.kind: must be one of 'stmd', 'meanflow', 'ddpm'"),
        ("objective.target", "x1", r"objective\.target: must be one of 'x0', 'residual', 'mixture'"),
        ("schedule.kind", "linear", r"schedule\.kind: must be one of 'vp', 'cosine'"),
        ("shape", [1, 8.0, 8], r"shape\[1\]: expected int"),
        ("shape", [1, 0, 8], "shape: must be positive"),
        ("shape", [], "shape: must be positive"),
        ("sigma_data", "1", "sigma_data: expected float"),
        ("sigma_data", math.nan, "NaN is no number"),
        ("sigma_data", math.inf, "sigma_data: must be positive and finite"),
        ("sigma_data", -1, "sigma_data: must be positive and finite"),
        ("schedule.beta_min", 30.0, "schedule: need 0 < beta_min <= beta_max"),
        ("training", {"steps": [1]}, r"training\.steps"),
        ("version", "1", "version: expected int"),
    ],
)
def test_a_foreign_or_damaged_spec_names_its_source_and_key(path, value, says):
    values = json.loads(SPECS[1].to_json())
    *tables, last = path.split(".")
    table = values
    for name in tables:
        table = table[name]
    if value is None:
        del table[last]
    else:
        table[last] = value
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: .*{says}"):
        ModelSpec.from_json(json.dumps(values), "model.safetensors")


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '"stmd"', "{}"])
def test_what_is_no_spec_is_refused(text):
    with pytest.raises(CheckpointError, match="here: "):
        ModelSpec.from_json(text, "here")


def test_a_newer_version_is_refused_even_with_keys_of_its_own():
    values = json.loads(VECTOR.to_json()) | {"version": 3, "colour": 1}
    with pytest.raises(CheckpointError, match=r"has version 3, this SDK reads up to 2; .*pip install -U"):
        ModelSpec.from_json(json.dumps(values), "here")


@pytest.mark.parametrize("spec", SPECS)
def test_the_network_takes_what_its_posterior_packs(spec):
    sizes = []

    def network(x, times):
        sizes.append((x.shape[1], times.shape[1]))
        return torch.zeros_like(x[:, : spec.shape[0]])

    x_t = torch.zeros(2, *spec.shape)
    spec.build_posterior(network)(x_t, torch.ones(2), Noise.of(0, 2))
    assert sizes == [(spec.in_channels, spec.times)]
    # And so does the network that it builds.
    built = spec.build_posterior(spec.build_network().eval())(x_t, torch.ones(2), Noise.of(0, 2))
    assert built.isfinite().all()
    assert built.shape == x_t.shape


def test_the_spec_chooses_posterior_target_and_bound():
    posteriors = [spec.build_posterior(lambda x, times: x, 3 if i < 3 else 1) for i, spec in enumerate(SPECS)]
    assert [type(posterior) for posterior in posteriors] == [
        FlowPosterior,
        FlowPosterior,
        MeanFlowPosterior,
        PointPosterior,
    ]
    assert posteriors[0].target == X0Target()
    assert posteriors[1].target == ResidualTarget(VPSchedule(0.2, 15.5), 0.1 + 0.2)
    assert tuple(posterior.velocity.output for posterior in posteriors[:3]) == (
        "velocity",
        "x0",
        "x0",
    )
    assert [posterior.mean_flow_steps for posterior in posteriors[:3]] == [3, 3, 3]
    assert [posteriors[i].bound for i in (0, 1, 3)] == [None, 1.0, 1.0]
    assert replace(SPECS[3], codec=VectorCodec()).build_posterior(lambda x, times: x).bound is None
    assert [spec.default_inference_steps for spec in SPECS] == [4, 4, 1, 100]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda: STMD("mixture", "x0"), r"^output: cannot be 'x0' with target 'mixture'"),
        (lambda: replace(VECTOR, objective=STMD(bounded=True)), r"^bounded: needs a codec that has a range"),
        (lambda: replace(VECTOR, objective=STMD("mixture")), r"^local_gaussians: target 'mixture' needs them"),
    ],
)
def test_a_setting_that_its_objective_does_not_have_is_refused(change, says):
    with pytest.raises(InvalidArgumentError, match=says):
        change()


# Version 1, as every model was written before there were kinds of objectives and schedules.
VERSION_1 = {
    "name": "old",
    "objective": "stmd",
    "shape": [1, 8, 8],
    "network": {"kind": "dit", "depth": 1, "width": 8, "heads": 2},
    "codec": {"kind": "pixels"},
    "schedule": {"beta_min": 0.2, "beta_max": 15.5},
    "target": "residual",
    "output": "x0",
    "bounded": True,
    "sigma_data": 0.5,
    "local_gaussians": None,
    "training": {"steps": 3},
    "version": 1,
}
PLAIN = {"target": "x0", "output": "velocity", "bounded": False}


def test_version_1_is_read_as_what_it_meant():
    read = ModelSpec.from_json(json.dumps(VERSION_1), "here")
    assert read.objective == STMD("residual", "x0", bounded=True)
    assert (read.schedule, read.sigma_data, read.version) == (VPSchedule(0.2, 15.5), 0.5, 2)
    assert ModelSpec.from_json(read.to_json(), "here") == read
    old = {key: value for key, value in VERSION_1.items() if key not in ("target", "output", "bounded", "schedule")}
    assert ModelSpec.from_json(json.dumps(old), "here").objective == STMD()
    for kind, objective in (("meanflow", MeanFlow()), ("ddpm", DDPM())):
        assert ModelSpec.from_json(json.dumps(VERSION_1 | PLAIN | {"objective": kind}), "here").objective == objective


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"objective": "gan"}, "objective: must be one of 'stmd', 'meanflow', 'ddpm'"),
        ({"objective": "ddpm", **PLAIN, "target": "residual"}, "target: objective 'ddpm' has none"),
        ({"objective": "meanflow", **PLAIN, "target": "residual"}, "target: objective 'meanflow' has none"),
        ({"objective": "ddpm", **PLAIN, "output": "x0"}, "output: objective 'ddpm' has none"),
        ({"objective": "meanflow", **PLAIN, "output": "correction"}, r"objective\.output: must be one of"),
        ({"objective": "ddpm", **PLAIN, "bounded": True}, "bounded: objective 'ddpm' has none"),
        ({"objective": "meanflow", **PLAIN, "bounded": True}, "bounded: objective 'meanflow' has none"),
        ({"target": "mixture", "output": "x0"}, "output: cannot be 'x0' with target 'mixture'"),
        ({"target": "mixture", "output": "correction"}, "local_gaussians: target 'mixture' needs them"),
        ({"target": "x1"}, r"objective\.target: must be one of"),
        ({"objective": {"kind": "stmd"}}, "target: unknown key"),
        ({"schedule": [0.1, 20.0]}, "schedule: expected a table"),
        ({"colour": 1}, "colour: unknown key"),
    ],
)
def test_what_version_1_could_not_mean_is_refused_and_says_why(change, says):
    with pytest.raises(CheckpointError, match=f"here: .*{says}"):
        ModelSpec.from_json(json.dumps(VERSION_1 | change), "here")
