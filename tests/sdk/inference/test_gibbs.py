"""Split Gibbs: exact where the posterior is known, the same draws in any batch, clear refusals."""

import itertools
import math

import pytest
import torch

from stmd_sdk import InferenceError, InferenceWarning, InvalidArgumentError, ModelSpec, Noise, Sampler, VPSchedule
from stmd_sdk.codecs.codec import VectorCodec
from stmd_sdk.evaluation import GaussianMixture, MixturePosterior, conditioned, energy_distance, mixture
from stmd_sdk.inference.coupling import SliceCoupling, coupling_for, elliptical_slice
from stmd_sdk.inference.gibbs import FREE, SHARE, WIDE, annealed_gibbs, coupling_levels, resampled_gibbs
from stmd_sdk.inference.running import run_gibbs
from stmd_sdk.models.objective import BY_KIND
from stmd_sdk.networks import MLPConfig
from stmd_sdk.operators import GaussianNoise, Mask, Matrix, Measurement, PoissonNoise, gaussian_projections
from stmd_sdk.operators.solve import deflation_of, noisy_copy, turned_copy

CPU, SCHEDULE = torch.device("cpu"), VPSchedule()


def _itself(x):
    return x


def _coupling(law, log_likelihood):
    return coupling_for(log_likelihood, _itself, law.shape, law.shape, SCHEDULE, law.root_mean_square(), CPU)


def _annealed(law, log_likelihood, n, steps):
    coupling, first = _coupling(law, log_likelihood), WIDE * law.root_mean_square()
    levels = coupling_levels(first, coupling.last, steps)
    walk = annealed_gibbs(MixturePosterior(law), SCHEDULE, coupling, levels, torch.zeros(n, *law.shape), Noise.of(2, n))
    return run_gibbs(walk, coupling, steps, (0, 1), _itself, False)


def _resampled(law, log_likelihood, n, share=SHARE, moves=1):
    coupling, first = _coupling(law, log_likelihood), FREE * law.root_mean_square()
    walk = resampled_gibbs(
        MixturePosterior(law), SCHEDULE, coupling, first, law.sample(Noise.of(1, n)), Noise.of(2, n), share=share
    )
    return run_gibbs(walk, coupling, 99, (1, 1), _itself, True, moves=moves)


def _gaussian(d=6):
    root = Noise.of(6, d).normal(d).double() / math.sqrt(d)
    covariance = root @ root.T + 0.05 * torch.eye(d)
    return GaussianMixture(torch.ones(1), Noise.of(7, 1).normal(d), covariance[None], "gaussian")


def _rotated():
    """Six coordinates, of which three are measured: along directions of gains 1, 0.3, 0.05."""
    gains = torch.diag(torch.tensor([1.0, 0.3, 0.05, 0, 0, 0]))
    return gains @ torch.linalg.qr(Noise.of(8, 6).normal(6)).Q


@pytest.mark.parametrize(("steps", "lag"), [(40, 0.12), (160, 0.06)])
def test_annealing_ends_at_the_posterior_of_a_gaussian_for_unequal_gains(steps, lag):
    """Mean and covariance within sampling error and the lag that algebra finds (benchmarks/lag.py): 0.1 at 40 levels.

    The posterior is some 100 independent moves wide at the last ρ.
    """
    law, n, rotated = _gaussian(), 2000, _rotated()[:3]
    measured = Measurement(Matrix(rotated, (6,)), torch.tensor([[0.8, -0.2, 0.1]]), GaussianNoise(0.1))
    exact, _ = conditioned(law, rotated, measured.y[0], 0.1)
    draws = _annealed(law, measured, n, steps)
    assert draws.exact
    assert draws.evaluations == len(draws.levels) == steps
    deviation = exact.covariances[0].diagonal().sqrt()
    gap = (draws.samples.double().mean(dim=0) - exact.means[0]) / deviation
    assert gap.abs().max() < lag + 4 / math.sqrt(n)
    found = torch.cov(draws.samples.double().T) / deviation / deviation[:, None]
    torch.testing.assert_close(found, exact.covariances[0] / deviation / deviation[:, None], rtol=0, atol=0.15)


def test_levels_fall_by_one_share_from_first_to_last():
    levels = coupling_levels(2.0, 0.1, 5)
    assert (levels[0], levels[-1]) == (2.0, 0.1)
    for wide, narrow in itertools.pairwise(levels):
        assert narrow / wide == pytest.approx(0.05**0.25)
    assert coupling_levels(2.0, 0.1, 1) == [0.1]
    assert coupling_levels(0.1, 2.0, 3) == [0.1, 0.1, 0.1]


