"""Variety: as data by themselves, where draws are exact; less where they are too alike or copies of each other."""

import pytest
import torch

from stmd_sdk import InvalidArgumentError, Noise
from stmd_sdk.evaluation import variety

REAL, DRAWS = (Noise.of(seed, 2000).normal(1, 3, 3) for seed in (0, 1))


def test_exact_draws_are_as_varied_as_data():
    found = variety(REAL, DRAWS)
    assert abs(found.between_seeds - 1) < 4 * found.error < 0.05
    assert 0.004 < found.near_copies < 0.02
    assert f"by {found.between_seeds:.2f} ± {found.error:.2f} of what two held-out ones differ" in str(found)


def test_distances_are_counted_beside_those_of_data():
    found = variety(REAL, 0.5 * REAL)
    assert found.between_seeds == pytest.approx(0.5, abs=1e-6)
    assert found.error < 1e-6
    assert found.near_copies > 0.2


def test_draws_that_repeat_are_near_copies_though_they_are_far_apart():
    found = variety(REAL, DRAWS[:100].repeat(20, 1, 1, 1))
    assert found.near_copies == 1
    assert 0.9 < found.between_seeds < 1.05


@pytest.mark.parametrize("bad", [DRAWS[:7], DRAWS[:3]])
def test_rows_that_do_not_pair_are_refused(bad):
    with pytest.raises(InvalidArgumentError, match="equally many samples, at least 4"):
        variety(REAL if len(bad) > 3 else REAL[:3], bad)


def test_the_error_is_that_of_other_samples():
    found = [variety(*(Noise.of(2 * k + side, 200).normal(9) for side in (0, 1))) for k in range(60)]
    ratios = torch.tensor([one.between_seeds for one in found])
    assert 0.75 < float(ratios.std()) / (sum(one.error for one in found) / 60) < 1.33
