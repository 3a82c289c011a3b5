"""Wasserstein bounds on Gaussian problems, where both sides are known.

The data are N(MEAN, DEVIATION² I), so y given x_t is N(a, b² I), the exact path from ε is
z_τ = (1 - τ) a + s_τ ε with s_τ² = (1 - τ)² b² + τ², and u and v are its chord and its slope.
"""

from functools import partial

import pytest
import scipy.stats
import torch

from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.diffusion.posterior import FlowPosterior
from stmd_sdk.diffusion.target import ResidualTarget, X0Target
from stmd_sdk.diffusion.velocity import NetworkVelocity
from stmd_sdk.diffusion.vp import VPSchedule
from stmd_sdk.errors import InvalidArgumentError
from stmd_sdk.evaluation import (
    GaussianMixture,
    consistency_monitor,
    coupled_start,
    exact_velocity,
    flow_residual,
    lipschitz_start,
    sample_bound,
    transition_bound,
)
from stmd_sdk.evaluation.bounds import bounded_start

SCHEDULE = VPSchedule()
MEAN, DEVIATION, D = 0.7, 0.5, 3
DATA = GaussianMixture.isotropic(torch.full((1, D), MEAN), DEVIATION)
TARGETS = [X0Target(), ResidualTarget(SCHEDULE, DATA.root_mean_square())]
N = 4096


def stmd_posterior(network, target, output="velocity", mean_flow_steps=1, bound=None):
    return FlowPosterior(NetworkVelocity(network, target, output), target, mean_flow_steps, bound)


def chord(gaussian_target, target, deviation=DEVIATION):
    """The exact average velocity, for r < τ and r = τ (or that of narrower or wider data)."""

    def velocity(z, r, tau, x_t, t):
        a, b = gaussian_target(target, x_t, t, MEAN, deviation)
        tau, r = tau[:, None], r[:, None]
        s_tau, s_r = (((1 - time) ** 2 * b**2 + time**2).sqrt() for time in (tau, r))
        xi = (z - (1 - tau) * a) / s_tau
        # (s_τ - s_r) / (τ - r) without the difference, so that r = τ is exact too.
        slope = ((tau + r) - (2 - tau - r) * b**2) / (s_tau + s_r)
        return -a + slope * xi

    return velocity


# What is added to the exact u(z, r, τ | x_t): each a different way to be wrong.
PERTURBATIONS = {
    "shift": lambda z, r, tau, x_t: 0.3 + 0 * z,
    "late shift": lambda z, r, tau, x_t: 0.5 * tau[:, None] ** 3 + 0 * z,
    "wave": lambda z, r, tau, x_t: 0.4 * torch.sin(3 * tau)[:, None] + 0 * z,
    "scale": lambda z, r, tau, x_t: 0.2 * z,
    "long chords": lambda z, r, tau, x_t: 0.4 * (tau - r)[:, None] * z,
    "x_t ignored": lambda z, r, tau, x_t: 0.3 * x_t,
}


def perturbed(exact, perturbation):
    return lambda z, r, tau, x_t, t: exact(z, r, tau, x_t, t) + perturbation(z, r, tau, x_t)


def true_distance(exact, velocity, target, x_0, t, noise):
    """E W2² given x_t of draws that are affine in ε, by their mean and deviation against the exact ones."""
    x_t = SCHEDULE.marginal(x_0, t, noise.fold(0).normal(D))
    zero, one = torch.zeros(len(t)), torch.ones(len(t))

    def mean_and_deviation(u):
        at_0, at_1 = (point - u(point, zero, one, x_t, t) for point in (torch.zeros(len(t), D), torch.ones(len(t), D)))
        return at_0, (at_1 - at_0).abs()

    (m, s), (m_, s_) = mean_and_deviation(exact), mean_and_deviation(velocity)
    _, c_out = target.coefficients(t)
    return float((c_out**2 * ((m - m_).square() + (s - s_).square()).sum(dim=1)).mean())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("t", [0.2, 1.0])
