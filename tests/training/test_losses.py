"""Laws of the losses: exact models are their minima, both derivatives agree, the energy score is proper."""

import pytest
import torch

from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.diffusion.posterior import FlowPosterior
from stmd_sdk.diffusion.schedule import expand
from stmd_sdk.diffusion.target import ResidualTarget, X0Target
from stmd_sdk.diffusion.velocity import NetworkVelocity
from stmd_sdk.diffusion.vp import VPSchedule
from stmd_sdk.networks import UNetConfig, build_network
from stmd_training.losses import DDPMLoss, FlowLoss, MeanFlowLoss, STMDLoss
from stmd_training.scores import EnergyScore
from stmd_training.times import TimeSampler

SCHEDULE = VPSchedule()
DEVIATION = 0.5
PLAIN = FlowLoss(power=0.0)


def stmd_posterior(network, target, output="velocity", mean_flow_steps=1, bound=None):
    return FlowPosterior(NetworkVelocity(network, target, output), target, mean_flow_steps, bound)


def gaussian(n, seed=0, d=3):
    """Data N(0, DEVIATION² I)."""
    return DEVIATION * Noise.of(seed, n).fold(99).normal(d)


def posterior_moments(t, x_t):
    alpha, variance = SCHEDULE.alpha(t), SCHEDULE.variance(t)
    total = alpha**2 * DEVIATION**2 + variance
    mean = expand(alpha * DEVIATION**2 / total, x_t) * x_t
    return mean, expand(DEVIATION * (variance / total).sqrt(), x_t)


def exact_average_velocity(x, times):
    """u(z, r, τ | x_t, t) of Gaussian data: the flow maps quantiles, z_τ = m_τ + s_τ ε with the same ε at every τ."""
    z, x_t = x.chunk(2, dim=1)
    tau, interval, t = times.unbind(1)
    r = tau - interval
    mean, deviation = posterior_moments(t, x_t)

    def moments(time):
        time = expand(time, z)
        return (1 - time) * mean, ((1 - time) ** 2 * deviation**2 + time**2).sqrt()

    (mean_tau, scale_tau), (mean_r, scale_r) = moments(tau), moments(r)
    quantile = (z - mean_tau) / scale_tau
    z_r = mean_r + scale_r * quantile
    slope = (mean_tau - z_r + scale_tau * quantile) / expand(interval, z).clamp(min=1e-6)
    h = 1e-3
    mean_h, scale_h = moments(tau - h)
    instant = (z - mean_h - scale_h * quantile) / h
    return torch.where(expand(interval, z) > 1e-3, slope, instant)


def gradients_at(scale, shift, n=50_000):
    """The gradient of the mean loss in a scale and a shift of the exact average velocity."""
    parameters = torch.full((3,), scale, requires_grad=True), torch.full((3,), shift, requires_grad=True)

    def network(x, times):
        return parameters[0] * exact_average_velocity(x, times) + parameters[1]

    loss = STMDLoss(SCHEDULE, flow=PLAIN)(network, gaussian(n), Noise.of(1, n)).mean()
    return torch.cat(torch.autograd.grad(loss, parameters)).abs()


def test_the_exact_model_is_where_the_gradient_of_the_stmd_loss_vanishes():
    # |Δ| is of order 1 a coordinate, so the gradient's error is of order n^-1/2 = 0.0045.
    assert gradients_at(1.0, 0.0).max() < 0.015
    assert gradients_at(0.8, 0.0)[:3].min() > 0.03
    assert gradients_at(1.0, 0.2)[3:].min() > 0.04


