import math

import pytest
import scipy.stats
import torch

from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.errors import InvalidArgumentError
from stmd_sdk.evaluation.statistics import (
    bridge_mean,
    bridge_p_value,
    bridge_quantile,
    chi_square_p_value,
    combined_p_value,
    holm,
    mean_estimate,
    normal_p_value,
    ratio_estimate,
)


@pytest.mark.parametrize("z", [-3.2, -0.4, 0.0, 1.0, 4.5])
def test_normal_p_values_are_scipys(z):
    assert normal_p_value(z) == pytest.approx(2 * scipy.stats.norm.sf(abs(z)))
    assert normal_p_value(z, one_sided=True) == pytest.approx(scipy.stats.norm.sf(z))


@pytest.mark.parametrize(("statistic", "freedom"), [(0.5, 1), (8.0, 8), (40.0, 19)])
def test_chi_square_p_values_are_scipys(statistic, freedom):
    assert chi_square_p_value(statistic, freedom) == pytest.approx(scipy.stats.chi2.sf(statistic, freedom))


def test_bridge_on_a_fine_grid_is_kolmogorovs_distribution():
    # The grid hides a little of the supremum, about 0.58 / √levels (Siegmund's correction of a discrete walk).
    exact = scipy.stats.kstwobign.ppf(0.95)
    assert bridge_quantile(40) + 0.5826 / math.sqrt(40) == pytest.approx(exact, rel=0.01)


def test_bridge_at_one_level_is_the_normal_test_of_a_proportion():
    n, share = 1000, 0.53
    z = (share - 0.5) * math.sqrt(n) / 0.5
    assert bridge_p_value(share - 0.5, n, 1) == pytest.approx(normal_p_value(z), abs=0.005)


@pytest.mark.parametrize("tests", [1, 8])
def test_the_mean_deviation_of_uniform_ranks_is_that_of_bridges(tests):
    n, levels, runs = 1000, 19, 500
    rank = (Noise.of(0, n).uniform(runs, tests) * (levels + 1)).long()
    below = (rank[..., None] < torch.arange(1, levels + 1)).double().mean(dim=0)
    largest = (below - torch.arange(1, levels + 1) / (levels + 1)).abs().amax(dim=(1, 2))
    error = float(largest.std()) / runs**0.5
    assert float(largest.mean()) == pytest.approx(bridge_mean(levels, tests) / n**0.5, abs=4 * error)


def test_the_mean_deviation_on_a_fine_grid_is_kolmogorovs():
    # √(π/2) log 2 is the mean of Kolmogorov's distribution; a grid of 400 misses .5826 / √400 at most of it.
    exact = math.sqrt(math.pi / 2) * math.log(2)
    assert bridge_mean(400) + 0.5826 / math.sqrt(400) == pytest.approx(exact, rel=0.01)


def test_combining_copies_of_a_p_value_gives_it_back():
    for p in (1e-6, 0.01, 0.4):
        assert combined_p_value([p] * 5) == pytest.approx(p)


def test_combined_p_values_keep_their_level_for_independent_and_dependent_tests():
    shared, own = Noise.of(0, 2000).normal(), Noise.of(1, 2000).normal(6)
    for weight in (0.0, 0.9):
        z = weight * shared[:, None] + math.sqrt(1 - weight**2) * own
        combined = [combined_p_value([normal_p_value(value) for value in row]) for row in z.tolist()]
        rejections = sum(p < 0.05 for p in combined)
        # 100 of 2000 expected, deviation 10; the combination is exact in the far tail only.
        assert 65 <= rejections <= 145


def test_holm_is_the_textbook_example():
    # Sorted 0.005, 0.01, 0.03, 0.04 against 0.05/4, 0.05/3, 0.05/2, 0.05/1: it stops at the third.
    assert holm([0.01, 0.04, 0.03, 0.005], 0.05) == [True, False, False, True]


def test_standard_errors_cover():
    x = 3 + 2 * Noise.of(0, 500).normal(200)
    y = 1 + Noise.of(1, 500).uniform(200)
    misses = 0
    for column in range(200):
        mean = mean_estimate(x[:, column])
        ratio = ratio_estimate(x[:, column], y[:, column])
        misses += (abs(mean.value - 3) > mean.band) + (abs(ratio.value - 2) > ratio.band)
    # 400 intervals at 95 %: 20 misses expected, standard deviation 4.4.
    assert 7 <= misses <= 36


def test_one_value_has_no_error():
    with pytest.raises(InvalidArgumentError, match="at least 2"):
        mean_estimate(torch.ones(1))
