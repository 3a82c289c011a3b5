"""The certificate on held-out data, where only joint draws are known."""

import pytest
import torch

from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.diffusion.vp import VPSchedule
from stmd_sdk.errors import InvalidArgumentError
from stmd_sdk.evaluation import MixturePosterior, heldout_certificate, mixture
from stmd_sdk.evaluation.controls import ScaledPosterior
from stmd_sdk.evaluation.coverage import coverage_p_value
from stmd_sdk.evaluation.statistics import normal_p_value, ratio_estimate

SCHEDULE = VPSchedule()
SIDE = 5
# Images with a constant border at -1 and an interior N(0, I): their exact posterior is known pixel by pixel.
INSIDE = torch.zeros(1, SIDE, SIDE)
INSIDE[:, 1:-1, 1:-1] = 1


def images(n, seed=0):
    return torch.where(INSIDE > 0, Noise.of(seed, n).normal(1, SIDE, SIDE), -torch.ones(()))


def posterior(spread=1.0, speckle=0.0):
    def draw(x_t, t, noise, /):
        alpha, sigma = (value.reshape(-1, 1, 1, 1) for value in (SCHEDULE.alpha(t), SCHEDULE.sigma(t)))
        noise_inside = spread * noise.fold(0).normal(1, SIDE, SIDE)
        border = -1 + speckle * noise.fold(1).normal(1, SIDE, SIDE)
        return torch.where(INSIDE > 0, alpha * x_t + sigma * noise_inside, border)

    return draw


def exact_vectors(x_t, t, noise, /):
    return SCHEDULE.alpha(t)[:, None] * x_t + SCHEDULE.sigma(t)[:, None] * noise.normal(*x_t.shape[1:])


def certificate(n=600, **wrong):
    return heldout_certificate(posterior(**wrong), images(n), SCHEDULE, 1.0, times=(0.3, 0.8))


def values(certificate, measure):
    return [finding.estimate for finding in certificate.findings if finding.measure == measure]


def test_exact_draws_pass_with_a_constant_border():
    exact = certificate()
    assert exact.passed
    assert not exact.rejected()
    for measure, target in (("projection coverage", 0.9), ("pixel coverage", 0.9), ("spread-skill", 1.0)):
        for found in values(exact, measure):
            assert abs(found.value - target) < 4 * found.error


def test_narrow_draws_fail_with_every_measure_but_the_score():
    narrow = certificate(spread=0.8)
    assert not narrow.passed
    assert {finding.measure for finding in narrow.rejected()} >= {
        "projection coverage",
        "pixel coverage",
        "spread-skill",
        "ranks",
    }
    for found, exact in zip(values(narrow, "CRPS"), values(certificate(), "CRPS"), strict=True):
        assert found.value > exact.value


def test_speckle_on_a_constant_border_is_out_of_tolerance():
    # With 0.1 of c_out and more a wandering border counts; the truth then lies in the middle of the draws.
    speckled = certificate(speckle=0.5)
    assert not speckled.passed
    assert all(found.value > 0.92 for found in values(speckled, "pixel coverage"))


def test_exact_draws_are_seldom_rejected():
    certificates = [
        heldout_certificate(posterior(), images(200, seed), SCHEDULE, 1.0, seed=seed, times=(0.5,))
        for seed in range(20)
    ]
    # At level 0.05, P(more than 5 of 20) = 0.0003.
    assert sum(bool(certificate.rejected()) for certificate in certificates) <= 5


def test_a_share_near_one_is_judged_by_the_error_of_the_level():
    # 57 of 60 covered: z = (0.95 - 0.9) / √(0.09 / 60) = 1.29, where the share's own error would say 1.78.
    covered = torch.arange(60) < 57
    found = ratio_estimate(covered.double(), torch.ones(60).double())
    assert coverage_p_value(found) == pytest.approx(normal_p_value(1.29), abs=0.005)


def test_data_that_are_not_finite_are_named_as_such():
    with pytest.raises(InvalidArgumentError, match="x_0 has values that are NaN"):
        heldout_certificate(exact_vectors, torch.full((200, 3), torch.nan), SCHEDULE, 1.0)


def test_vectors_are_held_out_data_too():
    assert heldout_certificate(exact_vectors, Noise.of(0, 1000).normal(3), SCHEDULE, 1.0, times=(0.5,)).passed


def test_any_callable_is_certified_and_the_exact_posterior_of_a_mixture_passes():
    law, other = mixture("mixture3"), mixture("mixture8")
    for problem, n in ((law, 2048), (other, 2048)):
        exact, x_0 = MixturePosterior(problem, SCHEDULE), problem.sample(Noise.of(5, n))
        sigma = problem.root_mean_square()
        found = heldout_certificate(exact, x_0, SCHEDULE, sigma, times=(0.12, 0.5), features=bent)
        assert found.passed
        assert not found.rejected()
        shrunk = ScaledPosterior(problem, SCHEDULE, 0.8)
        wrong = heldout_certificate(shrunk, x_0, SCHEDULE, sigma, times=(0.12, 0.5), features=bent)
        assert not wrong.passed


def bent(x):
    """Features that are no sums of coordinates."""
    x = x.flatten(1)
    return torch.cat([x.square(), (x * x.roll(1, dims=1)).tanh(), x.abs().sum(dim=1, keepdim=True)], dim=1)


def test_features_see_what_no_pixel_does():
    def alike(x_t, t, noise, /):
        """Right along every pixel, with one number for the noise of all."""
        alpha, sigma = SCHEDULE.alpha(t)[:, None], SCHEDULE.sigma(t)[:, None]
        return alpha * x_t + sigma * noise.normal(1)

    def norm(x):
        return x.square().sum(dim=1, keepdim=True)

    x_0 = Noise.of(0, 1000).normal(8)
    for draw, right in ((exact_vectors, True), (alike, False)):
        found = heldout_certificate(draw, x_0, SCHEDULE, 1.0, times=(0.8,), features=norm)
        assert "feature coverage" in {finding.measure for finding in found.findings}
        (pixels,), (features,) = values(found, "pixel coverage"), values(found, "feature coverage")
        assert abs(pixels.value - 0.9) < 4 * pixels.error
        assert (abs(features.value - 0.9) < 4 * features.error) is right
        assert ("feature coverage" in {finding.measure for finding in found.rejected()}) is not right
    with pytest.raises(InvalidArgumentError, match="the features have values that are NaN"):
        heldout_certificate(exact_vectors, x_0, SCHEDULE, 1.0, times=(0.8,), features=lambda x: x.sqrt())


def test_too_few_samples_are_refused_with_the_number_needed():
    with pytest.raises(InvalidArgumentError, match="at least 100 are needed"):
        certificate(60)
    with pytest.raises(InvalidArgumentError, match=r"too few for a verdict.*about \d+ pairs are needed"):
        _ = heldout_certificate(exact_vectors, Noise.of(0, 200).normal(1), SCHEDULE, 1.0).passed
