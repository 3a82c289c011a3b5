"""Laws of what a continuous map of noise can at best be."""

import math

import pytest
import torch
from crossing import draw_with_slopes, least_boundary, least_sliced_w2, most_within

from stmd_sdk import Noise
from stmd_sdk.diffusion.posterior import FlowPosterior
from stmd_sdk.diffusion.target import X0Target
from stmd_sdk.evaluation import sliced_w2

GAP = 0.5


def phi(z):
    return 0.5 * math.erfc(-z / math.sqrt(2))


@pytest.mark.parametrize("slope", [0.2, 1.0, 5.0])
def test_two_half_lines_are_kept_apart_best_by_the_straight_crossing(slope):
    """At 0 below -a and at GAP above a, with the slope GAP / 2a between: the law is met as the crossing gets steep."""
    a = GAP / (2 * slope)
    outside = phi(a) - phi(-a)
    least = GAP / 2 * least_boundary(torch.tensor([phi(-a)] * 2)) / slope
    assert least == pytest.approx(2 * a * math.exp(-(a**2) / 2) / math.sqrt(2 * math.pi), rel=1e-6)
    assert least <= outside <= least * math.exp(a**2 / 2)
    within = most_within(torch.full((2,), 0.5), GAP, slope)
    assert 1 - outside <= within <= 1
    assert 1 - within == pytest.approx(outside, rel=a**2)


def test_a_normal_law_is_reached_from_its_own_deviation_on_and_missed_by_the_difference_below():
    x = 2.0 * Noise.of(0, 50_000).normal(2)
    assert least_sliced_w2(x, 1.5, Noise.of(1, 8)) == pytest.approx(0.5, abs=0.02)
    assert least_sliced_w2(x, 3.0, Noise.of(1, 8)) < 0.01


def test_no_map_of_a_slope_is_nearer_than_the_law_says():
    """Two points at ±1 by tanh(L z): its slope is at most L, and on a line its mean on a level is its own."""
    n, slope = 50_000, 4.0
    points = torch.where(Noise.of(0, n).uniform() < 0.5, -1.0, 1.0)[:, None]
    drawn = torch.tanh(slope * Noise.of(1, n).normal(1))
    least = least_sliced_w2(points, slope, Noise.of(2, 1))
    assert 0.5 * sliced_w2(drawn, points, Noise.of(2, 1)) < least <= sliced_w2(drawn, points, Noise.of(2, 1))


def test_slopes_are_the_derivatives_of_the_draws_by_all_their_noise():
    """z = ε - u with u = ε - A x_1 - B ε draws A x_1 + B ε."""
    a, b = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[0.5, 0.0], [3.0, 1.0]])
    posterior = FlowPosterior(lambda z, r, tau, x, t: z - x @ a.T - z @ b.T, X0Target())
    whole = torch.cat([a, b], dim=1)
    x, slopes = draw_with_slopes(posterior, Noise.of(0, 100), 2)
    assert torch.allclose(slopes, whole.expand(100, 2, 4))
    assert torch.allclose(x, Noise.of(0, 100).normal(4) @ whole.T, atol=1e-6)
