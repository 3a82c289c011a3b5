"""Distillation: with the exact denoiser as teacher the exact model's loss is nothing, and a run is a run like any."""

import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from stmd_sdk import DataError, InvalidArgumentError, Sampler, TrainingError
from stmd_sdk.codecs.codec import VectorCodec
from stmd_sdk.data.arrays import ArrayData, WeightedData
from stmd_sdk.diffusion.classes import Classes
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.diffusion.target import ResidualTarget, X0Target
from stmd_sdk.diffusion.vp import VPSchedule
from stmd_sdk.mixtures.problems import mixture
from stmd_training.cli import train_app
from stmd_training.distill import Teacher, distilled_recipe, own_samples, teacher_of
from stmd_training.losses import FlowLoss, STMDLoss
from stmd_training.recipe import load_recipe
from stmd_training.run import TrainingRun
from stmd_training.times import TimeSampler

MIXTURE = mixture("mixture2d")
SMALL = "network.width=16", "network.depth=1", "steps=4", "batch_size=32", "checkpoint_every=2", "decay=constant"


def gaussian_teacher(mean, deviation):
    """E[x_0 | x_0 + σ n = x] of N(mean, deviation² I)."""

    def denoiser(x, sigma):
        share = deviation**2 / (deviation**2 + sigma.square())
        return mean + share.reshape(-1, *[1] * (x.ndim - 1)) * (x - mean)

    return denoiser


@pytest.mark.parametrize("target", [X0Target(), ResidualTarget(VPSchedule(), 0.9)], ids=["x0", "residual"])
def test_the_exact_model_has_no_loss_left_with_an_exact_teacher(target, average_velocity):
    """Without one, what is left is the variance of v = ε - y."""
    mean, deviation, noise = 0.3, 0.6, Noise.of(0, 512)
    x_0 = mean + deviation * noise.fold(9).normal(2)
    network, flow = average_velocity(target, mean, deviation), FlowLoss(TimeSampler("latents", 1.0), 0.0)
    taught, alone = (
        STMDLoss(VPSchedule(), target, flow=flow, teacher=teacher)(network, x_0, noise).mean()
        for teacher in (lambda _: gaussian_teacher(mean, deviation), None)
    )
    assert float(alone) > 0.3
    assert float(taught) < 1e-3 * float(alone)


def test_what_is_taught_is_the_mean_of_what_the_data_say():
    """The gradients of both losses agree over many draws: the minimiser stays."""
    schedule, target, mean, deviation = VPSchedule(), X0Target(), 0.3, 0.6
    weight = torch.zeros(3, 2, requires_grad=True)

    def network(x, times):
        return x @ torch.cat([weight, weight.flip(0)])[:4] + times[:, :1] * weight[2]

    gradients = []
    for teacher in (lambda _: gaussian_teacher(mean, deviation), None):
        noise = Noise.of(1, 60_000)
        x_0 = mean + deviation * noise.fold(9).normal(2)
        loss = STMDLoss(schedule, target, flow=FlowLoss(power=0.0, derivative="central"), teacher=teacher)
        gradients.append(torch.autograd.grad(loss(network, x_0, noise).mean(), weight)[0])
    taught, alone = gradients
    assert float(alone.abs().max()) > 0.3
    torch.testing.assert_close(taught, alone, atol=0.03, rtol=0)


def test_labels_reach_the_teacher():
    """The teacher is asked for the classes of the very rows that are trained on."""
    asked = []

    def teacher(noise):
        asked.append(noise.labels)
        return gaussian_teacher(0.0, 1.0)

    noise = Noise.of(0, 8).labelled(torch.arange(8) % 3)
    STMDLoss(VPSchedule(), teacher=teacher)(lambda x, times: x[:, :2] * times[:, :1], torch.zeros(8, 2), noise)
    assert torch.equal(asked[0], torch.arange(8) % 3)


def run_of(folder, teacher=None, **changes):
    recipe = replace(load_recipe("mixture2d-calibrated", SMALL), **changes)
    exact = Teacher("exact", MIXTURE.codec, lambda _: MIXTURE.denoise, "exact") if teacher is None else teacher
    return TrainingRun(recipe, MIXTURE, folder, teacher=exact)


