"""Exports of conditional models: what is drawn by label from a file is what the trained sampler draws."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from stmd_export import Whole, export_onnx
from stmd_export.cli import export_app
from stmd_sdk import InvalidArgumentError, Noise, Sampler
from stmd_sdk.cli.app import app
from stmd_sdk.diffusion.classes import Classes
from stmd_sdk.models.artefact import read_onnx
from stmd_sdk.runs.exported import ExportedRun

from .conftest import BATCH, make_spec

CLASSES = Classes(3, ("ant", "bee", "cow"))


@pytest.fixture(scope="module")
def model(checkpoint):
    spec = replace(make_spec("mlp"), name="insects", classes=CLASSES)
    path = checkpoint(spec)
    return SimpleNamespace(path=path, sampler=Sampler.from_pretrained(path, device="cpu"))


@pytest.fixture(scope="module")
def with_labels(model, tmp_path_factory):
    return export_onnx(model.path, tmp_path_factory.mktemp("labels"), whole=Whole(2, takes_labels=True), batch=BATCH)


def close(drawn, expected):
    np.testing.assert_allclose(drawn, expected.numpy(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("labels", [None, 1, "cow", "random", [0, "bee", 2, 0, 1]])
def test_a_whole_sampler_that_takes_labels_draws_them(model, with_labels, labels):
    run = ExportedRun.open(with_labels)
    drawn = run.sample(5, labels=labels, seed=3, first=2, batch_size=2)
    close(drawn, model.sampler.sample(5, labels=labels, seed=3, first=2, inference_steps=2))
    assert np.abs(run.sample(5, labels=0, seed=3) - run.sample(5, labels=1, seed=3)).max() > 1e-3


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_whole_sampler_of_one_class_draws_it_alone(model, tmp_path, guidance):
    whole = Whole(2, label="bee", guidance=guidance)
    file = export_onnx(model.path, tmp_path, whole=whole, batch=BATCH)
    assert read_onnx(file)[1].label == 1
    run = ExportedRun.open(file)
    close(run.sample(4, seed=1), model.sampler.sample(4, labels=1, guidance=guidance, seed=1, inference_steps=2))
    with pytest.raises(InvalidArgumentError, match="draws class 1 alone; export it with --labels"):
        run.sample(4, labels=1)
    with pytest.raises(InvalidArgumentError, match="holds a run of label 1 alone"):
        run(Noise.of(0, 2), (1.0, 0.5, 0.0), 1)


def test_guidance_and_the_input_go_together(model, tmp_path):
    file = export_onnx(model.path, tmp_path, whole=Whole(1, takes_labels=True, guidance=2.0), batch=BATCH)
    expected = model.sampler.sample(3, labels=[0, 1, 2], guidance=2.0, seed=5, inference_steps=1)
    close(ExportedRun.open(file).sample(3, labels=[0, 1, 2], seed=5), expected)


def test_a_network_is_given_its_labels_in_the_times(model, tmp_path):
    sampler = Sampler.from_pretrained(export_onnx(model.path, tmp_path, batch=BATCH), device="cpu")
    for options in ({}, {"labels": [2, 0, 1]}, {"labels": "ant", "guidance": 3.0}):
        expected = model.sampler.sample(3, seed=2, **options)
        torch.testing.assert_close(sampler.sample(3, seed=2, **options), expected, atol=1e-5, rtol=0)


def test_sevens_need_no_pytorch(with_labels):
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from stmd_sdk.runs.exported import ExportedRun\n"
        f"print(ExportedRun.open({str(with_labels)!r}).sample(1, labels='bee', seed=3).tolist())"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    drawn = ExportedRun.open(with_labels).sample(1, labels=1, seed=3)
    assert ran.stdout.strip() == str(drawn.tolist())


def test_the_commands_draw_by_label_from_a_file(model, with_labels, tmp_path):
    arguments = [
        "sample",
        "-m",
        str(with_labels),
        "--label",
        "each",
        "-n",
        "6",
        "--seed",
        "4",
        "-o",
        str(tmp_path / "x.npz"),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    expected = model.sampler.sample(6, labels=[0, 0, 1, 1, 2, 2], seed=4, inference_steps=2)
    close(np.load(tmp_path / "x.npz")["x"], expected)
    options = ["--ckpt", str(model.path), "--whole", "--onnx", "--inference-steps", "1", "--out", str(tmp_path)]
    result = CliRunner().invoke(export_app, [*options, "--label", "2", "--quiet"])
    assert result.exit_code == 0, result.output
    file = tmp_path / "insects-sampler-n1-m1-2.onnx"
    close(ExportedRun.open(file).sample(2, seed=0), model.sampler.sample(2, labels="cow", seed=0, inference_steps=1))
    result = CliRunner().invoke(app, ["sample", "-m", str(file), "--label", "0", "-o", str(tmp_path / "y.npz")])
    assert result.exit_code == 2
    assert "no classes to choose from" in result.output


@pytest.mark.parametrize(
    ("whole", "says"),
    [
        ({"label": 3}, "labels must be an integer from 0 to 2"),
        ({"label": "dog"}, "no class 'dog'; there are ant, bee, cow"),
        ({"guidance": 2.0}, "guidance goes with labels"),
        ({"label": 0, "takes_labels": True}, "one label, or takes labels"),
    ],
)
def test_whole_samplers_of_no_class_are_refused_before_the_work(model, tmp_path, whole, says):
    with pytest.raises(InvalidArgumentError, match=says):
        export_onnx(model.path, tmp_path, whole=Whole(1, **whole), batch=BATCH)
    assert not list(tmp_path.iterdir())


def test_labels_of_a_model_without_classes_are_refused(checkpoint, tmp_path):
    with pytest.raises(InvalidArgumentError, match="the model has no classes"):
        export_onnx(checkpoint(make_spec("mlp")), tmp_path, whole=Whole(1, takes_labels=True), batch=BATCH)
