"""The certificate against exact posteriors and wrong ones.

The level over 200 null runs was measured apart (docs); here a few runs must agree with it.
"""

import dataclasses
import re

import pytest
import torch

from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.diffusion.vp import VPSchedule
from stmd_sdk.errors import InvalidArgumentError
from stmd_sdk.evaluation import (
    GaussianMixture,
    MixturePosterior,
    control_certificates,
    control_posteriors,
    kernel_certificate,
    mixture,
)
from stmd_sdk.evaluation.controls import MomentMatchedPosterior, ScaledPosterior
from stmd_sdk.evaluation.finding import Finding
from stmd_sdk.evaluation.kernel import PAIRS, conditional_energy
from stmd_sdk.evaluation.oracle import oracle_pairs, responsibilities
from stmd_sdk.evaluation.statistics import Estimate

SCHEDULE = VPSchedule()
PROBLEM = mixture("mixture2d")
FEW = {"pairs": 1000, "times": (0.2, 0.7)}


def found(certificate, measure):
    return [finding for finding in certificate.findings if finding.measure == measure]


def full_covariances():
    factor = Noise.of(5, 3).normal(3, 3).double()
    covariances = factor @ factor.mT / 3 + 0.1 * torch.eye(3)
    return GaussianMixture(
        torch.tensor([0.5, 0.3, 0.2]), 1.5 * Noise.of(6, 3).normal(3), covariances, "full covariances"
    )


def test_exact_draws_are_seldom_rejected_and_their_p_values_are_uniform():
    exact = MixturePosterior(PROBLEM, SCHEDULE)
    certificates = [kernel_certificate(exact, PROBLEM, SCHEDULE, seed=seed, **FEW) for seed in range(12)]
    # At level 0.05, P(more than 3 of 12) = 0.002.
    assert sum(bool(certificate.rejected()) for certificate in certificates) <= 3
    p_values = torch.tensor([test.p_value for certificate in certificates for test in certificate.tests])
    for level in (0.1, 0.5, 0.9):
        share, error = float((p_values < level).float().mean()), (level * (1 - level) / len(p_values)) ** 0.5
        assert abs(share - level) < 4 * error


@pytest.mark.parametrize("problem", [PROBLEM, mixture("mixture3"), mixture("mixture8"), full_covariances()])
def test_every_control_is_rejected_and_out_of_tolerance(problem):
    certificates = control_certificates(problem, SCHEDULE, pairs=1024, times=(0.1, 0.5, 1.0))
    assert set(certificates) == {"mean only", "spread × 0.95", "moment-matched"}
    for certificate in certificates.values():
        assert certificate.rejected()
        assert not all(finding.within for finding in certificate.findings)


def test_a_shrink_of_five_per_cent_is_found_at_every_t_from_4000_pairs():
    shrunk = ScaledPosterior(PROBLEM, SCHEDULE, 0.95)
    certificate = kernel_certificate(shrunk, PROBLEM, SCHEDULE, pairs=4000)
    rejected = {finding.t for finding in certificate.rejected() if finding.measure == "variance ratio"}
    assert rejected == {0.1, 0.2, 0.3, 0.5, 0.7, 1.0}
    for finding in found(certificate, "variance ratio"):
        assert abs(finding.estimate.value - 0.95**2) < 4 * finding.estimate.error


def test_one_gaussian_alone_is_its_own_moment_match():
    alone = GaussianMixture.isotropic(torch.zeros(1, 2), 1.3)
    assert "moment-matched" not in control_posteriors(alone, SCHEDULE)
    certificate = kernel_certificate(MomentMatchedPosterior(alone, SCHEDULE), alone, SCHEDULE, **FEW)
    assert not certificate.rejected()