def test_the_bound_of_the_exact_flow_is_zero(gaussian_target, target, t):
    x_0, times, noise = DATA.sample(Noise.of(0, N)), torch.full((N,), t), Noise.of(1, N)
    exact = partial(exact_velocity, DATA, SCHEDULE, target)
    found = transition_bound(chord(gaussian_target, target), exact, target, SCHEDULE, x_0, times, noise)
    assert found.value < 1e-6


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("t", [0.2, 1.0])
@pytest.mark.parametrize("name", PERTURBATIONS)
def test_the_bound_is_never_below_the_true_distance(gaussian_target, target, t, name):
    exact = chord(gaussian_target, target)
    wrong = perturbed(exact, PERTURBATIONS[name])
    x_0, times, noise = DATA.sample(Noise.of(0, N)), torch.full((N,), t), Noise.of(1, N)
    velocity = partial(exact_velocity, DATA, SCHEDULE, target)
    bound = transition_bound(wrong, velocity, target, SCHEDULE, x_0, times, noise)
    truth = true_distance(exact, wrong, target, x_0, times, noise)
    assert truth > 1e-4
    # A shift moves every path alike: equality, but for the Monte Carlo error of the states.
    assert bound.value >= truth * (1 - 1e-4) - 4 * bound.error
    if name == "shift":
        assert bound.value == pytest.approx(truth, rel=1e-3)


def test_the_residual_is_the_derivative_of_the_draw_along_the_path(gaussian_target):
    target = X0Target()
    exact = chord(gaussian_target, target)
    wrong = perturbed(exact, PERTURBATIONS["long chords"])
    x_t, epsilon = Noise.of(0, 8).normal(D).double(), Noise.of(1, 8).normal(D).double()
    t, zero = torch.full((8,), 0.4, dtype=torch.float64), torch.zeros(8, dtype=torch.float64)
    a, b = gaussian_target(target, x_t, t, MEAN, DEVIATION)

    def path(tau):
        return (1 - tau) * a + ((1 - tau) ** 2 * b**2 + tau**2).sqrt() * epsilon

    def f(tau):
        tau = torch.tensor(tau, dtype=torch.float64)
        return path(tau) - tau * wrong(path(tau), zero, tau.expand(8), x_t, t)

    tau = torch.full((8,), 0.6, dtype=torch.float64)
    v = exact(path(tau[0]), tau, tau, x_t, t)
    residual = flow_residual(wrong, v, path(tau[0]), tau, x_t, t)
    h = 1e-5
    assert torch.allclose(residual, -(f(0.6 + h) - f(0.6 - h)) / (2 * h), atol=1e-7)


def test_the_monitor_is_zero_for_any_consistent_flow_so_it_is_no_bound(gaussian_target):
    target = X0Target()
    exact = chord(gaussian_target, target)
    x_0, t, noise = DATA.sample(Noise.of(0, N)), torch.full((N,), 0.5), Noise.of(1, N)

    def monitor(velocity):
        return consistency_monitor(velocity, target, SCHEDULE, x_0, t, noise).value

    assert monitor(exact) < 1e-6
    assert monitor(lambda z, r, tau, x_t, t: 0 * z) == 0
    assert monitor(chord(gaussian_target, target, DEVIATION / 2)) < 1e-6  # the flow of other data
    assert monitor(perturbed(exact, PERTURBATIONS["long chords"])) > 0.01


def test_the_monitor_ranks_inconsistent_flows_as_the_true_distance_does(gaussian_target):
    target = X0Target()
    exact = chord(gaussian_target, target)
    x_0, t, noise = DATA.sample(Noise.of(0, N)), torch.full((N,), 0.5), Noise.of(1, N)
    monitored, true = [], []
    for strength in torch.linspace(0.05, 1, 8).tolist():
        wrong = perturbed(exact, lambda z, r, tau, x_t, s=strength: s * (tau - r)[:, None] * (0.3 * z + 0.2))
        monitored.append(consistency_monitor(wrong, target, SCHEDULE, x_0, t, noise).value)
        true.append(true_distance(exact, wrong, target, x_0, t, noise))
    assert scipy.stats.spearmanr(monitored, true).statistic > 0.99


