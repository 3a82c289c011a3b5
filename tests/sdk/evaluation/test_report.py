"""The report: what it says of exact and of wrong posteriors, and the command that writes it."""

import io
import json
import sys

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from stmd_sdk.cli.certify import certify
from stmd_sdk.codecs.codec import PixelCodec, VectorCodec
from stmd_sdk.diffusion.vp import VPSchedule
from stmd_sdk.errors import InvalidArgumentError
from stmd_sdk.evaluation import MixturePosterior, control_certificates, kernel_certificate, mixture
from stmd_sdk.evaluation.certify import certify_model
from stmd_sdk.evaluation.controls import ScaledPosterior
from stmd_sdk.evaluation.coverage import HELDOUT_TIMES
from stmd_sdk.evaluation.features import FACTS_KEY, Classifier, ClassifierFacts
from stmd_sdk.evaluation.kernel import TIMES
from stmd_sdk.evaluation.plot import clouds, write_page
from stmd_sdk.evaluation.report import Report, report_files
from stmd_sdk.models.checkpoint import save_model
from stmd_sdk.models.objective import BY_KIND, STMD
from stmd_sdk.models.spec import ModelSpec
from stmd_sdk.models.tensors import write_tensors
from stmd_sdk.networks import MLPConfig, UNetConfig

SCHEDULE = VPSchedule()
PROBLEM = mixture("mixture2d")
FEW = {"pairs": 2000, "times": (0.3, 0.7)}


def report(posterior, **kwargs):
    certificate = kernel_certificate(posterior, PROBLEM, SCHEDULE, **(FEW | kwargs))
    controls = control_certificates(PROBLEM, SCHEDULE, pairs=1024, times=FEW["times"])
    return Report("exact", "mixture2d", 1, "cpu", certificate, controls)


def printed(report):
    console = Console(file=io.StringIO(), width=200)
    console.print(report.table())
    return console.file.getvalue()


@pytest.fixture(scope="module")
def exact():
    return report(MixturePosterior(PROBLEM, SCHEDULE), pairs=16384)


@pytest.mark.parametrize("out", ["found", "found.json", "found.png"])
def test_a_report_may_be_named_as_one_of_its_files(tmp_path, out):
    assert report_files(tmp_path / out, ".json", ".png") == [tmp_path / "found.json", tmp_path / "found.png"]
    assert report_files(tmp_path / "v1.2", ".json") == [tmp_path / "v1.2.json"]


def test_exact_draws_pass_and_the_table_says_so(exact):
    assert exact.passed
    text = printed(exact)
    assert "PASS" in text
    assert "0.97 to 1.03" in text
    for control in ("mean only", "spread × 0.95", "moment-matched"):
        assert f"control {control}: rejected by" in text


def test_shrunk_draws_fail_by_their_variance():
    shrunk = report(ScaledPosterior(PROBLEM, SCHEDULE, 0.9))
    assert not shrunk.passed
    assert "FAIL" in printed(shrunk)


def test_json_holds_every_finding_with_its_error(exact, tmp_path):
    exact.write_json(tmp_path / "certificate.json")
    facts = json.loads((tmp_path / "certificate.json").read_text())
    assert facts["verdict"] == "pass"
    assert (facts["pairs"], facts["draws"], facts["mean_flow_steps"]) == (16384, 8, 1)
    assert facts["environment"]["torch"] == torch.__version__
    ratio = [finding for finding in facts["findings"] if finding["measure"] == "variance ratio"]
    assert [finding["t"] for finding in ratio] == [0.3, 0.7]
    assert all(abs(finding["value"] - 1) < 5 * finding["standard_error"] for finding in ratio)
    assert all(control["rejected"] for control in facts["controls"].values())
    assert not any(control["within_tolerance"] for control in facts["controls"].values())


def test_an_instrument_that_misses_a_control_gives_no_verdict(exact):
    blind = Report("exact", "mixture2d", 1, "cpu", exact.certificate, {"an exact one": exact.certificate})
    with pytest.raises(InvalidArgumentError, match="cannot tell the control 'an exact one'"):
        _ = blind.passed


