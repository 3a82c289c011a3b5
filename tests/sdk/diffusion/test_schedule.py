"""The forward process: marginals, and a bridge exact at its ends that composes and agrees with diffusers."""

import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from stmd_sdk import InvalidArgumentError, VPSchedule
from stmd_sdk.diffusion.cosine import CosineSchedule
from stmd_sdk.diffusion.denoiser import EpsilonDenoiser
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.diffusion.posterior import PointPosterior

LINEAR = [VPSchedule(), VPSchedule(0.5, 0.5), VPSchedule(1e-3, 40.0)]
SCHEDULES = [*LINEAR, CosineSchedule(), CosineSchedule(20.0)]
TIMES = torch.tensor([1e-6, 1e-3, 0.05, 0.3, 0.8, 1.0], dtype=torch.float64)


def _bridge_coefficients(schedule, t, s):
    """(of x_t, of x_0, of ε) at each pair of times, by pushing basis vectors through the bridge."""
    basis = torch.eye(3, dtype=t.dtype).expand(len(t), 3, 3)
    x_t, x_0, epsilon = basis.unbind(1)
    return schedule.bridge(x_0, x_t, t, s, epsilon).unbind(1)


@pytest.mark.parametrize("schedule", LINEAR)
def test_the_marginal_solves_the_forward_sde(schedule):
    t = TIMES.clone().requires_grad_()
    beta = schedule.beta_min + t * (schedule.beta_max - schedule.beta_min)
    alpha, variance = schedule.alpha(t), schedule.variance(t)
    (d_alpha,) = torch.autograd.grad(alpha.sum(), t, retain_graph=True)
    (d_variance,) = torch.autograd.grad(variance.sum(), t)
    # The mean and the variance of dx = -½ β x dt + √β dW, as ordinary differential equations.
    assert torch.allclose(d_alpha, -0.5 * beta * alpha)
    assert torch.allclose(d_variance, beta - beta * variance)
    assert schedule.alpha(t * 0).eq(1).all()
    assert schedule.variance(t * 0).eq(0).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_marginal_preserves_unit_variance(schedule):
    assert torch.allclose(schedule.alpha(TIMES) ** 2 + schedule.variance(TIMES), torch.ones(6, dtype=torch.float64))
    assert torch.equal(schedule.sigma(TIMES), schedule.variance(TIMES).sqrt())
    x_0, epsilon = torch.eye(2, dtype=torch.float64).expand(6, 2, 2).unbind(1)
    expected = torch.stack([schedule.alpha(TIMES), schedule.sigma(TIMES)], dim=1)
    assert torch.equal(schedule.marginal(x_0, TIMES, epsilon), expected)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_bridge_is_bitwise_exact_at_both_ends(schedule):
    t = torch.cat([torch.logspace(-18, 0, 61), torch.rand(1000)])
    x_0, x_t, epsilon = (Noise.of(seed, len(t)).normal(2, 3) for seed in range(3))
    assert torch.equal(schedule.bridge(x_0, x_t, t, torch.zeros_like(t), epsilon), x_0)
    assert torch.equal(schedule.bridge(x_0, x_t, t, t, epsilon), x_t)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_time_is_the_inverse_of_the_noise_level(schedule):
    for t, rtol in ((TIMES, 1e-9), (TIMES.float(), 2e-5)):
        torch.testing.assert_close(schedule.time(schedule.sigma(t) / schedule.alpha(t)), t, rtol=rtol, atol=0)
    assert schedule.time(torch.tensor(1e9)) == 1