def test_a_distillation_goes_on_bit_by_bit_and_with_its_own_teacher_alone(tmp_path):
    whole = run_of(tmp_path / "whole")(progress=False)
    run_of(tmp_path / "parts", steps=2)(progress=False)
    parts = run_of(tmp_path / "parts")(progress=False)
    weights = [load_file(path) for path in (whole, parts)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    other = Teacher("other", MIXTURE.codec, lambda _: MIXTURE.denoise, "other")
    with pytest.raises(TrainingError, match="other data"):
        run_of(tmp_path / "whole", other, steps=6)(progress=False)
    assert Sampler.from_pretrained(whole).spec.training["teacher"] == "exact"


def distil(*arguments):
    settings = [one for setting in SMALL for one in ("--set", setting)]
    return CliRunner().invoke(train_app, ["distill", *arguments, "--quiet", *settings])


def test_the_command_trains_on_the_teachers_own_samples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = distil("mixture2d-calibrated", "--teacher", "mixture2d", "--pool", "64")
    assert done.exit_code == 0, done.output
    assert "64 weighted samples [2], samples of mixture2d" in done.stdout
    spec = Sampler.from_pretrained("runs/mixture2d-calibrated-distilled/model.safetensors").spec
    assert (spec.training["teacher"], spec.training["pool"], spec.training["steps"]) == ("mixture2d", 64, 4)
    log = (tmp_path / "runs/mixture2d-calibrated-distilled/log.jsonl").read_text().splitlines()
    assert json.loads(log[0])["pool"] == 64


def test_the_pool_is_the_teachers_samples():
    sampler = Sampler.from_pretrained("mixture2d", device="cpu")
    pool = own_samples(sampler, Noise.of(3, 32))
    assert torch.equal(pool.samples.array, sampler.sample(32, seed=3))
    assert torch.equal(pool.log_weights, torch.zeros(32))


def test_the_command_trains_on_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = distil("mixture2d-calibrated", "--teacher", "mixture2d", "--data", "mixture2d", "--out", "here")
    assert done.exit_code == 0, done.output
    assert Sampler.from_pretrained("here/model.safetensors").spec.training["data"] == "mixture2d"


@pytest.mark.parametrize(
    ("recipe", "teacher", "said"),
    [
        ("mixture2d-local", "mixture2d", "has no flow to teach"),
        ("mnist-compact-ddpm", "mixture2d", "has no flow to teach"),
        ("mixture64", "mixture2d", r"is for samples of shape \[64\], and mixture2d knows \[2\]"),
        ("mixture64", "mixture64", "knows no E"),
        ("mixture2d", "mixture2e", "neither a file nor"),
        ("mixture2d", "mixture2d --set classes=3", "is for 3 classes, and mixture2d knows 0"),
        ("mixture2d", "mixture2d --pool 0", "pool must be"),
    ],
)
def test_what_does_not_go_together_is_one_line(recipe, teacher, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(train_app, ["distill", recipe, "--teacher", *teacher.split()])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert re.search(said, done.stderr), done.stderr
    assert not (tmp_path / "runs").exists()


def test_classes_need_data():
    spec = replace(Sampler.from_pretrained("mixture2d").spec, classes=Classes(3))
    with pytest.raises(InvalidArgumentError, match="the samples of a pool have none: give --data"):
        distilled_recipe(spec, "mixture2d", ("classes=3",), None)


def test_data_of_another_codec_than_the_teachers_are_refused(tmp_path):
    teacher = Teacher("scaled", VectorCodec((0.0, 0.0), (2.0, 2.0)), lambda _: MIXTURE.denoise, "")
    with pytest.raises(DataError, match="and scaled knows what"):
        run_of(tmp_path, teacher)(progress=False)


def test_vectors_are_seen_as_the_teacher_saw_them(tmp_path):
    codec = VectorCodec((1.0, -1.0), (2.0, 0.5))
    teacher = Teacher("scaled", codec, lambda _: MIXTURE.denoise, "")
    data = ArrayData("vectors", torch.arange(8.0).reshape(4, 2), VectorCodec())
    run = TrainingRun(load_recipe("mixture2d-calibrated", SMALL), data, tmp_path, teacher=teacher)
    assert torch.equal(run.seen.array, codec.encode(data.array))


def test_an_exported_model_does_not_teach():
    sampler = Sampler.from_pretrained("mixture2d", device="cpu")
    with pytest.raises(InvalidArgumentError, match="an exported model cannot teach"):
        teacher_of(Sampler(lambda x, times: x[:, :2], sampler.spec, sampler.device))
    assert teacher_of(sampler).digest == teacher_of(Sampler.from_pretrained("mixture2d", device="cpu")).digest
    assert isinstance(own_samples(sampler, Noise.of(0, 2)), WeightedData)
