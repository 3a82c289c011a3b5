"""Measurements that are not linear: what DPS is given of them, and what it is not."""

import nonlinear
import pytest
import torch

from stmd_sdk import InferenceError, Noise, Sampler
from stmd_sdk.operators import Measurement, PoissonNoise


def test_counts_are_divided_by_their_deviation_and_others_left_alone():
    """Poisson counts of one rate all over have deviation √rate: what DPS sees of them has one deviation."""
    x = torch.cat([torch.full((1, 1, 14, 28), -0.6), torch.full((1, 1, 14, 28), 0.8)], dim=2)
    problem = nonlinear.problems(x, 0.1, 3000.0, seed=1)[-1]
    assert isinstance(problem.measured[0].noise, PoissonNoise)
    whitened = nonlinear.Whitened.of(problem.measured[0])
    off = (whitened.A_of(problem.measured[0].y) - whitened.A(x))[0, 0]
    assert float(off[:14].std() / off[14:].std()) == pytest.approx(1, abs=0.15)
    clipped = nonlinear.problems(x, 0.1, 30.0, seed=1)[0].measured[0]
    assert torch.equal(nonlinear.Whitened.of(clipped).A(x), clipped.operator.A(x))


def test_every_problem_is_a_measurement_of_each_truth_and_jpeg_has_no_gradient():
    x = 2 * Noise.of(1, 2).uniform(1, 28, 28) - 1
    found = nonlinear.problems(x, 0.1, 30.0, seed=3)
    assert len({problem.name for problem in found}) == 4
    for problem in found:
        assert all(isinstance(one, Measurement) and bool(one(x).isfinite().all()) for one in problem.measured)
        assert len(problem.measured) == 2
    with pytest.raises(InferenceError, match="no gradient"):
        nonlinear.guided(1.0)(Sampler.from_pretrained("mnist", device="cpu"), found[1], 0)
