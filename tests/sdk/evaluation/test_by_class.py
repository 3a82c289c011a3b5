"""Laws of what is measured by class: exact conditional draws pass given their labels, and are told from others."""

import io
import json
import math

import numpy as np
import pytest
import torch
from rich.console import Console

from stmd_sdk import InvalidArgumentError, ModelSpec, Noise, Sampler
from stmd_sdk.codecs.codec import VectorCodec
from stmd_sdk.data.arrays import ArrayData
from stmd_sdk.diffusion.classes import Classes
from stmd_sdk.evaluation.by_class import class_figures, without_class
from stmd_sdk.evaluation.certify import certify_model
from stmd_sdk.evaluation.features import Features
from stmd_sdk.evaluation.quality import Reference
from stmd_sdk.models.objective import STMD
from stmd_sdk.networks import MLPConfig

CLASSES = Classes(2, ("left", "right"))
SPEC = ModelSpec("sides", STMD(), (2,), MLPConfig(width=8, depth=1), VectorCodec(), classes=CLASSES)
MEANS = torch.tensor([[-1.5, 0.0], [1.5, 0.0], [0.0, 0.0]])


def side(x, times):
    """The exact one-step draw of N(MEANS[c], 0.4² I), given x_t."""
    (z, x_t), (_, _, t, labels) = x.chunk(2, dim=1), times.unbind(1)
    means, alpha, variance = MEANS[labels.long()], SPEC.schedule.alpha(t)[:, None], SPEC.schedule.variance(t)[:, None]
    total = alpha**2 * 0.16 + variance
    return z - (means + alpha * 0.16 / total * (x_t - alpha * means) + 0.4 * (variance / total).sqrt() * z)


def points(n, seed=0):
    labels = (Noise.of(seed, n).fold(1).uniform() < 0.5).long()
    return MEANS[labels] + 0.4 * Noise.of(seed, n).normal(2), labels


@pytest.mark.parametrize(("given", "passes"), [("own", True), ("other", False), ("none", False)])
def test_the_certificate_given_labels_passes_exact_draws_of_those_labels_alone(tmp_path, monkeypatch, given, passes):
    x, labels = points(1024)
    labels = 1 - labels if given == "other" else labels
    np.savez(tmp_path / "held_out.npz", x=x.numpy(), labels=labels.numpy())
    monkeypatch.setattr(Sampler, "from_pretrained", lambda model: Sampler(side, SPEC, torch.device("cpu")))
    out = tmp_path / "found"
    report = certify_model("sides", str(tmp_path / "held_out.npz"), out=out, labelled=given != "none")
    assert report.passed is passes
    said = json.loads((tmp_path / "found.json").read_text())["data"]
    assert said == ("held_out.npz" if given == "none" else "held_out.npz, given its labels")


def test_the_certificate_shows_each_class_and_finds_the_one_that_is_wrong(tmp_path, monkeypatch):
    def one_wrong(x, times):
        u, z = side(x, times), x[:, :2]
        wrong = times[:, 3:] == 1
        return torch.where(wrong, z - (z - u).mean(0, keepdim=True), u)  # draws of class 1 without their spread

    x, labels = points(1024)
    np.savez(tmp_path / "held_out.npz", x=x.numpy(), labels=labels.numpy())
    monkeypatch.setattr(Sampler, "from_pretrained", lambda model: Sampler(one_wrong, SPEC, torch.device("cpu")))
    report = certify_model("sides", str(tmp_path / "held_out.npz"), out=tmp_path / "found", labelled=True)
    by_class = {
        name: [one for one in report.certificate.findings if one.measure.endswith(f" of {name}")]
        for name in CLASSES.names
    }
    assert [len(found) for found in by_class.values()] == [5, 5]
    assert all(abs(found.estimate.value - 0.9) < 0.05 for found in by_class["left"])
    assert all(found.estimate.value < 0.5 for found in by_class["right"])
    assert all(found.tolerance is None for found in by_class["left"])
    spread = report.spread_of_classes
    assert abs(spread["left"].value - 1) < 4 * spread["left"].error
    assert spread["right"].value < 0.1
    console = Console(file=io.StringIO(), width=200)
    console.print(report.table())
    assert f"Spread over skill at t = 1, by class: left {spread['left'].value:.2f}" in console.file.getvalue()
    facts = json.loads((tmp_path / "found.json").read_text())["spread_skill_of_classes"]
    assert facts["right"]["value"] == spread["right"].value


def test_labels_for_a_model_without_classes_are_refused(tmp_path):
    with pytest.raises(InvalidArgumentError, match="labelled: digits has no classes"):
        certify_model("digits", out=tmp_path / "x", labelled=True)


def test_figures_of_classes_are_those_of_the_samples():
    n = 400
    real, labels = points(n, 1)
    logits = torch.nn.functional.one_hot(labels, 2).float()
    figures = class_figures(logits, real, real, labels)
    assert figures.agreement == 1.0
    assert figures.entropy == pytest.approx(math.log(2), abs=0.01)
    assert figures.frechet == pytest.approx((0.0, 0.0), abs=1e-6)
    shifted = class_figures(logits.flip(1), real + torch.tensor([3.0, 0.0]), real, labels)
    assert shifted.agreement == 0.0
    assert shifted.frechet == pytest.approx((9.0, 9.0), rel=1e-4)
    assert class_figures(logits[labels == 0], real[labels == 0], real[labels == 0], None).entropy == 0.0
    torn = torch.tensor([[1.0, 1.0, 1.0, 1.0], [9.0, 0.0, 0.0, 0.0], [2.0, 2.1, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0]])
    assert without_class(torn) == class_figures(torn, real[:4], real[:4], None).without == 0.5  # the last is e³ : 3
    few = class_figures(logits[:3], real[:3], real[:3], torch.tensor([0, 1, 1]))
    assert few.frechet == (None, None)


def test_a_reference_measures_the_samples_of_its_own_labels():
    x, labels = points(600, 2)
    data = ArrayData("points", x, VectorCodec(), labels, ("right", "left"))  # the data's own order of names
    features = Features("sides", lambda x: x, lambda x: torch.stack([-x[:, 0], x[:, 0]], dim=1))
    rows = torch.arange(599, -1, -1)
    against = Reference("points", (2,), features, x[rows], None, real=data, rows=rows)
    wanted = against.labels_for(CLASSES)
    assert torch.equal(wanted, 1 - labels[rows])
    sampler = Sampler(side, SPEC, torch.device("cpu"))
    right = against.measure(lambda n: sampler.sample(n, labels=wanted, seed=0), 4, 1, 0, wanted).classes
    other = against.measure(lambda n: sampler.sample(n, labels=1 - wanted, seed=0), 4, 1, 0, wanted).classes
    assert right.agreement > 0.99
    assert other.agreement < 0.01
    with pytest.raises(InvalidArgumentError, match="the model has no classes"):
        against.labels_for(None)
    with pytest.raises(InvalidArgumentError, match="made without labels"):
        Reference("points", (2,), features, x, None).labels_for(CLASSES)
