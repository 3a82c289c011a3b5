"""Posteriors of Gaussian data, where the exact networks are known in closed form."""

import pytest
import torch

from stmd_sdk import Noise, VPSchedule
from stmd_sdk.diffusion.denoiser import EpsilonDenoiser
from stmd_sdk.diffusion.posterior import FlowPosterior, MeanFlowPosterior, PointPosterior
from stmd_sdk.diffusion.target import ResidualTarget, X0Target
from stmd_sdk.diffusion.velocity import NetworkVelocity, UnconditionalVelocity

SCHEDULE = VPSchedule()
MEAN, DEVIATION = 0.4, 0.7
# The second and third are not the data's own deviation: the flow then has to correct the residual's law.
TARGETS = [X0Target(), ResidualTarget(SCHEDULE, 1.3), ResidualTarget(SCHEDULE, 0.3)]


def stmd_posterior(network, target, output="velocity", mean_flow_steps=1, bound=None):
    return FlowPosterior(NetworkVelocity(network, target, output), target, mean_flow_steps, bound)


def _states(n=60, dtype=torch.float32):
    t = torch.cat([torch.tensor([1e-3, 0.01, 0.1, 1.0]), Noise.of(0, n - 4).uniform()]).to(dtype)
    x_0 = MEAN + DEVIATION * Noise.of(1, n).normal(5).to(dtype)
    return SCHEDULE.marginal(x_0, t, Noise.of(2, n).normal(5).to(dtype)), t


def _exact_posterior(x_t, t):
    """Mean and deviation of p(x_0 | x_t) for data N(MEAN, DEVIATION²)."""
    alpha, variance = SCHEDULE.alpha(t)[:, None], SCHEDULE.variance(t)[:, None]
    precision = 1 / DEVIATION**2 + alpha**2 / variance
    return (MEAN / DEVIATION**2 + alpha * x_t / variance) / precision, precision**-0.5


def _glass_velocity(target):
    """The exact velocity at τ, whatever r, by the identity of two Gaussian looks at x_0 and a denoiser."""

    def denoise(x, deviation):
        precision = 1 / DEVIATION**2 + 1 / deviation**2
        return (MEAN / DEVIATION**2 + x / deviation**2) / precision

    def network(x, times):
        z, x_t = x.chunk(2, dim=1)
        tau, t = times[:, 0, None], times[:, 2]
        c_skip, c_out = (coefficient[:, None] for coefficient in target.coefficients(t))
        alpha, variance = SCHEDULE.alpha(t)[:, None], SCHEDULE.variance(t)[:, None]
        kappa = alpha**2 / variance + (1 - tau) ** 2 / (tau * c_out) ** 2
        look = (1 - tau) * (c_out * z + (1 - tau) * c_skip * x_t) / (tau * c_out) ** 2
        x_0 = denoise((alpha * x_t / variance + look) / kappa, kappa**-0.5)
        return (z - (x_0 - c_skip * x_t) / c_out) / tau

    return network


