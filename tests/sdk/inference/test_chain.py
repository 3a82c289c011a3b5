"""Chains: reversible, exact for a mixture's known posterior, honest about their failures."""

import math
from itertools import islice

import pytest
import torch

from stmd_sdk import InferenceError, InferenceWarning, InvalidArgumentError, ModelSpec, Noise, Sampler, VPSchedule
from stmd_sdk.codecs.codec import PixelCodec, VectorCodec
from stmd_sdk.evaluation import GaussianMixture, MixturePosterior, conditioned, energy_distance, mixture
from stmd_sdk.inference.chain import FreeNoising, RangeNoising, metropolis, noising_for
from stmd_sdk.inference.diagnostics import effective_samples, split_r_hat
from stmd_sdk.inference.resampling import effective_roots, next_temperature, systematic
from stmd_sdk.inference.running import run_chains
from stmd_sdk.models.objective import STMD
from stmd_sdk.networks import MLPConfig, UNetConfig
from stmd_sdk.operators import GaussianNoise, Mask, Matrix, Measurement, box_mask

CPU = torch.device("cpu")
SCHEDULE = VPSchedule()
MIXTURE = mixture("mixture3")
SLANT, Y, SIGMA = torch.tensor([[1.2, -0.8]]), torch.tensor([-1.0]), 0.2
MEASURED = Measurement(Matrix(SLANT, (2,)), Y[None], GaussianNoise(SIGMA))
EXACT, LOG_EVIDENCE = conditioned(MIXTURE, SLANT, Y, SIGMA)


def _itself(x):
    return x


def _masses(x):
    nearest = torch.cdist(x.double(), MIXTURE.means).argmin(dim=1)
    return torch.bincount(nearest, minlength=3) / len(x)


def _prior_sampler(width=4):
    """A sampler whose network ignores x: x_0 = ε whatever x_t, the exact posterior of nothing in particular."""
    spec = ModelSpec("vectors", STMD(), (width,), MLPConfig(width=8, depth=1), VectorCodec())
    return Sampler(lambda x, times: torch.zeros_like(x[:, :width]), spec, CPU)