@pytest.mark.long
def test_the_page_is_one_picture(exact, tmp_path):
    write_page(exact, clouds(MixturePosterior(PROBLEM, SCHEDULE), PROBLEM, SCHEDULE), tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as page:
        assert min(page.size) > 800
        assert len(page.convert("L").getcolors()) > 50  # not an empty sheet


@pytest.mark.long
def test_the_clouds_of_the_exact_posterior_have_the_oracles_moments():
    problem = mixture("mixture8")
    shown = clouds(MixturePosterior(problem, SCHEDULE), problem, SCHEDULE, t=0.3)
    n = shown.model.shape[1]
    scale = shown.oracle.std(dim=1)
    assert ((shown.model.mean(dim=1) - shown.oracle.mean(dim=1)).abs() < 4.5 * scale * (2 / n) ** 0.5).all()


def untrained(path, *, name="mixture2d", shape=(2,), objective="stmd"):
    image = len(shape) == 3
    network = UNetConfig(channels=(8, 8), attention=(), groups=4, embedding_width=16) if image else MLPConfig(32, 1)
    codec = PixelCodec() if image else VectorCodec()
    spec = ModelSpec(name, STMD("residual") if objective == "stmd" else BY_KIND[objective](), shape, network, codec)
    save_model(path, spec, spec.build_network().state_dict())
    return str(path)


def run(*arguments):
    app = typer.Typer()
    app.command()(certify)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_an_untrained_model_fails_and_both_files_are_written(tmp_path):
    model = untrained(tmp_path / "model.safetensors")
    result = run(model, "--out", tmp_path / "found", "--pairs", 1000)
    assert result.exit_code == 1
    assert "FAIL" in result.stdout
    facts = json.loads((tmp_path / "found.json").read_text())
    assert facts["verdict"] == "fail"
    assert sorted({finding["t"] for finding in facts["findings"]}) == list(TIMES)
    assert (tmp_path / "found.png").stat().st_size > 10000


def test_an_image_model_is_certified_on_held_out_digits(tmp_path):
    model = untrained(tmp_path / "model.safetensors", name="digits", shape=(1, 8, 8))
    report = certify_model(model, out=tmp_path / "found")
    assert not report.passed
    assert {finding.measure for finding in report.certificate.findings} >= {"projection coverage", "pixel coverage"}
    assert report.certificate.pairs == 297
    assert json.loads((tmp_path / "found.json").read_text())["variety"]["says"] == str(report.variety)
    assert (tmp_path / "found.png").is_file()


def test_a_report_says_what_exact_draws_show_by_chance(exact, tmp_path):
    found = next(one for one in exact.certificate.findings if one.measure == "TARP")
    # Kolmogorov's mean and quantile, at eight levels a little less.
    chance, most = 0.69 / 16384**0.5, 1.14 / 16384**0.5
    assert (found.estimate.chance, found.estimate.band) == pytest.approx((chance, most), rel=0.05)
    assert f"{found.estimate.chance:.3f}, 95 % below {found.estimate.band:.3f}" in printed(exact)
    exact.write_json(tmp_path / "certificate.json")
    facts = json.loads((tmp_path / "certificate.json").read_text())["findings"]
    of = {one["measure"]: (one["exact_draws"], one["band_95"]) for one in facts if one["t"] == found.t}
    assert of["TARP"] == (found.estimate.chance, found.estimate.band)
    assert of["variance ratio"][0] == 1


def test_images_that_no_bundled_classifier_sees_get_a_line_or_a_classifier(tmp_path):
    model = untrained(tmp_path / "model.safetensors", name="digits", shape=(1, 8, 8))
    result = run(model, "--out", tmp_path / "without", "--pairs", 100)
    assert "no bundled classifier sees 1x8x8 images" in " ".join(result.stdout.split())
    facts, own = ClassifierFacts((1, 8, 8), "digits", 10, 0.9, 1, 0), tmp_path / "own.safetensors"
    write_tensors(own, Classifier(facts.shape, facts.classes).state_dict(), {FACTS_KEY: facts.to_json()})
    report = certify_model(model, out=tmp_path / "with", pairs=100, features=str(own))
    seen = [one for one in report.certificate.findings if one.measure == "feature coverage"]
    assert [one.t for one in seen] == list(HELDOUT_TIMES)
    assert report.notes == ()


def test_refusals_exit_with_2_and_write_nothing(tmp_path):
    vector = untrained(tmp_path / "vector.safetensors")
    image = untrained(tmp_path / "image.safetensors", name="digits", shape=(1, 8, 8))
    np.savez(tmp_path / "own.npz", np.zeros((200, 2), np.float32))
    unsplit = untrained(tmp_path / "unsplit.safetensors", name=str(tmp_path / "own.npz"))
    point = untrained(tmp_path / "point.safetensors", objective="ddpm")
    refusals = {
        (vector, "--pairs", 300): "too few",
        (vector, "--data", "mixture64"): "--data",
        (vector, "--mean-flow-steps", 0): "mean_flow_steps",
        (point,): "identical draws",
        (image, "--features", "mnist"): "sees images of shape [1, 28, 28], the samples have [1, 8, 8]",
        (vector, "--features", "mnist"): "features: are of held-out images",
        (image, "--features", "mnist", "--posterior", "sr2"): "leave out --data, --labelled and --features",
        (tmp_path / "absent",): "no model",
        (image, "--pairs", -5): "pairs must be an integer of at least 1",
        (unsplit,): "has no test split and the model was trained on it",
    }
    for arguments, message in refusals.items():
        result = run(*arguments, "--out", tmp_path / "found")
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.split())
    assert not list(tmp_path.glob("found*"))


def test_a_report_without_a_name_or_matplotlib_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("mixture2d", "--out", ".")
    assert result.exit_code == 2
    assert "name the report" in " ".join(result.stderr.split())
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run(tmp_path / "absent")
    assert result.exit_code == 2
    assert "stmd-sdk[plot]" in "".join(result.stderr.split())
