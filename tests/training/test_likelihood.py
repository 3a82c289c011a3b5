"""Expectation maximisation: the likelihood never falls, its floor holds, and one step is scikit-learn's."""

from itertools import islice

import pytest
import torch
from sklearn.mixture import GaussianMixture as Reference

from stmd_sdk import InvalidArgumentError, Noise
from stmd_sdk.evaluation import mixture
from stmd_training.fitting import fit_local_gaussians
from stmd_training.likelihood import Fit, ascend

FLOOR = 1e-3


def start(x, k):
    """Gaussians of the data's own deviation at the first k samples."""
    d = x.shape[1]
    return Fit(torch.full((k,), 1 / k, dtype=torch.float64), x[:k].double(), torch.eye(d).double().repeat(k, 1, 1))


def flat():
    """Two thin clusters, of which one lies in a line: without a floor its likelihood has no bound."""
    x = 0.3 * Noise.of(0, 600).normal(3)
    x[:300, 0] += 3
    x[:300, 2] = 1.0
    return x[Noise.of(1, 600).uniform().argsort()]


@pytest.mark.parametrize("x", [mixture("mixture3").sample(Noise.of(0, 4000)), flat()], ids=["mixture3", "flat"])
def test_the_likelihood_never_falls_and_the_floor_holds(x):
    fits = list(islice(ascend(x, start(x, 5), FLOOR), 30))
    values = torch.stack([fit.log_density(x).mean() for fit in fits])
    assert values.diff().min() > -1e-5  # float32 in the weighing
    assert values[-1] > values[0] + 0.5
    for fit in fits[1:]:
        assert float(fit.weights.sum()) == pytest.approx(1)
        assert torch.linalg.eigvalsh(fit.covariances).min() > FLOOR * (1 - 1e-9)


def test_from_the_true_mixture_it_climbs_only_as_far_as_chance():
    law, gains, losses = mixture("mixture3"), 0.0, 0.0
    true = Fit(law.weights, law.means, law.covariances)
    for seed in range(4):
        x, fresh = law.sample(Noise.of(seed, 10_000)), law.sample(Noise.of(10 + seed, 10_000))
        fit = next(islice(ascend(x, true, 1e-9), 40, None))
        gains += float((fit.log_density(x) - law.log_density(x)).sum())
        losses += float((law.log_density(fresh) - fit.log_density(fresh)).sum())
    k, d = law.means.shape
    freedom = 4 * (k - 1 + k * (d + d * (d + 1) // 2))
    # Twice the gain is χ² of as many degrees of freedom as there are parameters (Wilks, 1938); fresh samples lose it.
    assert abs(2 * gains - freedom) < 3 * (2 * freedom) ** 0.5
    assert abs(2 * losses - freedom) < 5 * (2 * freedom) ** 0.5


def test_a_step_is_that_of_another_implementation():
    x, begin = mixture("mixture8").sample(Noise.of(0, 3000)), start(mixture("mixture8").sample(Noise.of(0, 3000)), 4)
    own = next(islice(ascend(x, begin, 1e-12), 1, None))
    other = Reference(
        4,
        reg_covar=0,
        max_iter=1,
        weights_init=begin.weights.numpy(),
        means_init=begin.means.numpy(),
        precisions_init=begin.covariances.numpy(),  # of unit matrices
    )
    with pytest.warns(match="did not converge"):
        other.fit(x.double().numpy())
    assert own.weights.numpy() == pytest.approx(other.weights_, abs=1e-6)
    assert own.means.numpy() == pytest.approx(other.means_, abs=1e-5)
    assert own.covariances.numpy() == pytest.approx(other.covariances_, abs=1e-5)


def test_a_gaussian_that_loses_its_samples_is_dropped():
    x = Noise.of(0, 500).normal(2)
    begin = start(x, 3)
    begin.means[2] = 100.0
    fit = next(islice(ascend(x, begin, FLOOR), 1, None))
    assert len(fit.weights) == 2
    assert bool(fit.covariances.isfinite().all())


def test_a_fit_is_likelier_than_its_clusters_on_samples_that_it_did_not_see(monkeypatch):
    law = mixture("mixture2d")
    x, fresh = law.sample(Noise.of(0, 20_000)), law.sample(Noise.of(1, 20_000))

    def far_from_exact():
        gaussians = fit_local_gaussians(x, 32).components
        covariances = gaussians.axes.mT @ torch.diag_embed(gaussians.eigenvalues) @ gaussians.axes
        fit = Fit(gaussians.log_weights.exp().double(), gaussians.means.double(), covariances.double())
        return float((law.log_density(fresh) - fit.log_density(fresh)).mean())

    fitted = far_from_exact()
    monkeypatch.setattr("stmd_training.fitting._steps", lambda *_: 0)
    clusters = far_from_exact()
    assert 0 < fitted < 0.02
    assert clusters > 0.05


def test_clusters_that_are_the_likeliest_already_stay():
    x = 0.1 * Noise.of(0, 1000).normal(2)
    side = Noise.of(1, 1000).uniform() < 0.3
    x[side] += 5
    fitted = fit_local_gaussians(x, 2).components
    lesser = int(fitted.log_weights.argmin())
    assert float(fitted.log_weights.exp()[lesser]) == pytest.approx(float(side.double().mean()))
    assert fitted.means[lesser].numpy() == pytest.approx(x[side].mean(dim=0).numpy(), abs=1e-6)


def test_samples_that_are_not_finite_are_refused():
    x = Noise.of(0, 100).normal(2)
    x[3, 1] = float("nan")
    with pytest.raises(InvalidArgumentError, match="NaN or infinite"):
        fit_local_gaussians(x, 2)