def test_moment_matched_draws_have_the_exact_mean_and_covariance():
    problem, n = full_covariances(), 20000
    x_t = torch.tensor([[0.3, -0.2, 0.5]]).repeat(n, 1)
    t = torch.full((n,), 0.6)
    matched = MomentMatchedPosterior(problem, SCHEDULE)(x_t, t, Noise.of(0, n))
    exact = MixturePosterior(problem, SCHEDULE)(x_t, t, Noise.of(1, n))
    scale = exact.std(dim=0).max()
    assert (matched.mean(dim=0) - exact.mean(dim=0)).abs().max() < 4.5 * scale * (2 / n) ** 0.5
    assert (torch.cov(matched.T) - torch.cov(exact.T)).abs().max() < 4.5 * scale**2 * (6 / n) ** 0.5


def test_moment_matched_draws_may_mix_times():
    matched = MomentMatchedPosterior(PROBLEM, SCHEDULE)
    x_t, noise = Noise.of(0, 6).normal(2), Noise.of(1, 6)
    mixed = matched(x_t, torch.tensor([0.2, 0.9] * 3), noise)
    early, late = matched(x_t, torch.full((6,), 0.2), noise), matched(x_t, torch.full((6,), 0.9), noise)
    assert torch.allclose(mixed[::2], early[::2], atol=1e-6)
    assert torch.allclose(mixed[1::2], late[1::2], atol=1e-6)


def test_the_oracle_of_pairs_is_the_mixtures_posterior():
    problem = full_covariances()
    pairs = oracle_pairs(problem, SCHEDULE, 0.4, Noise.of(0, 3000))
    exact = problem.component_posterior(pairs.x_t, 0.4, SCHEDULE)
    assert torch.allclose(pairs.mass, exact.log_responsibilities.exp(), atol=1e-5)
    assert torch.allclose(pairs.trace, problem.posterior_covariance_trace(pairs.x_t, 0.4, SCHEDULE), rtol=1e-4)
    assert torch.equal(pairs.oracle[0], pairs.x_0)
    # Truth and draws share one law given x_t: their mean masses over modes agree with p(j | x_t).
    for draws in pairs.oracle:
        gap = responsibilities(problem, SCHEDULE, draws) - pairs.mass
        assert (gap.mean(dim=0).abs() < 4.5 * gap.std(dim=0) / 3000**0.5).all()


def test_conditional_energy_is_the_double_sum():
    y, o = Noise.of(0, 5).draws(3).normal(2).reshape(3, 5, 2), Noise.of(1, 5).draws(2).normal(2).reshape(2, 5, 2)
    value, scale = conditional_energy(y, o)
    for i in range(5):
        cross = sum((a - b).norm() for a in y[:, i] for b in o[:, i]) / 6
        own = sum((a - b).norm() for a in y[:, i] for b in y[:, i]) / 6
        other = (o[0, i] - o[1, i]).norm()
        assert value[i] == pytest.approx(float(2 * cross - own - other), abs=1e-5)
        assert scale[i] == pytest.approx(float(other))


def test_the_two_steps_of_a_point_estimate_disagree():
    # Its variance: none in one step, the bridge's in two.
    certificate = control_certificates(PROBLEM, SCHEDULE, **FEW)["mean only"]
    for finding in found(certificate, "two steps"):
        assert finding.estimate.value > 0.1
        assert finding.p_value < 1e-10


def test_mode_mass_sees_draws_that_ignore_x_t_though_each_mode_keeps_its_share():
    def prior(x_t, t, noise, /):
        return PROBLEM.sample(noise)

    certificate = kernel_certificate(prior, PROBLEM, SCHEDULE, **FEW)
    early, _ = found(certificate, "mode mass")
    assert early.estimate.value > 0.3  # the likeliest mode holds half and more, and gets an eighth
    assert all(finding.estimate.value > 1.5 for finding in found(certificate, "variance ratio")[:1])


