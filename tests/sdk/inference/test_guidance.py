"""Guides: exact measurements, exact Gaussian posteriors, order and gradients; nonsense is refused."""

import pytest
import torch

from stmd_sdk import InferenceError, InvalidArgumentError, ModelSpec, Noise, Sampler, VPSchedule
from stmd_sdk.backends.onnx import SessionNetwork
from stmd_sdk.backends.torch import TorchNetwork
from stmd_sdk.codecs.codec import PixelCodec, VectorCodec
from stmd_sdk.diffusion.loop import reverse_sde, time_grid
from stmd_sdk.inference.guidance import LikelihoodGuide, RangeNullGuide
from stmd_sdk.mixtures.law import GaussianMixture, MixturePosterior
from stmd_sdk.models.objective import DDPM, STMD
from stmd_sdk.networks import MLPConfig, UNetConfig
from stmd_sdk.operators import Clip, GaussianNoise, Mask, Matrix, Measurement, average_pool, box_mask

CPU = torch.device("cpu")
SCHEDULE = VPSchedule()
SHAPE = (1, 8, 8)


def _images():
    """A sampler of images with a network small enough to be run many times: one convolution and the times."""
    module = torch.nn.Conv2d(2, 1, 3, padding=1, bias=False)
    torch.nn.init.normal_(module.weight, std=0.3, generator=torch.Generator().manual_seed(0))

    class Timed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = module.requires_grad_(False)

        def forward(self, x, times):
            return torch.tanh(self.convolution(x) + times.sum(1)[:, None, None, None])

    network = UNetConfig(channels=(8, 16), groups=4, embedding_width=16)
    spec = ModelSpec("images", STMD("residual"), SHAPE, network, PixelCodec())
    return Sampler(TorchNetwork(Timed(), CPU, torch.float32), spec, CPU)


def _gaussian(sigma_data, d=4):
    """The exact posterior of data N(0, σ_d² I)."""
    return MixturePosterior(GaussianMixture.isotropic(torch.zeros(1, d), sigma_data))


def _run(posterior, steps, n, d=4, seed=0):
    *_, (_, x_0, _) = reverse_sde(posterior, SCHEDULE, time_grid(steps), (d,), Noise.of(seed, n))
    return x_0


def test_measured_pixels_are_met_to_a_millionth_in_fifty_steps():
    x = Noise.of(5, 1).uniform(*SHAPE) * 2 - 1
    mask = box_mask(SHAPE, 4)
    filled = _images().condition(Mask(mask), (mask * x)[0]).sample(3, inference_steps=50, seed=0)
    known = mask.expand(3, *SHAPE) == 1
    assert (filled - x)[known].abs().max() < 1e-6
    hidden = filled[~known].reshape(3, -1)
    assert (hidden[0] - hidden[1]).abs().max() > 0.1  # what is not measured stays random


def test_noisy_conditioning_is_exact_for_gaussian_data_whatever_the_operator_and_the_steps():
    sigma_data, sigma, n = 0.8, 0.3, 40_000
    matrix = torch.tensor([[1.0, 0.5, 0.0, -0.2], [0.0, 2.0, 1.0, 0.3]])  # rows of unequal norm, not orthogonal
    y = torch.tensor([[0.9, -1.1]])
    guide = RangeNullGuide(Matrix(matrix, (4,)), y, SCHEDULE, sigma_data, sigma)
    precision = torch.eye(4) / sigma_data**2 + matrix.T @ matrix / sigma**2
    covariance = torch.linalg.inv(precision)
    mean = covariance @ matrix.T @ y[0] / sigma**2
    for steps in (1, 4):
        x_0 = _run(guide(_gaussian(sigma_data)), steps, n)
        # Five standard errors; log σ_1 of the start is off by 1e-4 of the data's variance, far below.
        error = 5 * (covariance.diagonal() / n).sqrt()
        assert ((x_0.mean(0) - mean).abs() < error).all()
        assert (torch.cov(x_0.T) - covariance).abs().max() < 5 * 2**0.5 * covariance.max() / n**0.5


def test_two_exact_measurements_compose_into_both():
    sampler = _images()
    x = Noise.of(5, 1).uniform(*SHAPE) * 2 - 1
    top, left = torch.zeros(SHAPE), torch.zeros(SHAPE)
    top[:, :3], left[:, :, :3] = 1, 1
    both = sampler.condition(Mask(top), top * x[0]).condition(Mask(left), left * x[0])
    x_0 = both.sample(2, inference_steps=3, seed=0)
    assert ((x_0 - x) * (top + left).clamp(max=1)).abs().max() < 1e-6
    assert len(both.guides) == 2
    assert len(sampler.guides) == 0


def test_independent_noisy_measurements_compose_into_their_product():
    sigma_data, n = 1.0, 40_000
    rows = torch.eye(2)
    guides = [
        RangeNullGuide(Matrix(rows[i : i + 1], (2,)), torch.tensor([[y]]), SCHEDULE, sigma_data, 0.5)
        for i, y in enumerate((0.7, -0.4))
    ]
    x_0 = _run(guides[1](guides[0](_gaussian(sigma_data, 2))), 3, n, d=2)
    expected = torch.tensor([0.7, -0.4]) / 1.25
    assert (x_0.mean(0) - expected).abs().max() < 5 * 0.2**0.5 / n**0.5
    assert (torch.cov(x_0.T) - 0.2 * torch.eye(2)).abs().max() < 5 * 2**0.5 * 0.2 / n**0.5


