"""Calibration of solvers: exact draws pass, wrong ones do not, and what is no solver is refused."""

import json

import pytest
import torch
from typer.testing import CliRunner

from stmd_sdk import InvalidArgumentError, Noise, Sampler
from stmd_sdk.cli.app import app
from stmd_sdk.evaluation import conditioned, mixture, solved_pairs, solver_certificate
from stmd_sdk.evaluation.posterior_report import certify_posterior
from stmd_sdk.evaluation.solver import SOLVER_LEVEL
from stmd_sdk.operators import GaussianNoise, Matrix, gaussian_projections

LAW, OPERATOR, NOISE = mixture("mixture64"), gaussian_projections((64,), 16, 123), GaussianNoise(0.1)


def _exact(y, noise, draws):
    assert draws == len(noise)
    posterior, _ = conditioned(LAW, OPERATOR.matrix, y[0], 0.1)
    return posterior.sample(noise)


@pytest.fixture(scope="module")
def solved():
    return solved_pairs(_exact, LAW.sample(Noise.of(100, 200)), OPERATOR, NOISE, seed=1)


def _rejected(certificate):
    return {finding.measure for finding in certificate.rejected(SOLVER_LEVEL)}


def test_exact_draws_pass_and_a_twentieth_too_narrow_they_do_not(solved):
    certificate = solved.certificate()
    assert (certificate.pairs, certificate.draws, len(certificate.tests)) == (200, 59, 5)
    assert not _rejected(certificate)
    assert "distance" in _rejected(solved.shrunk(0.95).certificate())
    assert "distance" in _rejected(solved.shrunk(1.05).certificate())
    assert not _rejected(solved.shrunk(1.0).certificate())


@pytest.mark.long
def test_p_values_of_exact_draws_are_uniform():
    """Of 24 calibrations of a Gaussian line, each measure's p-values: their mean is ½, and 1 in 10 is below 0.1."""
    law, matrix = mixture("mixture3"), Matrix(torch.tensor([[1.2, -0.8]]), (2,))
    values: dict[str, list[float]] = {}

    def exact(y, noise, draws):
        return conditioned(law, matrix.matrix, y[0], 0.2)[0].sample(noise)

    for seed in range(24):
        x = law.sample(Noise.of(500 + seed, 60))
        for finding in solver_certificate(exact, x, matrix, GaussianNoise(0.2), draws=19, seed=seed).findings:
            values.setdefault(finding.measure, []).append(finding.p_value)
    for measure, found in values.items():
        p = torch.tensor(found)
        assert abs(p.mean() - 0.5) < 4 * 0.289 / 24**0.5, measure
        assert (p < 0.1).float().mean() < 0.1 + 3.5 * 0.0612, measure


def _shifted(y, noise, draws):
    return _exact(y, noise, draws) + 0.3


def _of_the_prior(y, noise, draws):
    return LAW.sample(noise)


def _trusting(y, noise, draws):
    return conditioned(LAW, OPERATOR.matrix, y[0], 0.05)[0].sample(noise)


@pytest.mark.parametrize(
    ("solver", "seen"),
    [(_shifted, "projections"), (_of_the_prior, "log-likelihood"), (_trusting, "log-likelihood")],
)
def test_each_fault_is_seen_by_the_measure_that_looks_for_it(solver, seen):
    x = LAW.sample(Noise.of(100, 100))
    assert seen in _rejected(solver_certificate(solver, x, OPERATOR, NOISE, draws=19))


def test_what_is_no_solver_is_refused(as_users_call):
    x = LAW.sample(Noise.of(0, 20))
    for solver, message in [
        (lambda y, noise, draws: torch.zeros(draws, 63), r"gave \[19, 63\]"),
        (lambda y, noise, draws: torch.zeros(draws - 1, 64), r"gave \[18, 64\]"),
        (lambda y, noise, draws: torch.full((draws, 64), torch.nan), "NaN or infinity"),
    ]:
        with pytest.raises(InvalidArgumentError, match=message):
            solver_certificate(solver, x, OPERATOR, NOISE, draws=19)
    for bad in ({"draws": 20}, {"draws": 9}):
        with pytest.raises(InvalidArgumentError, match="draws"):
            solver_certificate(_exact, x, OPERATOR, NOISE, **bad)
    with pytest.raises(InvalidArgumentError, match="pairs"):
        solver_certificate(_exact, x[:19], OPERATOR, NOISE)


@pytest.mark.parametrize("resample", [False, True])
def test_a_models_gibbs_draws_are_calibrated_against_its_own_law(tmp_path, resample):
    """The bundled ring: annealed or resampled draws at few pairs; the report is what was found."""
    report = certify_posterior(
        "mixture2d", "projections:1", out=tmp_path / "x", pairs=20, steps=None if resample else 10, resample=resample
    )
    assert report.passed
    written = json.loads((tmp_path / "x.json").read_text())
    assert (written["verdict"], written["pairs"], written["resampled"]) == ("pass", 20, resample)
    assert [one["p_value"] for one in written["findings"]] == [one.p_value for one in report.certificate.findings]


def test_a_law_that_is_not_the_solvers_prior_fails():
    """x of one place of the ring, draws of the whole."""
    sampler = Sampler.from_pretrained("mixture2d", device="cpu")
    x = sampler.sample(60, seed=0)
    x = torch.where(x[:, :1] > 0, x, -x)

    def solver(y, noise, draws):
        return sampler.sample(draws, seed=noise)

    matrix = Matrix(torch.tensor([[0.0, 1.0]]), (2,))
    assert _rejected(solver_certificate(solver, x, matrix, GaussianNoise(2.0), draws=19))


@pytest.mark.long
def test_the_command_prints_a_verdict_and_refuses_what_makes_no_sense(tmp_path):
    def run(*arguments):
        found = CliRunner().invoke(app, ["certify", *map(str, arguments), "--out", str(tmp_path / "y")])
        return found.exit_code, " ".join(found.output.split())

    code, output = run("mixture2d", "--posterior", "projections:1", "--pairs", 20)
    assert code == 0, output
    assert "PASS: no measure tells x from its draws" in output
    assert "control, the same draws 0.95 times as far from their mean" in output
    for arguments, message in [
        (("mixture2d", "--posterior", "sr2"), "projections[:COUNT]"),
        (("mixture2d", "--posterior", "projections:3"), "count"),
        (("digits", "--posterior", "sr3"), "one of stmd restore's operators"),
        (("digits", "--posterior", "sr2", "--sigma", 0), "sigma"),
        (("digits", "--posterior", "sr2", "--pairs", 5), "pairs"),
        (("digits", "--posterior", "sr2", "--labelled"), "leave out --data and --labelled"),
        (("mixture2d", "--resample"), "are of --posterior"),
    ]:
        code, output = run(*arguments)
        assert code == 2, output
        assert message in output
