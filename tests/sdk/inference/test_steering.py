"""Steering: exact for a mixture, evidence without bias, tilts as it should; and summaries of draws."""

import math

import pytest
import torch

from stmd_sdk import (
    InferenceError,
    InferenceWarning,
    InvalidArgumentError,
    ModelSpec,
    Noise,
    Sampler,
    VPSchedule,
    posterior_summary,
)
from stmd_sdk.codecs.codec import VectorCodec
from stmd_sdk.diffusion.loop import time_grid
from stmd_sdk.evaluation import MixturePosterior, conditioned, energy_distance, mixture
from stmd_sdk.inference.running import run_particles
from stmd_sdk.inference.steering import best_of, steered_sde
from stmd_sdk.models.objective import STMD
from stmd_sdk.networks import MLPConfig
from stmd_sdk.operators import GaussianNoise, Matrix, Measurement

SCHEDULE = VPSchedule()
MIXTURE = mixture("mixture3")
SLANT, Y, SIGMA = torch.tensor([[1.2, -0.8]]), torch.tensor([-1.0]), 0.2
MEASURED = Measurement(Matrix(SLANT, (2,)), Y[None], GaussianNoise(SIGMA))
EXACT, LOG_EVIDENCE = conditioned(MIXTURE, SLANT, Y, SIGMA)


def _steer(reward, n, steps, seed, tempering=0.5):
    walk = steered_sde(
        MixturePosterior(MIXTURE), SCHEDULE, time_grid(steps), (2,), reward, Noise.of(seed, n), tempering=tempering
    )
    return run_particles(walk, steps, lambda x: x)


def test_steering_draws_the_exact_posterior_and_its_evidence():
    draws = _steer(MEASURED, 8192, 12, 0)
    assert abs(draws.log_evidence - LOG_EVIDENCE) < min(0.05, 4 / math.sqrt(draws.ess))
    x = draws.resampled(1)
    masses = torch.bincount(torch.cdist(x.double(), MIXTURE.means).argmin(1), minlength=3) / len(x)
    assert (masses - EXACT.weights).abs().max() < 0.03
    assert energy_distance(x[:4096], EXACT.sample(Noise.of(3, 4096))) < 0.01


def test_the_evidence_has_no_bias_with_few_particles_and_fixed_powers():
    """The mean of 150 estimates from 8 particles each, against p(y): within four standard errors."""
    powers = (0.01, 0.1, 0.4, 1.0)
    estimates = torch.tensor([_few(seed, powers) for seed in range(150)], dtype=torch.float64).exp()
    error = float(estimates.std()) / math.sqrt(len(estimates))
    assert abs(float(estimates.mean()) - math.exp(LOG_EVIDENCE)) < 4 * error
    assert error < 0.15 * math.exp(LOG_EVIDENCE)
    # Its logarithm is biased downwards by Jensen's inequality: the test can tell one from the other.
    assert float(estimates.log().mean()) < LOG_EVIDENCE - 0.1


def _few(seed, powers):
    walk = steered_sde(
        MixturePosterior(MIXTURE), SCHEDULE, time_grid(4), (2,), MEASURED, Noise.of(seed, 8), tempering=powers
    )
    *_, last = walk
    return last.log_evidence


def test_an_energy_tilts_the_modes_by_its_exponential():
    gain = torch.tensor([0.0, 1.0, 2.0])

    def reward(x):
        return gain[torch.cdist(x, MIXTURE.means.float()).argmin(1)]

    draws = _steer(reward, 8192, 8, 1)
    masses = torch.zeros(3).index_add(
        0, torch.cdist(draws.samples, MIXTURE.means.float()).argmin(1), draws.log_weights.softmax(0)
    )
    assert (masses - gain.softmax(0)).abs().max() < 4 * 0.5 / math.sqrt(draws.ess)
    assert draws.log_evidence == pytest.approx(float(gain.logsumexp(0)) - math.log(3), abs=4 / math.sqrt(draws.ess))


def test_steering_with_no_reward_is_sampling():
    draws = _steer(lambda x: torch.zeros(len(x)), 512, 4, 2)
    assert draws.log_evidence == 0
    assert draws.ess == pytest.approx(512)
    assert draws.path_ess == (1.0,) * 4


def test_best_of_takes_the_best_of_each_group():
    candidates = torch.tensor([[1.0], [3.0], [2.0], [-1.0], [-5.0], [0.0]])
    assert best_of(candidates, lambda x: x[:, 0], 3).flatten().tolist() == [3.0, 0.0]
    with pytest.raises(InvalidArgumentError, match="do not make groups of 4"):
        best_of(candidates, lambda x: x[:, 0], 4)


def test_failures_of_steering_are_told_with_their_figures():
    spec = ModelSpec("vectors", STMD(), (2,), MLPConfig(width=8, depth=1), VectorCodec())
    sampler = Sampler(lambda x, times: torch.zeros_like(x[:, :2]), spec, torch.device("cpu"))
    with pytest.warns(InferenceWarning, match=r"all 64 particles effectively go back to 1\.\d of their starts"):
        draws = sampler.steer(lambda x: -1e5 * x.square().sum(1), 64, inference_steps=3, seed=0)
    assert draws.ess < 2
    with pytest.raises(InferenceError, match="-inf for all"):
        sampler.steer(lambda x: x.new_full((len(x),), -torch.inf), 8, seed=0)
    with pytest.raises(InvalidArgumentError, match=r"a tensor \[8\], got \[8, 2\]"):
        sampler.steer(lambda x: x, 8, seed=0)
    with pytest.raises(InvalidArgumentError, match="4 rising powers, 1 at last"):
        sampler.steer(lambda x: x[:, 0], 8, tempering=(0.5, 1.0))
    with pytest.raises(InvalidArgumentError, match="resample_below is a share"):
        sampler.steer(lambda x: x[:, 0], 8, resample_below=0.0)


def test_the_interval_of_nineteen_draws_covers_nine_times_in_ten():
    n = 20_000
    draws, truth = Noise.of(0, 19).normal(n), Noise.of(1, 1).normal(n)[0]
    summary = posterior_summary(draws)
    assert float(summary.covers(truth).float().mean()) == pytest.approx(0.9, abs=4 * 0.3 / n**0.5)
    torch.testing.assert_close(summary.low, draws.min(0).values)
    torch.testing.assert_close(summary.mean, draws.mean(0))
    torch.testing.assert_close(summary.deviation, draws.std(0))
    torch.testing.assert_close(summary.median, draws.median(0).values)


def test_weighted_summaries_are_those_of_repeated_draws():
    draws = Noise.of(0, 5).normal(3)
    times = torch.tensor([1, 4, 2, 1, 3])
    weighted = posterior_summary(draws, log_weights=times.log(), level=0.5)
    repeated = posterior_summary(draws.repeat_interleave(times, 0), level=0.5)
    torch.testing.assert_close(weighted.mean, repeated.mean)
    ink = posterior_summary(draws, statistic=lambda x: x.sum(1))
    assert ink.mean.item() == pytest.approx(float(draws.sum(1).mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: posterior_summary(torch.zeros(1, 2)), "at least 2 draws"),
        (lambda: posterior_summary(torch.zeros(4, 2), level=1.0), "level must lie between"),
        (lambda: posterior_summary(torch.full((4, 2), torch.nan)), "not finite"),
        (lambda: posterior_summary(torch.zeros(4, 2), statistic=lambda x: x[:3]), "one value a draw"),
    ],
)
def test_summaries_of_nothing_are_refused(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call()