@pytest.mark.parametrize("rho", [0.5, 0.2, 0.05])
def test_turning_the_noise_round_leaves_the_law_of_the_copy_and_goes_on_where_nothing_is_measured(rho):
    """The move is affine in x, z and its three normals: its law is algebra. From z ~ p(z | x) at one coupling it must
    give p(z | x) at the other, and where nothing is measured z' - x = -ρ' / ρ (z - x).
    """
    d, before, matrix = 6, 0.2, _rotated().double()
    operator, y = Matrix(matrix, (d,)), torch.zeros(1, d).double()
    deflation = deflation_of(operator, y, 0.1)

    def rows(x, z, *normals):
        return turned_copy(operator, deflation, y, x, z, before, rho, *normals)

    basis = torch.eye(5 * d, dtype=torch.float64).split(d, dim=1)
    of_x, of_z, *of_normals = rows(*basis).split(d)

    def law(at):
        """The mean's map of x, and the covariance, of a copy drawn afresh."""
        one = torch.eye(3 * d, dtype=torch.float64).split(d, dim=1)
        mean, e, n = noisy_copy(operator, deflation, y, one[0], at, one[1], one[2]).split(d)
        return mean, e.T @ e + n.T @ n

    (mean, covariance), (wanted, spread) = law(before), law(rho)
    torch.testing.assert_close(of_x + mean @ of_z, wanted, rtol=0, atol=1e-6)
    found = of_z.T @ covariance @ of_z + sum(part.T @ part for part in of_normals)
    torch.testing.assert_close(found, spread, rtol=0, atol=1e-6)
    blind = torch.linalg.qr(Noise.of(8, 6).normal(6)).Q.double()[3:]
    torch.testing.assert_close(blind @ of_z, -rho / before * blind, rtol=0, atol=1e-6)
    torch.testing.assert_close(blind @ of_x, (1 + rho / before) * blind, rtol=0, atol=1e-6)


def test_resampling_finds_modes_and_evidence_of_a_mixture():
    law, n = mixture("mixture3"), 8192
    slant, y = torch.tensor([[1.2, -0.8]]), torch.tensor([-1.0])
    measured = Measurement(Matrix(slant, (2,)), y[None], GaussianNoise(0.2))
    exact, log_evidence = conditioned(law, slant, y, 0.2)
    draws = _resampled(law, measured, n, moves=10)
    masses = torch.bincount(torch.cdist(draws.samples.double(), law.means).argmin(dim=1), minlength=3) / n
    torch.testing.assert_close(masses.double(), exact.weights, rtol=0, atol=0.03)
    assert draws.log_evidence == pytest.approx(log_evidence, abs=0.05)
    assert min(draws.ess) > 0.49


def test_resampling_is_exact_in_many_dimensions():
    """mixture64 by 16 projections: its evidence, and a distance to exact draws of a few floors."""
    law, n, operator = mixture("mixture64"), 2048, gaussian_projections((64,), 16, 123)
    measured = Measurement.of(operator, law.sample(Noise.of(0, 1).fold(9)), GaussianNoise(0.1), Noise.of(0, 1).fold(8))
    exact, log_evidence = conditioned(law, operator.matrix, measured.y[0], 0.1)
    draws = _resampled(law, measured, n, moves=10)
    truth, again = exact.sample(Noise.of(3, n)), exact.sample(Noise.of(4, n))
    floor = energy_distance(truth, again, unbiased=False)
    assert energy_distance(draws.samples, truth, unbiased=False) < 4 * floor
    assert energy_distance(law.sample(Noise.of(5, n)), truth, unbiased=False) > 40 * floor
    assert draws.log_evidence == pytest.approx(log_evidence, abs=0.3)


def test_slices_of_a_gaussian_likelihood_have_the_posterior_of_the_noise_that_they_state():
    """A linear measurement given as a bare function: x has the posterior under sigma² + ρ² at the last ρ."""
    law, n = _gaussian(2), 4096
    matrix, y, sigma = torch.tensor([[0.8, -0.6]]), torch.tensor([0.5]), 0.3
    measured = Measurement(Matrix(matrix, (2,)), y[None], GaussianNoise(sigma))
    draws = _resampled(law, lambda x: measured(x) * 1, n)
    assert not draws.exact
    exact, log_evidence = conditioned(law, matrix, y, math.hypot(sigma, draws.levels[-1]))
    deviation = exact.covariances[0].diagonal().sqrt()
    gap = (draws.samples.double().mean(dim=0) - exact.means[0]) / deviation
    assert gap.abs().max() < 5 / math.sqrt(draws.roots)
    ratio = draws.samples.double().std(dim=0) / deviation
    torch.testing.assert_close(ratio, torch.ones(2).double(), rtol=0, atol=0.06)
    assert draws.log_evidence == pytest.approx(log_evidence, abs=0.06)


