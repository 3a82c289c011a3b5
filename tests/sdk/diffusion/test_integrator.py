"""The inner flow's rules, on problems whose flow map is known."""

import math
from itertools import pairwise

import pytest
import torch

from stmd_sdk import Noise, VPSchedule
from stmd_sdk.diffusion.glass import GlassVelocity
from stmd_sdk.diffusion.integrator import average_steps, multistep
from stmd_sdk.diffusion.posterior import FlowPosterior
from stmd_sdk.diffusion.target import ResidualTarget
from stmd_sdk.evaluation.oracle import oracle_pairs
from stmd_sdk.mixtures.problems import mixture

SCHEDULE = VPSchedule()


def _posterior(data, steps, rule, sigma_data=None):
    target = ResidualTarget(SCHEDULE, sigma_data or data.root_mean_square())
    return FlowPosterior(GlassVelocity(data.denoise, SCHEDULE, target), target, steps, integrate=rule)


@pytest.mark.parametrize("steps", [1, 2, 3, 16])
def test_data_of_one_gaussian_are_drawn_exactly_whatever_m(steps):
    deviation, n = 0.6, 200
    x_t, t = Noise.of(1, n).normal(3), Noise.of(2, n).uniform().clamp(min=0.01)

    def denoise(x, sigma):
        return 0.6**2 * x / (0.6**2 + sigma[:, None] ** 2)

    target = ResidualTarget(SCHEDULE, deviation)
    posterior = FlowPosterior(GlassVelocity(denoise, SCHEDULE, target), target, steps, integrate=multistep)
    # The posterior is N(c_skip x_t, c_out² I), and the flow scales its noise to that.
    drawn, exact = posterior(x_t, t, Noise.of(3, n)), target.decode(Noise.of(3, n).normal(3), x_t, t)
    torch.testing.assert_close(drawn, exact, atol=2e-6, rtol=2e-6)


@pytest.fixture(scope="module")
def pairs():
    data = mixture("mixture2d")
    return data, oracle_pairs(data, SCHEDULE, 0.3, Noise.of(0, 300))


def _draws(data, x_t, steps, rule):
    t, noise = torch.full((len(x_t),), 0.3, dtype=torch.float64), Noise.of(5, len(x_t))
    return _posterior(data, steps, rule)(x_t, t, noise)


@pytest.mark.parametrize(("rule", "coarse", "order"), [(average_steps, 64, 1), (multistep, 24, 3)])
def test_a_rule_converges_in_its_order(rule, coarse, order, pairs):
    data, exact = pairs
    x_t = exact.x_t.double()[:100]
    finest = _draws(data, x_t, 640, multistep)
    # The median: a few paths pass so near to the border of two modes that any grid is coarse there.
    error = [(_draws(data, x_t, steps, rule) - finest).norm(dim=1).median() for steps in (coarse, 2 * coarse)]
    assert math.log2(float(error[0] / error[1])) > order - 0.35


def test_eight_evaluations_keep_the_variance_that_euler_loses(pairs):
    data, exact = pairs
    x_t = exact.x_t.repeat(8, 1)

    def ratio(rule):
        draws = _draws(data, x_t, 8, rule).reshape(8, -1, 2)
        return float(draws.var(dim=0).sum(dim=1).mean() / exact.trace.mean())

    assert ratio(multistep) == pytest.approx(1, abs=0.05)
    assert ratio(average_steps) < 0.87


def test_an_evaluation_a_step_at_falling_tau():
    seen = []

    def velocity(z, r, tau, x_t, t):
        assert torch.equal(r, tau)
        seen.append(float(tau[0]))
        return z

    multistep(velocity, torch.ones(2, 3), torch.ones(2, 3), torch.ones(2), 5)
    assert len(seen) == 5
    assert seen[0] == 1
    assert all(a > b > 0 for a, b in pairwise(seen))