def test_the_error_of_x_0_is_c_out_times_that_of_y():
    target, n = ResidualTarget(SCHEDULE, DEVIATION), 256
    layer = torch.nn.Linear(9, 3)

    def losses(error_of, weight):
        loss = STMDLoss(SCHEDULE, target, flow=PLAIN, energy_score=EnergyScore(weight), error_of=error_of)
        return loss(lambda x, times: layer(torch.cat([x, times], dim=1)), gaussian(n), Noise.of(1, n)).detach()

    noise = Noise.of(1, n)
    t, *_ = STMDLoss(SCHEDULE, target).look(gaussian(n), noise)
    tau, _ = PLAIN.times(noise.fold(3))
    c_out = target.coefficients(t)[1]
    torch.testing.assert_close(losses("x0", 0.0), losses("y", 0.0) * (c_out * tau.clamp(min=0.05)) ** 2)
    scores = [losses(error_of, 100.0) - losses(error_of, 0.0) for error_of in ("y", "x0")]
    torch.testing.assert_close(scores[1], c_out * scores[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("output", ["velocity", "x0"])
def test_central_differences_agree_with_forward_mode(output):
    layer = torch.nn.Sequential(torch.nn.Linear(9, 32), torch.nn.Tanh(), torch.nn.Linear(32, 3))

    def network(x, times):
        return layer(torch.cat([x, times], dim=1))

    x_0, noise = gaussian(256), Noise.of(0, 256)
    values = [
        STMDLoss(SCHEDULE, output=output, flow=FlowLoss(power=0.0, derivative=derivative))(network, x_0, noise)
        for derivative in ("jvp", "central")
    ]
    # u = (z - y) / τ of an x_0 output bends too fast at small τ for differences of width 0.01.
    tau, _ = TimeSampler()(noise.fold(3))
    smooth = slice(None) if output == "velocity" else tau > 0.15
    torch.testing.assert_close(values[0][smooth], values[1][smooth], rtol=5e-3, atol=3e-3)


@pytest.mark.parametrize("derivative", ["jvp", "central"])
def test_under_autocast_the_loss_of_a_unet_is_that_in_float32_up_to_rounding(derivative):
    network = build_network(UNetConfig(channels=(8, 16), groups=4), in_channels=2, out_channels=1, times=3, size=(8, 8))
    for parameter in network.parameters():  # the last layer begins at zero, where there is nothing to derive
        torch.nn.init.normal_(parameter, std=0.05)
    loss = STMDLoss(SCHEDULE, flow=FlowLoss(TimeSampler(moving_share=1.0), power=0.0, derivative=derivative))
    x_0, noise = Noise.of(1, 16).normal(1, 8, 8), Noise.of(0, 16)
    expected = loss(network, x_0, noise)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(lambda x, times: network(x, times).float(), x_0, noise)
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0)


def test_the_target_carries_no_gradient():
    """With r = 0 the target contains the network's derivative; only the prediction may be differentiated."""
    weight = torch.tensor(0.3, requires_grad=True)
    noise, x_0 = Noise.of(0, 64), gaussian(64)
    flow = FlowLoss(TimeSampler(moving_share=1.0), power=0.0)

    def velocity(z, r, tau, x_t, t):
        return weight * z * expand(tau, z)

    epsilon = noise.fold(5).normal(3)
    tau, r = flow.times(noise)
    (gradient,) = torch.autograd.grad(flow(lambda rows: velocity, x_0, epsilon, tau, r, x_0, tau).mean(), weight)
    z = (1 - tau[:, None]) * x_0 + tau[:, None] * epsilon
    v = epsilon - x_0
    derivative = 0.3 * (v * tau[:, None] + z)
    error = 0.3 * z * tau[:, None] - (v - (tau - r)[:, None] * derivative)
    by_hand = (2 * error * z * tau[:, None]).sum(1).mean() / 3
    torch.testing.assert_close(gradient, by_hand, rtol=1e-5, atol=1e-6)


def test_the_adaptive_weight_scales_the_gradient_of_each_sample():
    """The gradient of w ‖Δ‖² with w held fixed is (‖Δ‖² + c)^-p times that of ‖Δ‖²."""
    x_0, noise = gaussian(8), Noise.of(3, 8)
    epsilon = noise.fold(1).normal(3)

    def gradients(power):
        offset = torch.zeros(8, 3, requires_grad=True)
        flow = FlowLoss(TimeSampler(moving_share=0.0), power=power, offset=1e-3)
        losses = flow(
            lambda rows: lambda z, r, tau, x_t, t: z + x_t, x_0, epsilon, *flow.times(noise), offset, x_0[:, 0]
        )
        (gradient,) = torch.autograd.grad(losses.sum(), offset)
        return gradient * 3 ** (1 - power), losses

    plain, squares = gradients(0.0)
    weighted, _ = gradients(0.75)
    expected = plain * (3 * squares.detach()[:, None] + 1e-3) ** -0.75
    torch.testing.assert_close(weighted, expected)


@pytest.mark.parametrize("score", [EnergyScore(), EnergyScore(exponent=0.5), EnergyScore(exponent=1.5, draws=4)])
@pytest.mark.parametrize("target", [X0Target(), ResidualTarget(SCHEDULE, DEVIATION)])
def test_the_energy_score_is_least_for_the_true_posterior(target, score):
    n = 60_000
    noise, t = Noise.of(7, n), torch.full((n,), 0.4)
    x_0 = gaussian(n)
    x_t = SCHEDULE.marginal(x_0, t, noise.fold(1).normal(3))
    mean, deviation = posterior_moments(t, x_t)
    _, c_out = target.coefficients(t)
    many = score.draws, 1
    mean_y, deviation_y = target.residual(mean, x_t, t).repeat(many), (deviation / c_out[:, None]).repeat(many)

    def scores(spread, shift=0.0):
        # velocity at (ε, 0, 1) is ε - ŷ
        posterior = stmd_posterior(lambda x, _: x[:, :3] - (mean_y + shift + spread * deviation_y * x[:, :3]), target)
        return score(posterior, x_0, x_t, t, noise).double()

    exact = scores(1.0)
    for other in (scores(0.7), scores(1.4), scores(1.0, shift=0.15), scores(0.0)):
        difference = other - exact
        assert difference.mean() > 3 * difference.std() / n**0.5


def test_the_energy_score_has_one_mean_whatever_the_number_of_draws():
    n = 40_000
    noise, t = Noise.of(8, n), torch.full((n,), 0.4)
    x_0 = gaussian(n)
    x_t = SCHEDULE.marginal(x_0, t, noise.fold(1).normal(3))
    posterior = stmd_posterior(exact_average_velocity, X0Target())
    few, many = (EnergyScore(draws=draws)(posterior, x_0, x_t, t, noise).double() for draws in (2, 8))
    difference = few - many
    assert abs(difference.mean()) < 4 * difference.std() / n**0.5
    assert many.std() < 0.9 * few.std()


def test_a_bounded_model_is_scored_by_its_clamped_draws():
    """Data with a tenth of their mass at each end: draws that leave the range score as draws of its ends."""
    n, bound = 20_000, 1.0
    noise, t = Noise.of(9, n), torch.ones(n)
    normal = noise.fold(0).normal(3) / 1.28
    x_0, x_t = normal.clamp(-bound, bound), noise.fold(1).normal(3)

    def score(spread, bound):
        def network(x, _):
            return x[:, :3] * (1 - spread / 1.28)  # ε - ŷ, so that draws are spread * ε / 1.28

        posterior = stmd_posterior(network, X0Target(), bound=bound)
        return EnergyScore()(posterior, x_0, x_t, t, noise).double()

    exact = score(1.0, bound)
    for other in (score(1.0, None), score(0.75, bound), score(1.3, bound)):
        difference = other - exact
        assert difference.mean() > 3 * difference.std() / n**0.5
    rows = slice(0, 2000)
    bounded, loose = (
        STMDLoss(SCHEDULE, energy_score=EnergyScore(1.0), bound=end)(lambda x, _: -3 * x[:, :3], x_0[rows], noise[rows])
        for end in (bound, None)
    )
    assert bounded.mean() < loose.mean()


def test_mean_flow_loss_is_least_at_the_exact_map():
    """For data N(0, s² I) the flow from z_1 is linear: u = (1 - s_r/s_τ) z / (τ - r)."""

    def exact(x, times):
        tau, interval = times.unbind(1)
        scale = lambda time: ((1 - time) ** 2 * DEVIATION**2 + time**2).sqrt()  # noqa: E731
        h = interval.clamp(min=1e-3)
        return expand((1 - scale(tau - h) / scale(tau)) / h, x) * x

    n = 50_000
    loss = MeanFlowLoss(flow=PLAIN)
    best = loss(exact, gaussian(n), Noise.of(0, n)).mean()
    for factor in (0.9, 1.1):
        assert loss(lambda x, times, f=factor: f * exact(x, times), gaussian(n), Noise.of(0, n)).mean() > best


def test_ddpm_loss_is_least_at_the_conditional_mean():
    def exact(x, times):
        t = times[:, 0]
        mean, _ = posterior_moments(t, x)
        return (x - expand(SCHEDULE.alpha(t), x) * mean) / expand(SCHEDULE.sigma(t), x)

    n = 50_000
    loss = DDPMLoss(SCHEDULE)
    best = loss(exact, gaussian(n), Noise.of(0, n)).mean()
    for factor in (0.9, 1.1):
        assert loss(lambda x, times, f=factor: f * exact(x, times), gaussian(n), Noise.of(0, n)).mean() > best


def test_a_loss_does_not_depend_on_the_rest_of_the_batch():
    """Row i of a batch has the same loss alone, as long as its place in the share of moving rows is the same."""
    loss = STMDLoss(SCHEDULE, flow=FlowLoss(TimeSampler(moving_share=0.0)), energy_score=EnergyScore(1.0))
    x_0, noise = gaussian(6), Noise.of(0, 6)
    whole = loss(exact_average_velocity, x_0, noise)
    alone = loss(exact_average_velocity, x_0[2:3], noise[2:3])
    torch.testing.assert_close(whole[2:3], alone)
