"""Networks of every prediction and schedule are the denoiser that diffusers makes of them."""

import math

import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

from stmd_sdk import InvalidArgumentError, Noise, VPSchedule
from stmd_sdk.diffusion.glass import GlassVelocity
from stmd_sdk.diffusion.noise import GivenNoise
from stmd_sdk.diffusion.posterior import PointPosterior
from stmd_sdk.diffusion.preconditioning import (
    DiscreteSteps,
    EDMLevels,
    FlowLevels,
    GivenLevels,
    PreconditionedDenoiser,
)
from stmd_sdk.diffusion.target import ResidualTarget, X0Target
from stmd_sdk.mixtures.law import exact_velocity
from stmd_sdk.mixtures.problems import mixture
from stmd_sdk.models.objective import Measured, Pretrained

SCHEDULE = VPSchedule()
STEPS = [
    DiscreteSteps(betas, start, end, 1000, zero_snr, prediction)
    for betas, start, end in (
        ("linear", 1e-4, 0.02),
        ("scaled_linear", 0.00085, 0.012),
        ("squaredcos_cap_v2", 1e-4, 0.02),
    )
    for prediction in ("epsilon", "sample", "v_prediction")
    for zero_snr in (False, True)
    if not (zero_snr and prediction == "epsilon")
]
LEVELS = [GivenLevels(), *STEPS, EDMLevels(), EDMLevels(0.7, prediction="v_prediction"), FlowLevels()]


def _named(levels):
    return "-".join(map(str, filter(None, (getattr(levels, key, "") for key in ("kind", "betas", "prediction"))))) + (
        "-zero" if getattr(levels, "zero_snr", False) else ""
    )


def _formula(x, times):
    """A network: what matters is that it depends on both."""
    return torch.tanh(x + 0.001 * times[:, :1])


def _theirs(levels, **options):
    theirs = DDPMScheduler(
        levels.steps, levels.beta_start, levels.beta_end, levels.betas, prediction_type=levels.prediction,
        rescale_betas_zero_snr=levels.zero_snr, **options,
    )  # fmt: skip
    # In float32 their 1 - ᾱ of the first steps has three digits.
    theirs.alphas_cumprod, theirs.one = torch.cumprod(1 - theirs.betas.double(), dim=0), theirs.one.double()
    return theirs


