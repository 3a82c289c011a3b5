"""A reduced precision beside float32: rounding that cannot be told passes, what changes the law fails."""

import json
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from stmd_sdk import InvalidArgumentError, Sampler
from stmd_sdk.cli.app import app
from stmd_sdk.evaluation import Certificate, Estimate, Finding, kernel_certificate, mixture
from stmd_sdk.evaluation import reduced as module
from stmd_sdk.evaluation.reduced import Difference, PrecisionReport, certify_precision

FEW = {"samples": 1024}


def _finding(value):
    return Finding("variance ratio", 0.3, Estimate(value, 0.01, 0.02), 1.0, tolerance=0.03)


def _report(p_value, full, reduced):
    none = Difference(0.0, 0.0, 1.0)
    certificates = (Certificate((_finding(value),), 100, 4, 0, 1.0) for value in (full, reduced))
    return PrecisionReport("m, bfloat16", "m, float32", "data", none, none, 4096, p_value, *certificates)


@pytest.mark.parametrize(
    ("p_value", "full", "reduced", "passes"),
    [(0.5, 1.0, 1.01, True), (1e-4, 1.0, 1.0, False), (0.5, 1.0, 1.2, False), (0.5, 1.2, 1.2, True)],
)
def test_what_float32_passes_has_to_pass(p_value, full, reduced, passes):
    assert _report(p_value, full, reduced).passed == passes


def test_differences_are_the_largest_and_the_root_mean_squares():
    found = Difference.of(torch.tensor([[1.0, 4.0], [2.0, 2.0]]), torch.tensor([[1.0, 1.0], [-2.0, 2.0]]))
    assert (found.maximum, found.rms, found.scale) == (4.0, 2.5, pytest.approx(2.5**0.5))


def _quick(sampler, *_, controlled):
    """The certificate at one time."""
    posterior = sampler.spec.build_posterior(sampler.network, 1)
    found = kernel_certificate(posterior, mixture("mixture2d"), sampler.spec.schedule, pairs=1024, times=(0.3,))
    return SimpleNamespace(certificate=found, data="mixture2d"), None


def _narrowed(monkeypatch, factor):
    """The reduced model's output times ``factor``, in place of a rounding."""
    monkeypatch.setattr(module, "report_on", _quick)
    load = Sampler.from_pretrained

    def from_pretrained(model, dtype=torch.float32):
        sampler = load(model)
        if dtype == torch.float32:
            return sampler
        network = sampler.network
        return Sampler(lambda x, times: factor * network(x, times), sampler.spec, sampler.device)

    monkeypatch.setattr(Sampler, "from_pretrained", from_pretrained)


def test_the_model_itself_passes_without_a_difference(monkeypatch, tmp_path):
    _narrowed(monkeypatch, 1.0)
    report = certify_precision("mixture2d", "bfloat16", out=tmp_path / "x", **FEW)
    assert report.passed
    assert (report.evaluation.maximum, report.samples.maximum) == (0, 0)
    assert report.full.findings == report.certificate.findings


def test_another_law_is_told_apart_and_said_why(monkeypatch, tmp_path):
    _narrowed(monkeypatch, 0.2)
    report = certify_precision("mixture2d", "bfloat16", out=tmp_path / "x", **FEW)
    assert report.p_value < 1e-3
    assert report.evaluation.rms == pytest.approx(0.8 * report.evaluation.scale, rel=1e-5)
    assert report.worse
    facts = json.loads((tmp_path / "x.json").read_text())
    assert facts["verdict"] == "fail"
    assert [one["within"] for one in facts["reduced"]] == [one.within for one in report.certificate.findings]


@pytest.mark.long
def test_the_command_writes_what_bfloat16_does_to_a_bundled_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(app, ["certify", "mixture2d", "--dtype", "bfloat16", "--pairs", "1024"])
    facts = json.loads((tmp_path / "mixture2d-bfloat16.json").read_text())
    assert ran.exit_code == (facts["verdict"] == "fail"), ran.output
    assert facts["two_sample"]["samples"] == 4096
    assert 1e-4 < facts["evaluation"]["rms"] < 0.05  # eight bits of mantissa


def test_what_is_no_reduced_model_is_refused(tmp_path):
    with pytest.raises(InvalidArgumentError, match="bfloat16 or float16"):
        certify_precision("mixture2d", "int8", out=tmp_path / "x")
    with pytest.raises(InvalidArgumentError, match="specs differ"):
        certify_precision("mixture2d", "bfloat16", against="mixture64", out=tmp_path / "x")
    both = CliRunner().invoke(app, ["certify", "mixture2d", "--dtype", "bfloat16", "--against", "own-denoiser"])
    assert both.exit_code == 2
    assert not list(tmp_path.iterdir())