def test_a_certificate_is_a_function_of_its_seed():
    exact = MixturePosterior(PROBLEM, SCHEDULE)
    first, again, other = (kernel_certificate(exact, PROBLEM, SCHEDULE, seed=s, **FEW) for s in (0, 0, 1))
    assert first.findings == again.findings
    assert first.findings != other.findings


def test_verdicts_need_enough_pairs_and_say_how_many():
    exact = MixturePosterior(PROBLEM, SCHEDULE)
    certificate = kernel_certificate(exact, PROBLEM, SCHEDULE, **FEW)
    with pytest.raises(InvalidArgumentError, match=r"too few for a verdict.*about \d+ pairs are needed"):
        _ = certificate.passed
    with pytest.raises(InvalidArgumentError, match=f"at least 1000 pairs.*and {PAIRS} pairs for a"):
        kernel_certificate(exact, PROBLEM, SCHEDULE, pairs=100)
    with pytest.raises(InvalidArgumentError, match="with 4 draws are needed"):
        kernel_certificate(exact, PROBLEM, SCHEDULE, draws=2)


def test_the_pairs_that_a_verdict_names_suffice_for_it():
    exact = MixturePosterior(PROBLEM, SCHEDULE)
    with pytest.raises(InvalidArgumentError, match="too few for a verdict") as refusal:
        _ = kernel_certificate(exact, PROBLEM, SCHEDULE, pairs=4300, times=(0.1, 0.5)).passed
    needed = int(re.search(r"about (\d+) pairs", str(refusal.value))[1])
    assert 4300 < needed < PAIRS
    certificate = kernel_certificate(exact, PROBLEM, SCHEDULE, pairs=needed + needed // 20, times=(0.1, 0.5))
    assert certificate.passed


def test_a_distance_below_zero_is_noise_and_no_fault():
    below = Finding("two steps", 0.5, Estimate(-0.03, 0.01, 0.019), 0.0, tolerance=0.02, one_sided=True)
    above = dataclasses.replace(below, estimate=Estimate(0.03, 0.01, 0.019))
    assert below.within
    assert not above.within
    exact = kernel_certificate(MixturePosterior(PROBLEM, SCHEDULE), PROBLEM, SCHEDULE, **FEW)
    for measure in ("energy distance", "two steps"):
        assert all(finding.one_sided for finding in found(exact, measure))


def test_the_conditional_energy_does_not_depend_on_where_the_data_lie():
    y, o = Noise.of(0, 200).draws(32).normal(2).reshape(32, 200, 2), Noise.of(1, 200).draws(2).normal(2)
    y, o = y / 8, o.reshape(2, 200, 2) / 8  # so many draws that cdist would multiply matrices
    here, there = conditional_energy(y, o)[0].mean(), conditional_energy(y + 256, o + 256)[0].mean()
    assert float(here) == pytest.approx(float(there), abs=1e-4)


def test_exact_draws_pass_at_the_default_number_of_pairs():
    exact = MixturePosterior(PROBLEM, SCHEDULE)
    assert kernel_certificate(exact, PROBLEM, SCHEDULE, times=(0.1, 0.5)).passed


def test_unusable_samplers_get_no_certificate():
    with pytest.raises(InvalidArgumentError, match="identical draws"):
        kernel_certificate(lambda x_t, t, noise: x_t, PROBLEM, SCHEDULE, **FEW)
    with pytest.raises(InvalidArgumentError, match="NaN"):
        kernel_certificate(lambda x_t, t, noise: x_t * torch.nan, PROBLEM, SCHEDULE, **FEW)
    with pytest.raises(InvalidArgumentError, match="shape"):
        kernel_certificate(lambda x_t, t, noise: noise.normal(3), PROBLEM, SCHEDULE, **FEW)
    for times in ((), (0.0, 0.5), (0.5, 1.1)):
        with pytest.raises(InvalidArgumentError, match=r"times must be numbers in \(0, 1\]"):
            control_certificates(PROBLEM, SCHEDULE, times=times)