@pytest.mark.parametrize("pointwise", [False, True])
def test_a_slice_leaves_the_conditional_invariant(pointwise):
    """L(z) = N(z; 1, 0.5²) and N(0, 2²): the product is Gaussian, and exact draws of it stay that."""
    n = 40_000
    variance = 1 / (1 / 0.25 + 1 / 4)
    z = 4 * variance + math.sqrt(variance) * Noise.of(0, n).normal(2)

    def log_likelihood(at):
        values = -0.5 * ((at - 1) / 0.5).square()
        return values if pointwise else values.sum(dim=1)

    moved = elliptical_slice(log_likelihood, torch.zeros(n, 2), z, 2.0, Noise.of(1, n))
    assert (moved != z).all()
    assert ((moved - 4 * variance).mean(dim=0).abs() < 4.5 * math.sqrt(variance / n)).all()
    torch.testing.assert_close(moved.var(dim=0) / variance, torch.ones(2), rtol=0, atol=0.035)


def test_masked_counts_are_sliced_pixel_by_pixel():
    measured = Measurement(Mask(torch.tensor([1.0, 0.0])), torch.tensor([[0.2, 0.0]]), PoissonNoise(10.0))
    coupling = _coupling(_gaussian(2), measured)
    assert isinstance(coupling, SliceCoupling)
    assert coupling.log_likelihood(torch.zeros(3, 2)).shape == (3, 2)
    torch.testing.assert_close(coupling.log_weight(torch.zeros(3, 2), torch.zeros(3, 2), coupling.last),
                               measured(torch.zeros(3, 2)))  # fmt: skip


def _sampler(width=4, objective="stmd"):
    """A sampler whose network ignores x."""
    spec = ModelSpec("vectors", BY_KIND[objective](), (width,), MLPConfig(width=8, depth=1), VectorCodec())
    return Sampler(lambda x, times: torch.zeros_like(x[:, :width]), spec, CPU)


def _measured(sigma=0.5):
    return Measurement(
        Mask(torch.tensor([1.0, 1.0, 0.0, 0.0])), torch.tensor([[0.2, 0.1, 0.0, 0.0]]), GaussianNoise(sigma)
    )


def test_draw_k_of_a_seed_is_the_same_in_any_batch():
    for likelihood in (_measured(), lambda x: -x.square().sum(dim=1)):
        many, few = (_sampler().gibbs(likelihood, n, steps=6, seed=3).samples for n in (9, 4))
        torch.testing.assert_close(many[:4], few)
        assert not torch.equal(few, _sampler().gibbs(likelihood, 4, steps=6, seed=4).samples)


def test_a_noise_below_the_models_own_is_stated():
    with pytest.warns(InferenceWarning, match="below what the model can tell"):
        draws = _sampler().gibbs(_measured(1e-6), 4, steps=5, seed=0)
    assert not draws.exact
    assert draws.samples.isfinite().all()
    assert draws.levels[-1] == pytest.approx(0.0102, abs=1e-3)


def test_a_collapsed_ensemble_and_too_few_levels_are_said():
    sharp = _measured(1e-2)
    with pytest.raises(InferenceError, match="too few"):
        _sampler().gibbs(sharp, 16, steps=1, resample=True, seed=0)
    with pytest.warns(InferenceWarning, match="collapsed"):
        _sampler().gibbs(lambda x: 20 * x[:, 0], 8, resample=True, seed=0)


def test_nonsense_is_refused(as_users_call):
    sampler, mask = _sampler(), Mask(torch.tensor([1.0, 1.0, 0.0, 0.0]))
    for y, message in ((torch.zeros(1, 3), "shape"), (torch.zeros(1, 3, 4), "shape")):
        with pytest.raises(InvalidArgumentError, match=message):
            sampler.gibbs(Measurement(mask, y, GaussianNoise(0.1)), 4)
    with pytest.raises(InvalidArgumentError, match="finite"):
        Measurement(mask, torch.full((1, 4), math.nan), GaussianNoise(0.1))
    for sigma in (-1.0, 0.0, math.inf):
        with pytest.raises(InvalidArgumentError, match="sigma"):
            GaussianNoise(sigma)
    with pytest.raises(InvalidArgumentError, match="measures nothing"):
        sampler.gibbs(Measurement(Matrix(torch.zeros(1, 4), (4,)), torch.zeros(1, 1), GaussianNoise(0.1)), 4)
    for bad in (lambda x: x[:, 0] * math.nan, lambda x: x[:, 0] * 0 + math.inf):
        with pytest.raises(InferenceError, match=r"NaN or \+inf"):
            sampler.gibbs(bad, 4, steps=3)
    with pytest.raises(InvalidArgumentError, match="one number a sample"):
        sampler.gibbs(lambda x: x, 4, steps=3)
    for resample in (False, True):
        with pytest.raises(InferenceError, match="-inf for all"):
            sampler.gibbs(lambda x: x[:, 0] * 0 - math.inf, 4, steps=3, resample=resample)
    with pytest.raises(InvalidArgumentError, match="steps"):
        sampler.gibbs(_measured(), 4, steps=0)
    with pytest.raises(InvalidArgumentError, match="without guides"):
        sampler.guided(lambda posterior: posterior).gibbs(_measured(), 4)
    for objective in ("ddpm", "meanflow"):
        with pytest.raises(InvalidArgumentError, match="knows one point"):
            _sampler(objective=objective).gibbs(_measured(), 4)
