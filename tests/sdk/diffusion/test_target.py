"""Targets: encoding and decoding invert each other, and the residual is that of a Gaussian posterior."""

import pytest
import torch

from stmd_sdk import Noise, VPSchedule
from stmd_sdk.diffusion.target import ResidualTarget, X0Target

TARGETS = [X0Target(), ResidualTarget(VPSchedule(), 0.5), ResidualTarget(VPSchedule(0.2, 12.0), 1.7)]


@pytest.mark.parametrize("target", TARGETS)
def test_encoding_and_decoding_invert_each_other(target):
    t = torch.logspace(-4, 0, 100, dtype=torch.float64)
    x_0, x_t = (Noise.of(seed, 100).normal(2, 3).double() for seed in (0, 1))
    assert torch.allclose(target.decode(target.residual(x_0, x_t, t), x_t, t), x_0, rtol=1e-9, atol=1e-12)
    assert torch.allclose(target.residual(target.decode(x_0, x_t, t), x_t, t), x_0, rtol=1e-9, atol=1e-9)


def test_the_papers_target_is_x_0_bit_by_bit():
    x_0, x_t, t = Noise.of(0, 50).normal(4), Noise.of(1, 50).normal(4), Noise.of(2, 50).uniform()
    assert torch.equal(X0Target().residual(x_0, x_t, t), x_0)
    assert torch.equal(X0Target().decode(x_0, x_t, t), x_0)


@pytest.mark.parametrize("target", TARGETS[1:])
def test_the_residuals_coefficients_are_the_gaussian_posteriors_mean_and_deviation(target):
    t = torch.logspace(-4, 0, 100, dtype=torch.float64)
    alpha, variance = target.schedule.alpha(t), target.schedule.variance(t)
    precision = 1 / target.sigma_data**2 + alpha**2 / variance
    c_skip, c_out = target.coefficients(t)
    assert torch.allclose(c_skip, alpha / variance / precision, rtol=1e-10)
    assert torch.allclose(c_out, precision**-0.5, rtol=1e-10)


@pytest.mark.parametrize("target", TARGETS[1:])
def test_the_residual_of_data_of_that_deviation_has_unit_variance_and_ignores_x_t(target):
    n = 200_000
    t = torch.tensor([1e-3, 0.1, 0.4, 1.0]).repeat_interleave(n // 4)
    x_0 = target.sigma_data * Noise.of(0, n).normal(1)
    x_t = target.schedule.marginal(x_0, t, Noise.of(1, n).normal(1))
    y, x_t = (x.reshape(4, -1).double() for x in (target.residual(x_0, x_t, t), x_t))
    # Five standard errors at 50,000 a time.
    assert (y.var(dim=1) - 1).abs().max() < 5 * (2 / 50_000) ** 0.5
    for row, state in zip(y, x_t, strict=True):
        assert torch.corrcoef(torch.stack([row, state]))[0, 1].abs() < 5 / 50_000**0.5


@pytest.mark.parametrize("target", TARGETS[1:])
def test_small_times_lose_no_digits_in_float32(target):
    t = torch.logspace(-6, 0, 200)
    for ours, exact in zip(target.coefficients(t), target.coefficients(t.double()), strict=True):
        assert torch.allclose(ours.double(), exact, rtol=3e-6, atol=0)
