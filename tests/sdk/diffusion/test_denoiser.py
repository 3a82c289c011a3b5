"""Denoisers of each objective: the posterior mean of data whose posterior is known."""

import pytest
import torch

from stmd_sdk import InvalidArgumentError, ModelSpec, Noise, Sampler, VPSchedule
from stmd_sdk.codecs.codec import VectorCodec
from stmd_sdk.diffusion.denoiser import Denoiser
from stmd_sdk.models.objective import DDPM, STMD, MeanFlow
from stmd_sdk.networks import MLPConfig

SCHEDULE = VPSchedule()
MEAN, DEVIATION = 0.4, 0.7
SIGMA = torch.tensor([0.01, 0.3, 2.0, 150.0])


def _spec(objective):
    return ModelSpec("data", objective, (5,), MLPConfig(width=8, depth=1), VectorCodec(), sigma_data=1.3)


def _mean(x, sigma):
    """E[x_0 | x_0 + σ n = x] for data N(MEAN, DEVIATION²)."""
    return (MEAN * sigma[:, None] ** 2 + DEVIATION**2 * x) / (DEVIATION**2 + sigma[:, None] ** 2)


def _looks():
    return MEAN + (DEVIATION**2 + SIGMA[:, None] ** 2).sqrt() * Noise.of(0, 4).normal(5)


def _check(denoiser):
    assert isinstance(denoiser, Denoiser)
    x = _looks()
    torch.testing.assert_close(denoiser(x, SIGMA), _mean(x, SIGMA), atol=1e-4, rtol=1e-4)


def test_ddpm_s_network_is_its_denoiser():
    def epsilon(x_t, times):
        alpha, sigma = SCHEDULE.alpha(times), SCHEDULE.sigma(times)
        return (x_t - alpha * _mean(x_t / alpha, (sigma / alpha)[:, 0])) / sigma

    _check(_spec(DDPM()).build_denoiser(epsilon))


@pytest.mark.parametrize("objective", [STMD(), STMD("residual"), STMD("residual", "x0"), STMD(output="x0")])
def test_an_stmd_network_has_a_denoiser_inside(objective):
    spec = _spec(objective)
    target = objective.flow_target(spec.measured)

    def network(x, times):
        # The exact velocity at τ = r = 1 and, what there is no right value for, zero everywhere else.
        z, x_t = x.chunk(2, dim=1)
        t = times[:, 2]
        alpha = SCHEDULE.alpha(t)
        x_0 = _mean(x_t / alpha[:, None], SCHEDULE.sigma(t) / alpha)
        at_the_start = (times[:, :1] == 1) & (times[:, 1:2] == 0)
        return at_the_start * (x_0 if objective.output == "x0" else z - target.residual(x_0, x_t, t))

    _check(spec.build_denoiser(network))
    _check(Sampler(network, spec, torch.device("cpu")).denoiser)


def test_the_bundled_model_s_denoiser_is_near_the_mixture_s():
    from stmd_sdk.mixtures.problems import mixture

    sampler, data, n = Sampler.from_pretrained("mixture2d", device="cpu"), mixture("mixture2d"), 2000
    for level in (0.2, 0.8, 3.0):
        sigma = torch.full((n,), level)
        x_0 = data.sample(Noise.of(0, n))
        x = x_0 + level * Noise.of(1, n).normal(2)
        exact = data.denoise(x, sigma)
        # The distance of D from x_0 is that of the posterior; the network's error is a small part of it.
        assert (sampler.denoiser(x, sigma) - exact).square().mean() < 0.03 * (exact - x_0).square().mean()


@pytest.mark.parametrize(("objective", "says"), [(MeanFlow(), "knows t = 1 only"), (STMD("mixture"), "not affine")])
def test_a_model_without_a_denoiser_says_why(objective, says):
    sampler = Sampler.from_pretrained("mixture64", device="cpu")
    spec = sampler.spec if objective.kind == "stmd" else _spec(objective)
    with pytest.raises(InvalidArgumentError, match=says):
        spec.build_denoiser(lambda x, times: x)


@pytest.mark.parametrize("objective", [DDPM(), STMD()])
def test_a_labelled_denoiser_is_that_of_its_rows_labels(objective):
    from stmd_sdk.diffusion.classes import Classes

    spec = ModelSpec("two", objective, (1,), MLPConfig(width=8, depth=1), VectorCodec(), classes=Classes(2))
    seen = []
    network = lambda x, times: seen.append(times[:, -1].tolist()) or torch.zeros_like(x[:, :1])  # noqa: E731
    x, sigma = torch.ones(2, 1), torch.ones(2)
    spec.build_denoiser(network)(x, sigma)
    spec.build_denoiser(network, Noise.of(0, 2).labelled(torch.tensor([1, 0])))(x, sigma)
    assert [labels for k, labels in enumerate(seen) if k == 0 or labels != seen[k - 1]] == [[2, 2], [1, 0]]