def test_the_angle_of_the_cosine_schedule_grows_evenly():
    schedule, t = CosineSchedule(100.0), torch.linspace(0, 1, 11, dtype=torch.float64)
    angle = torch.atan2(schedule.sigma(t), schedule.alpha(t))
    torch.testing.assert_close(angle, t * math.atan(100.0))


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.inf, math.nan])
def test_a_cosine_schedule_of_a_senseless_ratio_is_refused(ratio):
    with pytest.raises(InvalidArgumentError, match="ratio_max"):
        CosineSchedule(ratio)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_two_bridges_compose_to_one(schedule):
    s, u, t = torch.rand(3, 500, dtype=torch.float64).sort(0).values
    direct, first, second = (_bridge_coefficients(schedule, *pair) for pair in ((t, s), (t, u), (u, s)))
    assert torch.allclose(second[0] * first[0], direct[0], rtol=1e-10)
    assert torch.allclose(second[0] * first[1] + second[1], direct[1], rtol=1e-10)
    assert torch.allclose((second[0] * first[2]) ** 2 + second[2] ** 2, direct[2] ** 2, rtol=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_bridge_takes_the_marginal_at_t_to_the_marginal_at_s(schedule):
    s, t = torch.rand(2, 500, dtype=torch.float64).sort(0).values
    of_x_t, of_x_0, of_epsilon = _bridge_coefficients(schedule, t, s)
    assert torch.allclose(of_x_t * schedule.alpha(t) + of_x_0, schedule.alpha(s), rtol=1e-10)
    spread = of_x_t**2 * schedule.variance(t) + of_epsilon**2
    assert torch.allclose(spread, schedule.variance(s), rtol=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_bridge_is_bayes_rule(schedule):
    s, t = torch.rand(2, 500, dtype=torch.float64).sort(0).values
    of_x_t, of_x_0, of_epsilon = _bridge_coefficients(schedule, t, s)
    # Prior x_s ~ N(α_s x_0, σ_s²), observed as x_t ~ N(a x_s, v): add the precisions (equations 18 and 19).
    a = schedule.alpha(t) / schedule.alpha(s)
    v = schedule.variance(t) - a**2 * schedule.variance(s)
    precision = 1 / schedule.variance(s) + a**2 / v
    assert torch.allclose(of_epsilon**2, 1 / precision, rtol=1e-6)
    assert torch.allclose(of_x_t, a / v / precision, rtol=1e-6)
    assert torch.allclose(of_x_0, schedule.alpha(s) / schedule.variance(s) / precision, rtol=1e-6)


def test_small_steps_and_small_times_lose_no_digits_in_float32():
    schedule = VPSchedule()
    t = torch.logspace(-4, 0, 200)
    steps = [t - t * fraction for fraction in (1e-6, 1e-5, 1e-3, 0.5, 0.999)]
    s, t = torch.cat(steps), t.repeat(len(steps))
    assert (s < t).all()
    double = _bridge_coefficients(schedule, t.double(), s.double())
    for ours, exact in zip(_bridge_coefficients(schedule, t, s), double, strict=True):
        assert torch.allclose(ours.double(), exact, rtol=3e-6, atol=0)


def test_the_bridge_and_the_ddpm_posterior_step_as_diffusers_ddpm_scheduler():
    schedule, steps = VPSchedule(), 50
    grid = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    kept = (schedule.alpha(grid) ** 2).diff(dim=0) / schedule.alpha(grid[:-1]) ** 2
    theirs = DDPMScheduler(steps, trained_betas=(-kept).tolist(), variance_type="fixed_small", clip_sample=True)
    x_t, epsilon = Noise.of(0, 4).normal(3), Noise.of(1, 4).normal(3)
    posterior = PointPosterior(EpsilonDenoiser(lambda x, times: epsilon, schedule), schedule, bound=1.0)
    for i in (0, 1, 7, 25, 48, 49):
        expected = theirs.step(epsilon, i, x_t, generator=torch.Generator().manual_seed(i))
        t, s = (grid[j].float().expand(4) for j in (i + 1, i))
        x_0 = posterior(x_t, t, Noise.of(2, 4))
        # The scheduler draws its noise with this generator; at i = 0 it draws none, and σ_s is 0.
        spread = torch.randn(4, 3, generator=torch.Generator().manual_seed(i))
        assert torch.allclose(x_0, expected.pred_original_sample, atol=1e-4)
        assert torch.allclose(schedule.bridge(x_0, x_t, t, s, spread), expected.prev_sample, atol=2e-5), i


@pytest.mark.parametrize(
    "betas", [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0), (0.1, math.inf), (math.nan, 1.0), (0.1, math.nan)]
)
def test_senseless_schedules_are_refused(betas):
    with pytest.raises(InvalidArgumentError, match="beta_min"):
        VPSchedule(*betas)