@pytest.mark.parametrize("target", TARGETS)
def test_the_glass_identity_is_the_flows_velocity(target, average_velocity):
    x_t, t = _states(dtype=torch.float64)
    z, tau = Noise.of(3, 60).normal(5).double(), 0.02 + 0.97 * Noise.of(4, 60).uniform().double()
    x, zero = torch.cat([z, x_t], dim=1), torch.full_like(tau, 1e-7)
    glass = _glass_velocity(target)(x, torch.stack([tau, zero, t], dim=1))
    average = average_velocity(target, MEAN, DEVIATION)(x, torch.stack([tau, zero, t], dim=1))
    assert torch.allclose(glass, average, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mean_flow_steps", [1, 2, 5])
def test_the_exact_average_velocity_gives_the_exact_posterior(target, mean_flow_steps, average_velocity):
    x_t, t = _states()
    network = average_velocity(target, MEAN, DEVIATION)
    draw = stmd_posterior(network, target, mean_flow_steps=mean_flow_steps)(x_t, t, Noise.of(5, 60))
    # The flow between Gaussians is affine in its noise, so each draw is known, not only their moments.
    mean, deviation = _exact_posterior(x_t.double(), t.double())
    assert torch.allclose(draw.double(), mean + deviation * Noise.of(5, 60).normal(5), atol=3e-6, rtol=3e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_the_exact_velocity_gives_the_exact_posterior_as_the_steps_go_to_infinity(target):
    x_t, t = _states()
    mean, deviation = _exact_posterior(x_t, t)

    def error(steps):
        draw = stmd_posterior(_glass_velocity(target), target, mean_flow_steps=steps)(x_t, t, Noise.of(5, 60))
        return ((draw - mean) / deviation - Noise.of(5, 60).normal(5)).abs().mean()

    coarse, fine, finest = error(32), error(128), error(512)
    # Euler's method is of first order: a quarter of the step, a quarter of the error.
    assert coarse / fine == pytest.approx(4, rel=0.25)
    assert fine / finest == pytest.approx(4, rel=0.25)
    assert finest < 0.01


@pytest.mark.parametrize("mean_flow_steps", [1, 3, 20])
def test_an_x0_output_is_the_same_posterior_as_a_velocity(mean_flow_steps, average_velocity):
    x_t, t = _states()
    target = TARGETS[1]
    velocity = average_velocity(target, MEAN, DEVIATION)

    def x_0(x, times):
        z, look = x.chunk(2, dim=1)
        return target.decode(z - times[:, :1] * velocity(x, times), look, times[:, 2])

    ours = stmd_posterior(x_0, target, "x0", mean_flow_steps)(x_t, t, Noise.of(5, 60))
    theirs = stmd_posterior(velocity, target, "velocity", mean_flow_steps)(x_t, t, Noise.of(5, 60))
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_one_step_of_a_network_that_outputs_x_0_is_its_output(target):
    x_t, t = _states()
    x_0 = Noise.of(7, 60).normal(5)
    posterior = stmd_posterior(lambda x, times: x_0, target, "x0")
    assert torch.equal(posterior(x_t, t, Noise.of(5, 60)), x_0)
    decoded = target.decode(posterior.draw_y(x_t, t, Noise.of(5, 60)), x_t, t)
    assert torch.allclose(decoded, x_0, atol=1e-5)


@pytest.mark.parametrize("mean_flow_steps", [1, 2])
def test_the_bound_clamps_the_draw_and_not_the_flow(mean_flow_steps, average_velocity):
    x_t, t = _states()
    velocity = average_velocity(TARGETS[1], MEAN, DEVIATION)
    plain, bounded = (
        stmd_posterior(velocity, TARGETS[1], "velocity", mean_flow_steps, bound)(x_t, t, Noise.of(5, 60))
        for bound in (None, 0.5)
    )
    assert torch.equal(bounded, plain.clamp(-0.5, 0.5))
    assert not torch.equal(bounded, plain)


def test_an_x0_network_has_a_finite_velocity_at_tau_0():
    posterior = stmd_posterior(lambda x, times: torch.zeros_like(x[:, :2]), X0Target(), "x0")
    z, zero = torch.ones(3, 2), torch.zeros(3)
    assert posterior.velocity(z, zero, zero, z, zero + 0.5).isfinite().all()


def test_stmd_packs_z_and_x_t_on_the_channels_and_tau_its_span_and_t_as_times():
    calls = []

    def network(x, times):
        calls.append((x, times))
        return torch.full_like(x[:, :2], 3.0)

    x_t, t, noise = Noise.of(0, 3).normal(2, 4, 4), torch.tensor([0.2, 0.5, 0.9]), Noise.of(1, 3)
    stmd_posterior(network, X0Target(), mean_flow_steps=2)(x_t, t, noise)
    epsilon, times = noise.normal(2, 4, 4), torch.tensor([[1.0, 0.5], [0.5, 0.5]])
    for k, z in enumerate((epsilon, epsilon - 0.5 * 3.0)):
        x, packed = calls[k]
        assert torch.equal(x, torch.cat([z, x_t], dim=1))
        assert torch.equal(packed, torch.cat([times[k].expand(3, 2), t[:, None]], dim=1))
    assert len(calls) == 2


def test_mean_flow_packs_tau_and_its_span_and_starts_from_the_state_without_noise():
    calls = []

    def network(x, times):
        calls.append((x, times))
        return torch.full_like(x, 2.0)

    x_1 = Noise.of(0, 3).normal(4)
    x_0 = MeanFlowPosterior(UnconditionalVelocity(network), mean_flow_steps=4)(x_1, torch.ones(3), Noise.of(1, 3))
    for k, (x, times) in enumerate(calls):
        assert torch.allclose(x, x_1 - k / 4 * 2.0)
        assert torch.equal(times, torch.tensor([1 - k / 4, 0.25]).expand(3, 2))
    assert len(calls) == 4
    assert torch.allclose(x_0, x_1 - 2.0)


def test_mean_flow_with_the_exact_average_velocity_transports_the_prior_to_the_data():
    def network(z, times):
        tau, r = times[:, :1], times[:, :1] - times[:, 1:]
        spread_tau, spread_r = (((1 - time) ** 2 * DEVIATION**2 + time**2).sqrt() for time in (tau, r))
        return (z - (1 - r) * MEAN - spread_r / spread_tau * (z - (1 - tau) * MEAN)) / (tau - r)

    x_1 = Noise.of(0, 50).normal(5)
    for steps in (1, 3):
        x_0 = MeanFlowPosterior(UnconditionalVelocity(network), mean_flow_steps=steps)(
            x_1, torch.ones(50), Noise.of(1, 50)
        )
        assert torch.allclose(x_0, MEAN + DEVIATION * x_1, atol=1e-5)


def test_ddpm_with_the_exact_noise_is_the_posteriors_mean_without_noise():
    x_t, t = _states(dtype=torch.float64)
    mean, _ = _exact_posterior(x_t, t)

    def epsilon(x, times):
        torch.testing.assert_close(times, t[:, None])
        return (x - SCHEDULE.alpha(t)[:, None] * mean) / SCHEDULE.sigma(t)[:, None]

    unbounded = PointPosterior(EpsilonDenoiser(epsilon, SCHEDULE), SCHEDULE, bound=None)
    assert torch.allclose(unbounded(x_t, t, Noise.of(0, 60)), mean)
    bounded = PointPosterior(EpsilonDenoiser(epsilon, SCHEDULE), SCHEDULE, bound=0.5)
    assert torch.allclose(bounded(x_t, t, Noise.of(1, 60)), mean.clamp(-0.5, 0.5))
    assert mean.abs().max() > 0.5
