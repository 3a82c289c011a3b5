"""Laws of the exact mixtures: quadrature, the densities of PyTorch and scikit-learn, the laws of probability.

Statistical tests have fixed seeds; their levels are 4.5 standard errors or p = 1e-3.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from stmd_sdk.diffusion.loop import reverse_sde, time_grid
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.diffusion.target import ResidualTarget, X0Target
from stmd_sdk.diffusion.vp import VPSchedule
from stmd_sdk.errors import InvalidArgumentError
from stmd_sdk.mixtures.conditioning import conditioned
from stmd_sdk.mixtures.law import GaussianMixture, MixturePosterior, exact_velocity
from stmd_sdk.mixtures.problems import MIXTURES, mixture

SCHEDULE = VPSchedule()
GRID = torch.linspace(-30, 30, 60001, dtype=torch.float64)  # of x_0, for quadrature


def random_mixture(k, d, seed):
    draw = torch.Generator().manual_seed(seed)
    factor = torch.randn(k, d, d, generator=draw, dtype=torch.float64)
    covariances = factor @ factor.mT / d + 0.05 * torch.eye(d)
    weights = torch.rand(k, generator=draw, dtype=torch.float64) + 0.2
    means = 2 * torch.randn(k, d, generator=draw, dtype=torch.float64)
    return GaussianMixture(weights / weights.sum(), means, covariances)


def states(mixture, n, seed):
    """n pairs (x_0, x_t) at random times, and the times."""
    noise = Noise.of(seed, n)
    x_0, t = mixture.sample(noise.fold(0)), noise.fold(1).uniform() * 0.98 + 0.02
    return x_0, SCHEDULE.marginal(x_0, t, noise.fold(2).normal(*mixture.shape)), t


def moments_1d(mixture, x_t, t):
    """(log p(x_t), E[x_0 | x_t], Var[x_0 | x_t]) of a 1-D mixture, by quadrature over x_0."""
    alpha, sigma = SCHEDULE.alpha(t.double())[:, None], SCHEDULE.sigma(t.double())[:, None]
    prior = sum(
        float(w) * stats.norm.pdf(GRID.numpy(), float(m), math.sqrt(c))
        for w, m, c in zip(mixture.weights, mixture.means[:, 0], mixture.covariances[:, 0, 0], strict=True)
    )
    likelihood = stats.norm.pdf(x_t.double().numpy(), (alpha * GRID).numpy(), sigma.numpy())
    joint = torch.from_numpy(likelihood * prior)
    density = joint.sum(1) * (GRID[1] - GRID[0])
    mean = (joint * GRID).sum(1) / joint.sum(1)
    return density.log(), mean, (joint * (GRID - mean[:, None]) ** 2).sum(1) / joint.sum(1)


def test_posteriors_equal_quadrature():
    chosen = random_mixture(4, 1, 0)
    _, x_t, t = states(chosen, 64, 1)
    density, mean, variance = moments_1d(chosen, x_t, t)
    x_t = x_t.double()
    torch.testing.assert_close(chosen.log_density(x_t, t), density, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(chosen.posterior_mean(x_t, t)[:, 0], mean, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(chosen.posterior_covariance_trace(x_t, t), variance, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("t", [0.0, 0.2, 1.0])
def test_densities_equal_those_of_pytorch(t):
    chosen = random_mixture(5, 4, 2)
    times = torch.tensor(t, dtype=torch.float64)
    alpha, variance = SCHEDULE.alpha(times), SCHEDULE.variance(times)
    covariances = alpha**2 * chosen.covariances + variance * torch.eye(4).double()
    components = MultivariateNormal(alpha * chosen.means, covariances)
    marginal = MixtureSameFamily(Categorical(chosen.weights), components)
    x = marginal.sample((100,))
    torch.testing.assert_close(chosen.log_density(x, t), marginal.log_prob(x), atol=1e-10, rtol=1e-10)
    responsibilities = (chosen.weights.log() + components.log_prob(x[:, None])).softmax(1)
    found = chosen.component_posterior(x, t).log_responsibilities.exp()
    torch.testing.assert_close(found, responsibilities, atol=1e-10, rtol=1e-10)


def test_mixture64_is_a_model_of_the_digits_as_scikit_learn_sees_it():
    from sklearn.datasets import load_digits
    from sklearn.mixture import GaussianMixture as Foreign

    chosen, digits = mixture("mixture64"), load_digits().data / 8 - 1
    foreign = Foreign(20)
    foreign.weights_, foreign.means_ = chosen.weights.numpy(), chosen.means.numpy()
    foreign.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(chosen.covariances.numpy()))
    ours = chosen.log_density(torch.from_numpy(digits))
    np.testing.assert_allclose(ours, foreign.score_samples(digits), rtol=1e-8)
    # Digits are likelier than their mirror images: the parameters are those of digits, not of any mixture.
    mirrored = digits.reshape(-1, 8, 8)[:, :, ::-1].reshape(-1, 64).copy()
    assert ours.mean() > chosen.log_density(torch.from_numpy(mirrored)).mean() + 100
    np.testing.assert_allclose(chosen.weights @ chosen.means, digits.mean(0), atol=1e-5)


def test_the_posterior_of_a_gaussian_is_the_closed_form():
    chosen = random_mixture(1, 5, 3)
    mean, covariance = chosen.means[0], chosen.covariances[0]
    _, x_t, t = states(chosen, 40, 4)
    x_t = x_t.double()
    alpha, variance = SCHEDULE.alpha(t.double()), SCHEDULE.variance(t.double())
    # (C⁻¹ + α²/σ² I)⁻¹ and that times (C⁻¹ m + α/σ² x_t): the textbook's precision form.
    precision = covariance.inverse() + (alpha**2 / variance)[:, None, None] * torch.eye(5)
    pull = covariance.inverse() @ mean + (alpha / variance)[:, None] * x_t
    expected = torch.linalg.solve(precision, pull)
    torch.testing.assert_close(chosen.posterior_mean(x_t, t), expected, atol=1e-9, rtol=1e-8)
    posterior = chosen.component_posterior(x_t, t)
    axes = chosen.components.axes[0]
    found = axes.T @ posterior.variances[:, 0].diag_embed() @ axes
    torch.testing.assert_close(found, precision.inverse(), atol=1e-9, rtol=1e-8)


def test_draws_have_the_posterior_s_mean_and_covariance():
    chosen, n = random_mixture(3, 4, 5), 40_000
    t = torch.tensor([0.6])
    x_t = SCHEDULE.alpha(t) * (chosen.weights @ chosen.means).float()[None]  # between the components
    posterior = chosen.component_posterior(x_t.double(), t)
    weights, means, axes = posterior.log_responsibilities[0].exp(), posterior.means[0], chosen.components.axes
    assert weights.max() < 0.9  # several components take part
    mean = weights @ means
    within = torch.einsum("k,kji,kj,kjl->il", weights, axes, posterior.variances[0], axes)
    covariance = within + torch.einsum("k,ki,kj->ij", weights, means - mean, means - mean)
    draws = MixturePosterior(chosen)(x_t.repeat(n, 1), t.repeat(n), Noise.of(7, n)).double()
    white = torch.linalg.solve(torch.linalg.cholesky(covariance), (draws - mean).T)
    assert white.mean(1).abs().max() < 4.5 / math.sqrt(n)
    assert (white @ white.T / n - torch.eye(4)).abs().max() < 4.5 * math.sqrt(2 / n)


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("t", [0.0, 0.05, 0.5])
def test_the_score_is_the_gradient_of_the_density(name, t):
    chosen = mixture(name)
    x_0, _, _ = states(chosen, 20, 8)
    rows = torch.full((20,), t)
    x_t = SCHEDULE.marginal(x_0, rows, Noise.of(9, 20).normal(*chosen.shape)).double().requires_grad_()
    (gradient,) = torch.autograd.grad(chosen.log_density(x_t, t).sum(), x_t)
    torch.testing.assert_close(chosen.score(x_t.detach(), t), gradient, atol=1e-9, rtol=1e-9)


def test_the_score_and_the_posterior_mean_obey_tweedie_s_formula():
    chosen = mixture("mixture64")
    _, x_t, t = states(chosen, 200, 10)
    x_t, alpha = x_t.double(), SCHEDULE.alpha(t.double())[:, None]
    tweedie = (x_t + SCHEDULE.variance(t.double())[:, None] * chosen.score(x_t, t)) / alpha
    torch.testing.assert_close(chosen.posterior_mean(x_t, t), tweedie, atol=1e-7, rtol=1e-7)


def test_the_denoiser_is_the_posterior_mean_in_other_coordinates():
    chosen = mixture("mixture8")
    _, x_t, t = states(chosen, 200, 11)
    x_t, alpha, sigma = x_t.double(), SCHEDULE.alpha(t.double()), SCHEDULE.sigma(t.double())
    found = chosen.denoise(x_t / alpha[:, None], sigma / alpha)
    torch.testing.assert_close(found, chosen.posterior_mean(x_t, t), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", ["mixture2d", "mixture64"])
def test_the_tower_property_and_the_law_of_total_variance(name):
    chosen, n = mixture(name), 8000
    x_0, x_t, t = states(chosen, n, 12)
    conditional = chosen.posterior_mean(x_t, t)
    error = x_0 - conditional
    # Given x_t the error has mean zero and the stated variance, so it is orthogonal to what x_t determines.
    for orthogonal in (error, error * conditional, error * x_t.sin()):
        z = orthogonal.mean(0) / orthogonal.std(0) * math.sqrt(n)
        assert z.abs().max() < 4.5
    excess = error.square().sum(1) - chosen.posterior_covariance_trace(x_t, t)
    assert abs(excess.mean()) < 4.5 * excess.std() / math.sqrt(n)


@pytest.mark.parametrize("name", ["mixture3", "mixture8", "mixture64"])
def test_a_draw_given_x_t_and_the_truth_are_exchangeable(name):
    chosen, n = mixture(name), 12_000
    x_0, x_t, t = states(chosen, n, 13)
    drawn = MixturePosterior(chosen)(x_t, t, Noise.of(14, n))
    for function in (lambda x: x * x_t, lambda x: x**2, lambda x: x * x.roll(1, 1), lambda x: (3 * x).sin()):
        difference = (function(drawn) - function(x_0)).double()
        z = difference.mean(0) / difference.std(0) * math.sqrt(n)
        assert z.abs().max() < 4.5


@pytest.mark.parametrize("steps", [1, 2, 4, 16])
def test_any_number_of_exact_steps_reproduces_a_gaussian(steps):
    chosen, n = random_mixture(1, 8, 15), 60_000
    *_, (_, x_0, _) = reverse_sde(MixturePosterior(chosen), SCHEDULE, time_grid(steps), chosen.shape, Noise.of(16, n))
    white = torch.linalg.solve(torch.linalg.cholesky(chosen.covariances[0]), (x_0.double() - chosen.means[0]).T)
    assert abs(white.mean()) < 0.005
    assert abs(white.std() - 1) < 0.005
    assert (white @ white.T / n - torch.eye(8)).abs().max() < 4.5 * math.sqrt(2 / n)


def test_exact_steps_reproduce_a_mixture_s_modes():
    chosen, n = mixture("mixture2d"), 20_000
    *_, (_, x_0, _) = reverse_sde(MixturePosterior(chosen), SCHEDULE, time_grid(4), chosen.shape, Noise.of(17, n))
    modes = chosen.component_posterior(x_0, 0.0).log_responsibilities.argmax(1)
    assert stats.chisquare(modes.bincount(minlength=8).numpy()).pvalue > 1e-3
    offsets = (x_0 - chosen.means[modes]).flatten() / 0.15
    assert stats.kstest(offsets, "norm").pvalue > 1e-3


def test_samples_are_distributed_as_stated():
    chosen, n = random_mixture(3, 1, 18), 20_000
    sampled = chosen.sample(Noise.of(19, n))[:, 0].numpy()

    def cumulative(x):
        deviations = chosen.covariances[:, 0, 0].sqrt()
        return stats.norm.cdf(x[:, None], chosen.means[:, 0], deviations) @ chosen.weights.numpy()

    assert stats.kstest(sampled, cumulative).pvalue > 1e-3
    many = mixture("mixture64")
    assert float(many.sample(Noise.of(20, n)).square().mean().sqrt()) == pytest.approx(
        many.root_mean_square(), rel=0.005
    )


TARGETS = {"x0": X0Target(), "residual": ResidualTarget(SCHEDULE, 1.3)}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_the_exact_velocity_equals_quadrature(target):
    chosen = random_mixture(4, 1, 21)
    x_0, x_t, t = states(chosen, 64, 22)
    tau = Noise.of(23, 64).uniform() * 0.95 + 0.05
    x_0, x_t, t, tau = x_0.double(), x_t.double(), t.double(), tau.double()
    noise = Noise.of(24, 64).normal(1).double()
    z = (1 - tau)[:, None] * target.residual(x_0, x_t, t) + tau[:, None] * noise
    # E[(z - y)/τ | z, x_t], weighing every x_0 by p(x_0) N(x_t; α x_0, σ²) N(z; (1-τ) y, τ²).
    alpha, sigma = SCHEDULE.alpha(t)[:, None], SCHEDULE.sigma(t)[:, None]
    y = target.residual(GRID.expand(64, -1), x_t.expand(-1, len(GRID)), t)
    log_weight = chosen.log_density(GRID[:, None]) - 0.5 * ((x_t - alpha * GRID) / sigma) ** 2
    log_weight = log_weight - 0.5 * ((z - (1 - tau)[:, None] * y) / tau[:, None]) ** 2
    expected = (z - (log_weight.softmax(1) * y).sum(1, keepdim=True)) / tau[:, None]
    found = exact_velocity(chosen, SCHEDULE, target, z, tau, x_t, t)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("t", [0.2, 0.7])
def test_the_exact_flow_ends_in_the_posterior(target, t):
    chosen, n, steps = random_mixture(3, 2, 25), 4000, 60
    rows = torch.full((n,), t)
    x_t = SCHEDULE.marginal(chosen.means[:1].float().repeat(n, 1), rows, torch.zeros(n, 2))
    z = Noise.of(26, n).normal(2)
    for k in range(steps, 0, -1):  # the midpoint rule; it does not touch τ = 0
        tau, half = k / steps, 0.5 / steps
        middle = z - half * exact_velocity(chosen, SCHEDULE, target, z, tau, x_t, t)
        z = z - 2 * half * exact_velocity(chosen, SCHEDULE, target, middle, tau - half, x_t, t)
    flowed = target.decode(z, x_t, rows)
    drawn = MixturePosterior(chosen)(x_t, rows, Noise.of(27, n))
    for direction in ([1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, -0.6]):
        projections = (x @ torch.tensor(direction) for x in (flowed, drawn))
        assert stats.ks_2samp(*projections).pvalue > 1e-3


def test_a_row_does_not_depend_on_its_batch():
    chosen, rows = mixture("mixture64"), slice(1490, 1510)
    _, x_t, t = states(chosen, 2000, 28)
    noise = Noise.of(29, 2000)
    whole = chosen.draw_posterior(x_t, t, noise)
    torch.testing.assert_close(whole[rows], chosen.draw_posterior(x_t[rows], t[rows], noise[rows]))
    torch.testing.assert_close(chosen.sample(noise)[rows], chosen.sample(noise[rows]))
    torch.testing.assert_close(chosen.score(x_t, t)[rows], chosen.score(x_t[rows], t[rows]))


def test_at_time_zero_the_posterior_is_the_point_itself():
    chosen = mixture("mixture8")
    x_0 = chosen.sample(Noise.of(30, 100))
    torch.testing.assert_close(chosen.draw_posterior(x_0, 0.0, Noise.of(31, 100)), x_0)
    torch.testing.assert_close(chosen.denoise(x_0, 0.0), x_0)
    assert chosen.posterior_covariance_trace(x_0, 0.0).abs().max() < 1e-12


def test_the_analytic_problems_are_those_of_the_definition():
    two, three, eight = mixture("mixture2d"), mixture("mixture3"), mixture("mixture8")
    circle = torch.view_as_complex(two.means.contiguous())
    torch.testing.assert_close(circle**8, torch.full((8,), 1.4**8 + 0j, dtype=torch.complex128))
    assert circle[0] == 1.4
    assert len({complex(round(z.real, 9), round(z.imag, 9)) for z in circle.tolist()}) == 8
    assert three.means.tolist() == [[-3, -3], [0, 0], [3, 3]]
    grid = {(x, y, *[0] * 6) for x in range(-2, 3) for y in range(-2, 3)}
    assert {tuple(mean) for mean in eight.means.tolist()} == grid
    for chosen, variance in ((two, 0.15**2), (three, 0.5), (eight, 0.25**2)):
        k, (d,) = len(chosen.weights), chosen.shape
        torch.testing.assert_close(chosen.covariances, (variance * torch.eye(d).double()).expand(k, d, d))
        torch.testing.assert_close(chosen.weights, torch.full((k,), 1 / k).double())
    with pytest.raises(InvalidArgumentError, match="mixture2d, mixture3, mixture8, mixture64"):
        mixture("mixture9")


EYE = torch.eye(2).expand(2, 2, 2)
HALF, ZERO = torch.tensor([0.5, 0.5]), torch.zeros(2, 2)
BAD = {
    "sum": (torch.tensor([0.5, 0.6]), ZERO, EYE, "sum to 1.1"),
    "negative weight": (torch.tensor([1.5, -0.5]), ZERO, EYE, "positive"),
    "dimensions": (HALF, torch.zeros(2, 3), EYE, "weights \\[k\\]"),
    "components": (HALF, torch.zeros(3, 2), EYE, "weights \\[k\\]"),
    "none": (torch.zeros(0), torch.zeros(0, 2), torch.zeros(0, 2, 2), "weights \\[k\\]"),
    "NaN": (HALF, torch.tensor([[0.0, math.nan], [0.0, 0.0]]), EYE, "means has values that are NaN"),
    "infinite": (HALF, ZERO, EYE / 0, "covariances has values that are NaN or infinite"),
    "asymmetric": (HALF, ZERO, EYE + torch.tensor([[0.0, 0.5], [0.0, 0.0]]), "symmetric"),
    "singular": (HALF, ZERO, torch.stack([EYE[0], torch.ones(2, 2)]), "degenerate covariance of component 1"),
    "indefinite": (HALF, ZERO, torch.stack([-EYE[0], EYE[0]]), "degenerate covariance of component 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_parameters_of_no_mixture_are_refused(case):
    weights, means, covariances, message = BAD[case]
    with pytest.raises(InvalidArgumentError, match=message):
        GaussianMixture(weights, means, covariances)


def test_arguments_out_of_range_are_refused(as_users_call):
    chosen, x = mixture("mixture3"), torch.zeros(4, 2)
    with pytest.raises(InvalidArgumentError, match=r"mixture3 takes points \[b, 2\], got \[4, 3\]"):
        chosen.score(torch.zeros(4, 3), 0.5)
    for t in (-0.1, 1.1, math.nan):
        with pytest.raises(InvalidArgumentError, match=r"t must lie in \[0, 1\]"):
            chosen.posterior_mean(x, t)
    with pytest.raises(InvalidArgumentError, match="sigma must not be negative"):
        chosen.denoise(x, -1.0)
    with pytest.raises(InvalidArgumentError, match=r"tau and t must lie in \(0, 1\]"):
        exact_velocity(chosen, SCHEDULE, X0Target(), x, 0.0, x, 0.5)
    with pytest.raises(InvalidArgumentError, match="degenerate covariance"):
        GaussianMixture.isotropic(x, 0.0)
    for means in (x[:0], x.long()):
        with pytest.raises(InvalidArgumentError, match="means must be floating-point"):
            GaussianMixture.isotropic(means, 1.0)
    for shape, sigma in (((1, 3), 0.1), ((2, 2), 0.1), ((1, 2), 0.0)):
        with pytest.raises(InvalidArgumentError, match=r"need a matrix \[m, 2\]"):
            conditioned(chosen, torch.zeros(shape), torch.zeros(1), sigma)