def test_starting_from_the_standard_normal_is_bounded_with_a_known_lipschitz_constant():
    """Draws L x_1 + ε: the law from q(x_1) and the law from N(0, I) are Gaussians in closed form."""
    x_0, lipschitz = DATA.sample(Noise.of(0, N)), 3.0
    one = torch.ones(1, dtype=torch.float64)
    alpha, sigma = float(SCHEDULE.alpha(one)), float(SCHEDULE.sigma(one))
    exact = (lipschitz * (alpha**2 * DEVIATION**2 + sigma**2) ** 0.5, lipschitz)
    true = D * ((lipschitz * alpha * MEAN) ** 2 + ((exact[0] ** 2 + 1) ** 0.5 - (exact[1] ** 2 + 1) ** 0.5) ** 2)
    bound = lipschitz_start(SCHEDULE, x_0, lipschitz)
    coupled = coupled_start(lambda x, t, noise: lipschitz * x + noise.normal(D), SCHEDULE, x_0, Noise.of(1, N))
    square = float(x_0.square().sum(dim=1).mean())
    assert bound == pytest.approx(lipschitz**2 * (alpha**2 * square + (1 - sigma) ** 2 * D))
    assert true <= bound
    # The coupling is linear here, so it meets the bound, up to the errors of the mean and of float32.
    assert abs(coupled.value - bound) < 5 * coupled.error + 1e-3 * bound


def test_the_bounded_start_holds_for_the_worst_map_of_bounded_draws():
    """In 1-D: draws ± R by the sign of x_1 - threshold, at any threshold."""
    x_0 = 0.9 * torch.sign(Noise.of(0, 2000).normal(1))
    one = torch.ones(1, dtype=torch.float64)
    alpha, sigma = float(SCHEDULE.alpha(one)), float(SCHEDULE.sigma(one))
    bound = bounded_start(SCHEDULE, x_0, 1.0)
    for threshold in (-1.0, 0.0, 0.5):
        first = 0.5 * sum(scipy.stats.norm.sf((threshold - alpha * m) / sigma) for m in (-0.9, 0.9))
        second = scipy.stats.norm.sf(threshold)
        assert 4 * abs(first - second) <= bound  # W2² of two laws on {-R, R}
    assert 0 < bound < 0.05


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_corollary_2_bounds_one_step_samples_of_a_gaussian(gaussian_target, name):
    """Samples from N(0, I) through x_1 ~ N(0, I), ε ~ N(0, I) are Gaussian: W2² is known from their moments."""
    target = X0Target()
    exact = chord(gaussian_target, target)
    wrong = perturbed(exact, PERTURBATIONS[name])
    x_0, t, noise = DATA.sample(Noise.of(0, N)), torch.ones(N), Noise.of(1, N)

    def network(x, times):
        z, x_t = x.chunk(2, dim=1)
        return wrong(z, times[:, 0] - times[:, 1], times[:, 0], x_t, times[:, 2])

    posterior = stmd_posterior(network, target)
    transition = transition_bound(
        posterior.velocity, partial(exact_velocity, DATA, SCHEDULE, target), target, SCHEDULE, x_0, t, noise
    )
    start = coupled_start(posterior, SCHEDULE, x_0, noise)
    bound = sample_bound(transition, start)
    assert bound.value == pytest.approx(sample_bound(transition, start.value).value)
    assert bound.error == pytest.approx(2 * (transition.error + start.error))
    keys = Noise.of(2, 20000)
    samples = posterior(keys.fold(0).normal(D), torch.ones(20000), keys.fold(1))
    moments = (samples.mean(dim=0) - MEAN).square().sum() + (samples.std(dim=0) - DEVIATION).square().sum()
    assert bound.value + 4 * bound.error >= float(moments) * 0.98


def test_keys_and_times_must_match_the_truths():
    with pytest.raises(InvalidArgumentError, match="as many times and keys"):
        consistency_monitor(
            lambda z, r, tau, x_t, t: z, X0Target(), SCHEDULE, torch.zeros(4, 2), torch.ones(4), Noise.of(0, 3)
        )
