"""Laws of the time samplers."""

import numpy as np
import pytest
from scipy import stats

from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.errors import InvalidArgumentError
from stmd_training.times import TimeSampler


def logistic_normal(mean, deviation):
    return lambda x: stats.norm.cdf((np.log(x) - np.log1p(-x) - mean) / deviation)


def test_pixels_follow_the_published_distributions():
    tau, r = TimeSampler("pixels", 1.0)(Noise.of(0, 20_000))
    assert stats.kstest(tau.double().numpy(), logistic_normal(-0.6, 1.6)).pvalue > 1e-3
    assert (r <= tau).all()
    # r is the smaller of τ and a draw of its own: P(r > x) = P(τ > x) P(own > x).
    x = 0.05
    survival = (1 - logistic_normal(-0.6, 1.6)(x)) * (1 - logistic_normal(-4.0, 1.6)(x))
    assert abs((r > x).double().mean() - survival) < 4 * (survival * (1 - survival) / 20_000) ** 0.5


def test_latents_are_two_sorted_draws_of_one_distribution():
    tau, r = TimeSampler("latents", 1.0)(Noise.of(1, 20_000))
    cdf = logistic_normal(-0.4, 1.0)
    assert stats.kstest(tau.double().numpy(), lambda x: cdf(x) ** 2).pvalue > 1e-3
    assert stats.kstest(r.double().numpy(), lambda x: 1 - (1 - cdf(x)) ** 2).pvalue > 1e-3


@pytest.mark.parametrize("kind", ["pixels", "latents"])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.75, 1.0])
def test_the_rows_behind_the_share_have_r_equal_tau(kind, share):
    sampler = TimeSampler(kind, share)
    tau, r = sampler(Noise.of(0, 64))
    k = sampler.moving_rows(64)
    assert k == 64 * share
    assert (r[k:] == tau[k:]).all()
    # Only pixels can tie among the moving rows, where r was cut at τ.
    assert (r[:k] < tau[:k]).double().mean() > 0.8 if k else True


@pytest.mark.parametrize("kind", ["pixels", "latents"])
def test_the_uniform_share_takes_both_ends_from_the_uniform_law(kind):
    noise = Noise.of(2, 20_000)
    plain, mixed = TimeSampler(kind, 1.0)(noise), TimeSampler(kind, 1.0, uniform_share=0.3)(noise)
    uniform = (plain[0] != mixed[0]) | (plain[1] != mixed[1])
    assert abs(uniform.double().mean() - 0.3) < 4 * (0.3 * 0.7 / 20_000) ** 0.5
    tau, r = (times[uniform].double().numpy() for times in mixed)
    assert stats.kstest(tau, lambda x: x**2).pvalue > 1e-3
    assert stats.kstest(r, lambda x: 1 - (1 - x) ** 2).pvalue > 1e-3
    assert stats.kstest(r / tau, "uniform").pvalue > 1e-3  # given the larger, the smaller is uniform below it


def test_uniform_rows_with_r_equal_tau_take_one_uniform():
    tau, r = TimeSampler("latents", 0.0, uniform_share=1.0)(Noise.of(3, 20_000))
    assert (tau == r).all()
    assert stats.kstest(tau.double().numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("share", ["moving_share", "uniform_share"])
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_a_share_outside_its_range_is_refused(share, value):
    with pytest.raises(InvalidArgumentError, match=share):
        TimeSampler(**{share: value})