def test_a_foreign_operator_conditions_as_ours():
    class Foreign(torch.nn.Module):
        def A(self, x, **kwargs):
            return torch.nn.functional.avg_pool2d(x, 2)

        def A_adjoint(self, y, **kwargs):
            return self.A_dagger(y) / 4

        def A_dagger(self, y, **kwargs):
            return y.repeat_interleave(2, 2).repeat_interleave(2, 3)

    y = torch.full((1, 4, 4), 0.25)
    for sigma in (0.0, 0.2):
        ours, foreign = (
            _images().condition(operator, y, sigma=sigma).sample(2, inference_steps=2, seed=0)
            for operator in (average_pool(SHAPE, 2), Foreign())
        )
        torch.testing.assert_close(ours, foreign, rtol=1e-4, atol=1e-5)


def test_likelihood_guidance_is_the_gradient_of_the_log_mean_likelihood():
    """Against finite differences of log mean L over the same draws, for Gaussian data where steps stay short."""
    y, sigma, draws = torch.tensor([[0.3]]), 2.0, 3
    measurement = Measurement(Matrix(torch.ones(1, 2), (2,)), y, GaussianNoise(sigma))
    posterior, noise = _gaussian(0.7, 2), Noise.of(0, 2)
    x_t, t = torch.tensor([[0.4, -0.2], [1.0, 0.5]]), torch.tensor([0.4, 0.6])
    guided = LikelihoodGuide(measurement, SCHEDULE, 0.7, draws=draws)(posterior)(x_t, t, noise)
    plain = posterior(x_t.repeat(draws, 1), t.repeat(draws), noise.draws(draws))[:2]

    def log_mean(x):
        values = measurement(posterior(x.repeat(draws, 1), t.repeat(draws), noise.draws(draws)))
        return values.reshape(draws, 2).double().logsumexp(0)

    step = 0.05
    gradient = torch.stack(
        [(log_mean(x_t + step * e) - log_mean(x_t - step * e)) / (2 * step) for e in torch.eye(2)], dim=1
    )
    expected = (SCHEDULE.variance(t) / SCHEDULE.alpha(t))[:, None] * gradient
    torch.testing.assert_close((guided - plain).double(), expected, rtol=2e-2, atol=2e-3)


def test_likelihood_guidance_reaches_through_the_network_and_pulls_towards_the_measurement():
    sampler = _images()
    measurement = Measurement(average_pool(SHAPE, 2), torch.full((1, 1, 4, 4), 0.9), GaussianNoise(0.1))
    guide = LikelihoodGuide(measurement, sampler.spec.schedule, sampler.spec.sigma_data)
    guided = sampler.guided(guide).sample(8, inference_steps=8, seed=0)
    plain = sampler.sample(8, inference_steps=8, seed=0)
    assert (measurement(guided) > measurement(plain)).all()
    assert not guided.requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(sampler.guided(guide).sample(8, inference_steps=8, seed=0), guided)


def test_the_network_gives_gradients_only_when_asked():
    network = _images().network
    x, times = torch.zeros(1, 2, 8, 8), torch.ones(1, 3)
    assert network(x, times).is_inference()
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(network(x, times).sum(), x)
    assert gradient.abs().sum() > 0


def test_backends_that_cannot_differentiate_say_so():
    session = SessionNetwork(None, 1, CPU)
    with pytest.raises(InvalidArgumentError, match="a session of an exported file cannot be differentiated"):
        session(torch.zeros(1, 2, 8, 8, requires_grad=True), torch.ones(1, 3))
    sampler = Sampler(session, _images().spec, CPU)
    guide = LikelihoodGuide(lambda x: x.flatten(1).sum(1), SCHEDULE, 1.0)
    with pytest.raises(InvalidArgumentError, match=r"needs the model's \.safetensors file"):
        sampler.guided(guide).sample(1, seed=0)


def test_bad_conditions_are_refused(as_users_call):
    sampler, mask = _images(), Mask(box_mask(SHAPE, 4))
    with pytest.raises(InvalidArgumentError, match="one measurement of shape"):
        sampler.condition(mask, torch.zeros(1, 9, 9))
    with pytest.raises(InvalidArgumentError, match="scale images"):
        sampler.condition(mask, mask.A(torch.full((1, *SHAPE), 255.0)))
    with pytest.raises(InvalidArgumentError, match="sigma must not be negative"):
        sampler.condition(mask, torch.zeros(SHAPE), sigma=-1.0)
    with pytest.raises(InvalidArgumentError, match="Clip has no method A_adjoint"):
        sampler.condition(Clip(), torch.zeros(SHAPE))
    with pytest.raises(InferenceError, match="NaN"):
        sampler.guided(LikelihoodGuide(lambda x: x.flatten(1).sum(1) * torch.nan, SCHEDULE, 1.0)).sample(1, seed=0)
    with pytest.raises(InvalidArgumentError, match="has no gradient"):
        sampler.guided(LikelihoodGuide(lambda x: torch.zeros(len(x)), SCHEDULE, 1.0)).sample(1, seed=0)


def test_methods_that_need_the_models_own_draws_refuse_guides_and_point_estimates():
    guided = _images().condition(Mask(box_mask(SHAPE, 4)), torch.zeros(SHAPE))
    for method in (guided.chain, guided.steer):
        with pytest.raises(InvalidArgumentError, match="from the sampler without guides"):
            method(lambda x: x.flatten(1).sum(1), 2)
    spec = ModelSpec("point", DDPM(), (2,), MLPConfig(width=8, depth=1), VectorCodec())
    with pytest.raises(InvalidArgumentError, match="knows one point"):
        Sampler(lambda x, times: x, spec, CPU).chain(lambda x: x.sum(1), 2)
