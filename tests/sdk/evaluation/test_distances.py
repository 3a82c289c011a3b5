import numpy as np
import ot
import pytest
import scipy.linalg
import scipy.stats
import torch
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.neighbors import NearestNeighbors
from torch import nn

from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.errors import InvalidArgumentError
from stmd_sdk.evaluation import distances as module
from stmd_sdk.evaluation import energy_distance, frechet_distance, mmd, neighbourhood, sliced_w2
from stmd_sdk.evaluation.distances import two_sample_p_value


def two_samples(n, m, d):
    return Noise.of(0, n).normal(d), 0.3 + 1.2 * Noise.of(1, m).normal(d)


def distances(x, y):
    return np.linalg.norm(x.double().numpy()[:, None] - y.double().numpy()[None], axis=-1)


def test_energy_distance_is_the_double_sum_across_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 32)
    x, y = two_samples(100, 75, 3)
    xy, xx, yy = distances(x, y), distances(x, x), distances(y, y)
    biased = 2 * xy.mean() - xx.mean() - yy.mean()
    unbiased = 2 * xy.mean() - xx.sum() / (100 * 99) - yy.sum() / (75 * 74)
    assert energy_distance(x, y, unbiased=False) == pytest.approx(biased, abs=1e-6)
    assert energy_distance(x, y) == pytest.approx(unbiased, abs=1e-6)


def test_energy_distance_in_one_dimension_is_scipys():
    x, y = two_samples(300, 200, 1)
    theirs = scipy.stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy())
    assert energy_distance(x, y, unbiased=False) == pytest.approx(theirs**2, rel=1e-4)


def test_unbiased_energy_distance_of_one_law_has_mean_zero():
    values = [energy_distance(Noise.of(k, 64).normal(2), Noise.of(1000 + k, 64).normal(2)) for k in range(200)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error
    assert min(values) < 0


def test_sliced_w2_is_pots_with_the_same_projections():
    x, y = two_samples(200, 200, 5)
    noise = Noise.of(7, 100)
    theta = nn.functional.normalize(noise.normal(5), dim=1).T.numpy()
    theirs = ot.sliced_wasserstein_distance(x.numpy(), y.numpy(), projections=theta, p=2)
    assert sliced_w2(x, y, noise) == pytest.approx(float(theirs), rel=1e-5)


def test_sliced_w2_of_a_shift_is_its_length_over_the_root_of_the_dimension():
    x = Noise.of(0, 500).normal(4)
    shift = torch.tensor([3.0, 0.0, 0.0, 0.0])
    # E (θᵀs)² = ‖s‖² / d; 4096 directions know it to one or two per cent.
    assert sliced_w2(x, x + shift, Noise.of(1, 4096)) == pytest.approx(1.5, rel=0.03)


def test_mmd_is_the_sum_of_scikit_learns_kernels():
    x, y = two_samples(80, 60, 4)
    h = 1.7
    a, b = x.numpy(), y.numpy()
    xx, yy, xy = (rbf_kernel(p, q, gamma=1 / (2 * h**2)) for p, q in ((a, a), (b, b), (a, b)))
    theirs = (xx.sum() - 80) / (80 * 79) + (yy.sum() - 60) / (60 * 59) - 2 * xy.mean()
    assert mmd(x, y, bandwidth=h) == pytest.approx(theirs, abs=1e-6)
    # Fewer than 1000 points a side: the default is the median distance over all of them.
    pooled = np.concatenate([a, b])
    median = np.median(distances(torch.tensor(pooled), torch.tensor(pooled))[np.triu_indices(140, 1)])
    assert mmd(x, y) == pytest.approx(mmd(x, y, bandwidth=float(median)), rel=0.02)


def test_frechet_distance_is_scipys_square_root_on_the_features_of_a_module():
    images, others = Noise.of(0, 300).normal(1, 4, 4), 0.5 * Noise.of(1, 200).normal(1, 4, 4) + 0.2
    features = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.Tanh())
    a, b = (features(x).detach().double().numpy() for x in (images, others))
    c_a, c_b = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(c_a @ c_b).real
    theirs = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c_a + c_b - 2 * root)
    assert frechet_distance(images, others, features) == pytest.approx(theirs, rel=1e-6)