def test_conditioning_a_mixture_is_bayes_rule():
    """log p(x) + log p(y | x) - log p(y) = log p(x | y), and the issue's mode weights."""
    x = 3 * Noise.of(0, 50).normal(2)
    joint = MIXTURE.log_density(x).double() + MEASURED(x).double()
    torch.testing.assert_close(joint - LOG_EVIDENCE, EXACT.log_density(x).double(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(EXACT.weights, torch.tensor([0.572, 0.366, 0.062]).double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "noising", [FreeNoising(SCHEDULE, (0.6, 0.3)), RangeNoising(SCHEDULE, MEASURED.operator, Y[None], SIGMA)]
)
def test_a_step_is_in_detailed_balance_with_the_posterior(noising):
    """From exact draws the pairs (x, x') are exchangeable: flows between any two sets are equal both ways."""
    n = 60_000
    x = EXACT.sample(Noise.of(1, n))
    step = next(metropolis(MixturePosterior(MIXTURE), MEASURED, x, noising, Noise.of(2, n)))
    assert step.accepted.float().mean() > 0.05
    for cut in (lambda z: z[:, 0] > -1.5, lambda z: MEASURED(z) > -1, lambda z: z[:, 0] + z[:, 1] > 0.5):
        out, back = (cut(x) & ~cut(step.x_0)).sum(), (~cut(x) & cut(step.x_0)).sum()
        # Under exchangeability out - back has variance out + back.
        assert abs(float(out - back)) < 4.5 * math.sqrt(float(out + back) + 1)
        assert out + back > 100
    torch.testing.assert_close(step.log_likelihood, MEASURED(step.x_0))


@pytest.mark.parametrize("tempering", [None, 0.9])
def test_chains_find_the_exact_posterior_of_the_mixture_in_fifty_evaluations(tempering):
    n = 8192
    start = MIXTURE.sample(Noise.of(1, n))
    walk = metropolis(
        MixturePosterior(MIXTURE),
        MEASURED,
        start,
        FreeNoising(SCHEDULE, (1.0, 0.6, 0.4, 0.3, 0.2)),
        Noise.of(2, n),
        tempering=tempering,
    )
    with pytest.warns(InferenceWarning, match="R-hat") if tempering is None else _silence():
        draws = run_chains(walk, 50, _itself, tempering is not None)
    assert (_masses(draws.samples) - EXACT.weights).abs().max() < 0.02
    assert energy_distance(draws.samples[:4096], EXACT.sample(Noise.of(3, 4096))) < 0.005
    if tempering is not None:
        assert abs(draws.log_evidence - LOG_EVIDENCE) < 4 / math.sqrt(draws.roots)
        assert 4 / math.sqrt(draws.roots) < 0.15


def _silence():
    import contextlib

    return contextlib.nullcontext()


def test_conditional_noising_is_a_gibbs_sampler_for_orthonormal_measurements():
    matrix = torch.linalg.qr(Noise.of(0, 1).normal(6, 3)[0]).Q.T.contiguous()
    y, sigma, n = torch.tensor([[0.5, -1.0, 0.2]]), 0.4, 8192
    prior = GaussianMixture.isotropic(torch.stack([torch.ones(6), -torch.ones(6)]), 0.5)
    measured = Measurement(Matrix(matrix, (6,)), y, GaussianNoise(sigma))
    noising = RangeNoising(SCHEDULE, measured.operator, y, sigma)
    exact, log_evidence = conditioned(prior, matrix, y[0], sigma)
    walk = metropolis(
        MixturePosterior(prior), measured, prior.sample(Noise.of(1, n)), noising, Noise.of(2, n), tempering=0.8
    )
    draws = run_chains(walk, 20, _itself, True)
    (rate,) = draws.acceptance.values()
    assert rate > 0.999  # 1 but for rounding
    assert abs(draws.log_evidence - log_evidence) < 4 / math.sqrt(draws.roots)
    expected = exact.sample(Noise.of(3, n))
    error = 5 * expected.std(dim=0) / math.sqrt(draws.roots)
    assert ((draws.samples.mean(0) - expected.mean(0)).abs() < error).all()


def test_conditional_noising_accepts_every_step_whatever_the_measurements_unit():
    """A Aᵀ = I / 16, as of averages of 4 x 4 pixels."""
    matrix = torch.linalg.qr(Noise.of(0, 1).normal(6, 3)[0]).Q.T.contiguous() / 4
    prior, n = GaussianMixture.isotropic(torch.stack([torch.ones(6), -torch.ones(6)]), 0.5), 2048
    measured = Measurement(Matrix(matrix, (6,)), torch.tensor([[0.1, -0.2, 0.05]]), GaussianNoise(0.1))
    noising = noising_for(measured, None, SCHEDULE, (6,), CPU)
    walk = metropolis(MixturePosterior(prior), measured, prior.sample(Noise.of(1, n)), noising, Noise.of(2, n))
    assert all(step.accepted.float().mean() > 0.999 for step in islice(walk, 3))


def test_draws_beyond_the_range_of_pixels_do_not_stop_a_chain():
    """A model that overshoots [-1, 1]: its decoded samples are clamped, and so are the chain's states."""
    shape, n = (1, 4, 4), 64
    spec = ModelSpec("images", STMD(), shape, UNetConfig(channels=(8, 16), groups=4), PixelCodec())
    sampler = Sampler(lambda x, times: -2 * x[:, :1] + x[:, 1:], spec, CPU)  # draws of deviation 3
    mask = box_mask(shape, 2)
    measured = Measurement(Mask(mask), -0.95 * mask[None], GaussianNoise(0.05))
    draws = sampler.chain(measured, n, steps=3, tempering=None, seed=0)
    assert all(rate > 0.999 for rate in draws.acceptance.values())
    assert draws.samples.abs().max() <= 1


def test_any_likelihood_will_do():
    """A likelihood of no name, 1 in a half plane and 0 outside: the prior cut off there."""
    n = 8192

    def inside(x):
        return torch.where(x[:, 0] > 1.0, 0.0, -torch.inf)

    walk = metropolis(
        MixturePosterior(MIXTURE),
        inside,
        MIXTURE.sample(Noise.of(1, n)),
        FreeNoising(SCHEDULE),
        Noise.of(2, n),
        tempering=0.9,
    )
    draws = run_chains(walk, 20, _itself, True)
    prior = MIXTURE.sample(Noise.of(9, 100_000))
    cut = prior[prior[:, 0] > 1.0]
    assert (draws.samples[:, 0] > 1).all()
    assert draws.log_evidence == pytest.approx(math.log(len(cut) / 100_000), abs=0.05)
    assert (draws.samples.mean(0) - cut.mean(0)).abs().max() < 0.06


def test_a_chain_is_itself_in_any_company():
    sampler = _prior_sampler()
    draws = [
        sampler.chain(lambda x: x[:, 0], n, steps=3, levels=(0.5,), tempering=None, seed=4).samples for n in (4, 8)
    ]
    torch.testing.assert_close(draws[0], draws[1][:4])
    assert (draws[1][0] - draws[1][1]).abs().max() > 0.1


def test_the_sampler_runs_chains_on_a_posterior_that_it_knows():
    """The network's law is x_0 ~ N(0, I); with N(x; y, 1) as likelihood the posterior is N(y / 2, I / 2)."""
    y = torch.tensor([1.0, -2.0, 0.0, 0.5])
    measured = Measurement(Matrix(torch.eye(4), (4,)), y[None], GaussianNoise(1.0))
    draws = _prior_sampler().chain(measured, 4096, steps=20, levels=(0.5,), seed=0)
    assert (draws.samples.mean(0) - y / 2).abs().max() < 5 * math.sqrt(0.5 / draws.roots)
    assert (draws.samples.var(0) - 0.5).abs().max() < 5 * 0.5 * math.sqrt(2 / draws.roots)
    expected = torch.distributions.Normal(0.0, 2**0.5).log_prob(y).sum()
    assert abs(draws.log_evidence - float(expected)) < 4 / math.sqrt(draws.roots)


@pytest.mark.parametrize("phi", [0.0, 0.6, 0.9])
def test_effective_samples_of_an_autoregression_are_known(phi):
    steps, chains = 4000, 8
    noise = Noise.of(0, chains).normal(steps).T
    x = [noise[0]]
    for k in range(1, steps):
        x.append(phi * x[-1] + math.sqrt(1 - phi**2) * noise[k])
    trace = torch.stack(x)[:, :, None]
    expected = steps * chains * (1 - phi) / (1 + phi)
    assert float(effective_samples(trace)) == pytest.approx(expected, rel=0.15)
    assert float(split_r_hat(trace)) == pytest.approx(1, abs=0.01)


def test_r_hat_sees_chains_that_sit_in_different_places():
    noise = Noise.of(0, 4).normal(200).T[:, :, None]
    apart = noise + torch.tensor([0.0, 0.0, 3.0, 3.0])[:, None]
    # The eight halves have means 0, 0, 3, 3 twice, of variance 2.25 · 8 / 7 beside 1 within.
    assert float(split_r_hat(apart)) == pytest.approx(math.sqrt(1 + 2.25 * 8 / 7), rel=0.05)


def test_diagnostics_of_a_trace_with_nan_are_refused():
    trace = Noise.of(0, 4).normal(200).T[:, :, None].clone()
    trace[7, 0, 0] = math.nan
    for diagnostic in (split_r_hat, effective_samples):
        with pytest.raises(InvalidArgumentError, match="NaN"):
            diagnostic(trace)


def test_resampling_is_unbiased_and_keeps_whole_numbers():
    log_weights = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    counts = torch.stack([systematic(log_weights, Noise.of(seed, 1)).bincount(minlength=4) for seed in range(500)])
    assert (counts[:, 0] == 2).all()
    assert (counts[:, 1] == 1).all()
    assert float(counts[:, 2].float().mean()) == pytest.approx(0.5, abs=4 * 0.5 / 500**0.5)


def test_the_next_temperature_keeps_the_share_and_families_are_counted():
    values = Noise.of(0, 1000).normal()[:, None][:, 0] * 50
    even = torch.zeros(1000)
    beta = next_temperature(even, values, 0.0, 0.7)
    weights = (beta * values.double()).softmax(0)
    assert 1 / float(weights.square().sum()) / 1000 == pytest.approx(0.7, abs=1e-3)
    assert next_temperature(even, values / 1000, 0.0, 0.7) == 1.0
    assert effective_roots(torch.zeros(4), torch.tensor([0, 0, 1, 1])) == pytest.approx(2)


def test_failures_are_told_with_their_figures():
    sampler = _prior_sampler()
    start = torch.zeros(4, 4)
    with pytest.raises(InferenceError, match=r"none of 4 chains accepted in 20 steps at t from 0\.5.*levels=\(0\.25"):
        sampler.chain(lambda x: -1e6 * x.square().sum(1), 4, levels=(0.5,), tempering=None, start=start, seed=0)
    with pytest.raises(InferenceError, match=r"NaN or .inf for 4 of 4"):
        sampler.chain(lambda x: x.sum(1) * torch.nan, 4, seed=0)
    with pytest.raises(InvalidArgumentError, match=r"a tensor \[4\], got \[4, 4\]"):
        sampler.chain(_itself, 4, seed=0)
    with pytest.raises(InferenceError, match="-inf for all 4 samples"):
        sampler.chain(lambda x: x.new_full((len(x),), -torch.inf), 4, seed=0)
    with pytest.raises(InferenceError, match="3 steps were too few to temper"):
        sampler.chain(lambda x: -1e4 * x.square().sum(1), 64, steps=3, seed=0)
    with pytest.raises(InvalidArgumentError, match="levels must be times"):
        sampler.chain(lambda x: x.sum(1), 4, levels=(1.5,))
    with pytest.raises(InvalidArgumentError, match="tempering is a share"):
        sampler.chain(lambda x: x.sum(1), 4, tempering=2.0)
    with pytest.raises(InvalidArgumentError, match="give tempering=None"):
        sampler.chain(lambda x: x.sum(1), 4, start=start)
    with pytest.raises(InvalidArgumentError, match="4 samples for 8 chains"):
        sampler.chain(lambda x: x.sum(1), 8, start=start, tempering=None)


def test_an_ensemble_of_few_families_warns():
    with pytest.warns(InferenceWarning, match="collapsed: all 1024 chains effectively go back to"):
        _prior_sampler(2).chain(lambda x: -1e3 * x.square().sum(1), 1024, steps=6, levels=(0.5,), tempering=0.1, seed=0)