@pytest.mark.parametrize("levels", STEPS, ids=_named)
@pytest.mark.parametrize("clip", [None, 0.8])
def test_an_ancestral_step_of_the_point_posterior_is_diffusers(levels, clip):
    theirs = _theirs(levels, clip_sample=clip is not None, clip_sample_range=clip or 1.0)
    point = PointPosterior(PreconditionedDenoiser(_formula, levels, clip), SCHEDULE, None)
    x = Noise.of(0, 3).normal(5)
    for k in (1, 2, 100, 700, 998):
        bars = theirs.alphas_cumprod
        t, s = (SCHEDULE.time((1 / bars[i] - 1).sqrt().repeat(3)) for i in (k, k - 1))
        if float(t[0]) == 1:  # a level above those of our schedule
            continue
        epsilon = torch.randn(x.shape, generator=torch.Generator().manual_seed(k))
        time = torch.full((3, 1), float(k))
        expected = theirs.step(_formula(x, time), k, x, generator=torch.Generator().manual_seed(k)).prev_sample
        found = SCHEDULE.bridge(point(x.double(), t, Noise.of(1, 3)), x.double(), t, s, epsilon.double())
        torch.testing.assert_close(found.float(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("levels", STEPS, ids=_named)
def test_a_step_s_own_level_is_that_step(levels):
    bars = _theirs(levels).alphas_cumprod[:-1]
    steps = torch.arange(len(bars), dtype=torch.float64)
    # Of a step: a first β, rescaled by them in float32, has but four digits.
    torch.testing.assert_close(levels.step((1 / bars - 1).sqrt()), steps, atol=5e-3, rtol=0)
    between = levels.step((1 / bars[499:501] - 1).sqrt().log().mean(dim=0, keepdim=True).exp())
    assert float(between) == pytest.approx(499.5, abs=1e-3)


def test_flow_matching_s_x_0_is_diffusers_whatever_the_shift():
    for shift in (1.0, 3.0):
        theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
        theirs.set_timesteps(7)
        denoiser = PreconditionedDenoiser(_formula, FlowLevels())
        for time, s in list(zip(theirs.timesteps, theirs.sigmas, strict=False))[1:]:
            x_s = Noise.of(0, 3).normal(5)
            # Euler's step from s to 0 is their x_0.
            expected = x_s - s * _formula(x_s, time.repeat(3)[:, None])
            found = denoiser(x_s / (1 - s), (s / (1 - s)).repeat(3))
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
            last = FlowMatchEulerDiscreteScheduler(shift=shift)
            last.set_timesteps(sigmas=[float(s) / (shift - (shift - 1) * float(s))])
            step = last.step(_formula(x_s, time.repeat(3)[:, None]), last.timesteps[0], x_s).prev_sample
            torch.testing.assert_close(found, step, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_edm_s_preconditioning_is_diffusers(prediction):
    theirs = EDMEulerScheduler(prediction_type=prediction)
    denoiser = PreconditionedDenoiser(_formula, EDMLevels(prediction=prediction))
    for level in (0.01, 0.5, 20.0):
        x, sigma = level * Noise.of(0, 3).normal(5), torch.full((3,), level)
        output = _formula(theirs.precondition_inputs(x, level), theirs.precondition_noise(sigma)[:, None])
        torch.testing.assert_close(
            denoiser(x, sigma), theirs.precondition_outputs(x, output, level), atol=1e-5, rtol=1e-5
        )


def _wrapped(data, levels):
    """The network of ``levels`` whose denoiser is the mixture's: it gets a time, and its input scaled."""
    grid = torch.logspace(math.log10(max(levels.sigma_range[0], 1e-4)), 3, 20_001, dtype=torch.float64)
    grid = grid[grid <= levels.sigma_range[1]]

    def network(scaled, times):
        sigma = _level(levels, grid, times[:, 0])
        scales = levels.scales(sigma)
        x = scaled / scales.c_in[:, None]
        return (data.denoise(x, sigma) - scales.c_skip[:, None] * x) / scales.c_out[:, None]

    return network


def _level(levels, grid, time):
    """The σ of a network's time, by bisection."""
    low, high = grid[0].repeat(len(time)), grid[-1].repeat(len(time))
    for _ in range(60):
        middle = (low * high).sqrt()
        below = levels.scales(middle).time < time
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low * high).sqrt()


@pytest.mark.parametrize("levels", LEVELS, ids=_named)
def test_a_mixture_wrapped_as_any_prediction_has_the_exact_velocity(levels):
    data, n = mixture("mixture2d"), 40
    least, largest = levels.sigma_range
    t = 0.05 + 0.4 * Noise.of(0, n).uniform().double()
    x_t = SCHEDULE.marginal(data.sample(Noise.of(1, n)).double(), t, Noise.of(2, n).normal(2).double())
    z, tau = Noise.of(3, n).normal(2).double(), 0.1 + 0.9 * Noise.of(4, n).uniform().double()
    assert least < float((SCHEDULE.sigma(t) / SCHEDULE.alpha(t)).min()) < largest
    denoiser = PreconditionedDenoiser(_wrapped(data, levels), levels)
    for target in (X0Target(), ResidualTarget(SCHEDULE, 1.0)):
        found = GlassVelocity(denoiser, SCHEDULE, target)(z, tau, tau, x_t, t)
        exact = exact_velocity(data, SCHEDULE, target, z, tau, x_t, t)
        torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("levels", [*STEPS[:3], EDMLevels(), FlowLevels()], ids=_named)
def test_below_the_least_level_the_score_stays_that_of_the_least(levels):
    denoiser, least = PreconditionedDenoiser(_formula, levels), torch.full((3,), levels.sigma_range[0])
    x = Noise.of(0, 3).normal(5)
    step = denoiser(x, least) - x
    torch.testing.assert_close(denoiser(x, least / 2) - x, step / 4, atol=1e-6, rtol=1e-5)
    assert torch.equal(denoiser(x, torch.zeros(3)), x)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: DiscreteSteps(zero_snr=True), "zero_snr: a step without signal"),
        (lambda: DiscreteSteps(beta_start=0.0), "betas: need 0 < start"),
        (lambda: DiscreteSteps(steps=0), "steps must be"),
        (lambda: EDMLevels(sigma_min=3.0, sigma_max=2.0), "sigma: need"),
        (lambda: FlowLevels(0), "steps must be"),
    ],
)
def test_levels_that_are_none_are_refused(make, says):
    with pytest.raises(InvalidArgumentError, match=says):
        make()


@pytest.mark.parametrize("ratio", [0.5, 14.6, 80.0, 1000.0])
def test_a_schedule_ends_where_the_levels_do(ratio):
    schedule, one = VPSchedule.up_to(ratio), torch.ones(1, dtype=torch.float64)
    largest = float(schedule.sigma(one) / schedule.alpha(one))
    assert largest == pytest.approx(min(ratio, 152.2), rel=1e-3)


@pytest.mark.parametrize("levels", [STEPS[0], STEPS[2], EDMLevels(), FlowLevels()], ids=_named)
def test_the_exact_flow_of_a_network_can_be_captured_as_a_graph(levels, referee):
    posterior = Pretrained(levels, 1.0).posterior(_formula, 3, Measured(SCHEDULE, 0.5, 1.0, None))
    x_t, t, noise = Noise.of(0, 2).normal(5), torch.tensor([0.3, 0.9]), GivenNoise(Noise.of(1, 2).normal(5)[None], (0,))
    expected = posterior(x_t, t, noise)  # tables are copied to the device once
    with referee():
        assert torch.equal(posterior(x_t, t, noise), expected)