def test_frechet_distance_of_gaussians_is_the_closed_form():
    x = Noise.of(0, 40000).normal(2) * torch.tensor([2.0, 1.0])
    y = Noise.of(1, 40000).normal(2) * torch.tensor([1.0, 3.0]) + torch.tensor([1.0, 0.0])
    assert frechet_distance(x, y) == pytest.approx(1 + (2 - 1) ** 2 + (1 - 3) ** 2, rel=0.03)


def test_neighbourhoods_are_scikit_learns():
    real, fake = two_samples(120, 90, 3)
    k = 4
    found = neighbourhood(real, fake, k=k)

    def radii(x):
        return NearestNeighbors(n_neighbors=k + 1).fit(x.numpy()).kneighbors(x.numpy())[0][:, -1]

    d = distances(real, fake)
    in_real = d <= radii(real)[:, None] * (1 + 1e-6)
    in_fake = d <= radii(fake)[None] * (1 + 1e-6)
    assert found.precision == pytest.approx(in_real.any(axis=0).mean())
    assert found.recall == pytest.approx(in_fake.any(axis=1).mean())
    assert found.density == pytest.approx(in_real.sum(axis=0).mean() / k)
    assert found.coverage == pytest.approx(in_real.any(axis=1).mean())


def test_neighbourhoods_tell_lost_modes_from_poor_samples():
    real = torch.cat([Noise.of(0, 200).normal(2), Noise.of(1, 200).normal(2) + 20])
    one_mode, noisy = Noise.of(2, 400).normal(2), 8 * Noise.of(3, 400).normal(2) + 10
    lost, poor = neighbourhood(real, one_mode), neighbourhood(real, noisy)
    assert lost.precision > 0.9
    assert lost.recall < 0.6
    assert lost.coverage < 0.6
    assert poor.precision < 0.3
    assert poor.density < 0.3


def test_neighbourhoods_do_not_depend_on_where_the_data_lie():
    real, fake = two_samples(600, 600, 2)
    assert neighbourhood(real + 4096, fake + 4096) == neighbourhood((real + 4096) - 4096, (fake + 4096) - 4096)


def test_bad_samples_are_named(as_users_call):
    x = torch.zeros(4, 2)
    for bytes_ in (torch.zeros(4, 2, dtype=torch.uint8), torch.ones(4, 2, dtype=torch.int64)):
        with pytest.raises(InvalidArgumentError, match="floating-point"):
            energy_distance(bytes_, bytes_)
    with pytest.raises(InvalidArgumentError, match="one shape"):
        neighbourhood(torch.zeros(9), torch.zeros(9))
    with pytest.raises(InvalidArgumentError, match="one shape"):
        energy_distance(x, torch.zeros(4, 3))
    with pytest.raises(InvalidArgumentError, match="NaN"):
        mmd(x, x * float("nan"))
    with pytest.raises(InvalidArgumentError, match="bandwidth must be positive"):
        mmd(x, x)
    with pytest.raises(InvalidArgumentError, match="equally many"):
        sliced_w2(x, torch.zeros(5, 2), Noise.of(0, 8))
    with pytest.raises(InvalidArgumentError, match="at least 3 samples"):
        frechet_distance(x[:2], x)
    with pytest.raises(InvalidArgumentError, match="at least 6 points"):
        neighbourhood(x, x)


def test_the_two_sample_test_keeps_its_level_and_has_power():
    noise = Noise.of(0, 200)
    draws = [noise.fold(i).normal(3) for i in range(40)]
    p_values = [two_sample_p_value(x, y, Noise.of(1, 199)) for x, y in zip(draws[::2], draws[1::2], strict=True)]
    # 20 uniform p-values: P(more than 5 below 0.1) < 0.012, and their mean lies in 0.5 ± 0.21 with P > 0.999.
    assert sum(p < 0.1 for p in p_values) <= 5
    assert 0.29 < sum(p_values) / 20 < 0.71
    assert two_sample_p_value(draws[0], draws[1] + 0.5, Noise.of(1, 999)) < 0.01
