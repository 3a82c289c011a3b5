"""The laws of calibration, on Gaussians whose posterior is known, and the ties of constant pixels."""

import math

import pytest
import scipy.stats
import torch

from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.diffusion.vp import VPSchedule
from stmd_sdk.errors import InvalidArgumentError
from stmd_sdk.evaluation.calibration import (
    at_resolution,
    coverage_curve,
    crps,
    deviation,
    histogram,
    interval_coverage,
    lively,
    projected_ranks,
    ranks,
    spread_skill,
    tarp_ranks,
    uniformity,
)
from stmd_sdk.evaluation.joint import JointDraws, check_posterior, draw, joint_draws
from stmd_sdk.evaluation.statistics import combined_p_value

SCHEDULE = VPSchedule()
T = 0.3


class Gaussian:
    """The posterior of data N(0, I), with a spread off by a factor and a mean off by a share of the deviation."""

    def __init__(self, spread=1.0, bias=0.0):
        self.spread, self.bias = spread, bias

    def __call__(self, x_t, t, noise, /):
        rows = (-1,) + (1,) * (x_t.ndim - 1)
        alpha, sigma = SCHEDULE.alpha(t).reshape(rows), SCHEDULE.sigma(t).reshape(rows)
        return alpha * x_t + sigma * (self.bias + self.spread * noise.normal(*x_t.shape[1:]))


def joint(n, shape=(4,), count=19, seed=0, **wrong):
    noise = Noise.of(seed, n)
    return joint_draws(Gaussian(**wrong), SCHEDULE, noise.fold(9).normal(*shape), T, count, noise)


def test_exact_draws_have_uniform_ranks_and_wrong_ones_do_not():
    def p_value(**wrong):
        rank = projected_ranks(joint(4000, **wrong), 4, Noise.of(2, 4000))
        return combined_p_value([uniformity(column, 19) for column in rank.T])

    assert p_value() > 1e-3
    assert p_value(spread=0.85) < 1e-6
    assert p_value(bias=0.2) < 1e-6


def test_uniformity_is_scipys_chi_square():
    rank = (Noise.of(0, 500).uniform() ** 1.1 * 10).long()
    assert uniformity(rank, 9) == pytest.approx(scipy.stats.chisquare(histogram(rank, 9).numpy()).pvalue)


def test_ranks_count_the_draws_below_and_ties_fall_uniformly():
    truth = torch.tensor([[0.5], [-1.0]]).repeat(5000, 1)
    draws = torch.tensor([0.0, 0.2, 0.9, -1.0])[:, None, None].expand(4, 10000, 1)
    rank = ranks(truth, draws, Noise.of(0, 10000))[:, 0]
    assert (rank[::2] == 3).all()  # above -1, 0 and 0.2
    counts = histogram(rank[1::2], 4)  # tied with one draw, below the others: 0 or 1
    assert counts[2:].sum() == 0
    assert abs(int(counts[0]) - 2500) < 4.5 * math.sqrt(1250)


def test_constant_pixels_rank_uniformly_only_if_the_draws_are_constant():
    border = -torch.ones(4000, 1)
    same = ranks(border, border.expand(19, 4000, 1), Noise.of(0, 4000))[:, 0]
    wandering = border + 0.01 * Noise.of(1, 4000).draws(19).normal(1).reshape(19, 4000, 1).abs()
    assert uniformity(same, 19) > 1e-3
    assert ranks(border, wandering, Noise.of(0, 4000)).max() == 0


def test_tarp_is_uniform_for_exact_draws_and_sees_the_spread():
    def p_value(**wrong):
        return uniformity(tarp_ranks(joint(4000, (6,), **wrong), SCHEDULE, 1.0, Noise.of(3, 4000)), 19)

    assert p_value() > 1e-3
    assert p_value(spread=0.8) < 1e-6
    assert p_value(spread=1.2) < 1e-6


def test_tarp_sees_draws_of_the_data_that_ignore_x_t():
    def prior(x_t, t, noise, /):
        return noise.normal(*x_t.shape[1:])

    n = 2000
    noise = Noise.of(0, n)
    pairs = joint_draws(prior, SCHEDULE, noise.fold(9).normal(6), T, 9, noise)
    # Each projection of the truth is calibrated under the data's own law, only not given x_t.
    assert uniformity(projected_ranks(pairs, 1, Noise.of(1, n))[:, 0], 9) > 1e-3
    assert uniformity(tarp_ranks(pairs, SCHEDULE, 1.0, Noise.of(3, n)), 9) < 1e-6


def test_deviation_is_kolmogorovs_statistic_of_the_ranks():
    rank = tarp_ranks(joint(500, spread=0.8), SCHEDULE, 1.0, Noise.of(3, 500))
    levels = torch.arange(1, 20) / 20
    by_hand = max(abs(float((rank < j).double().mean()) - j / 20) for j in range(1, 20))
    found = deviation(rank, 19)
    assert found.value == pytest.approx(by_hand)
    curve = coverage_curve(rank, 19)
    at = curve[(curve - levels).abs().argmax()]
    assert found.error == pytest.approx(math.sqrt(float(at * (1 - at)) / 500))


def test_exact_draws_stay_within_the_band_of_the_deviation():
    rank = (Noise.of(0, 400).uniform(300) * 10).long()
    outside = sum(found.value > found.band for found in (deviation(column, 9) for column in rank.T))
    # 15 of 300 expected, deviation 3.8; fewer at small n, where the bridge is an upper limit.
    assert 2 <= outside <= 32


def test_the_largest_of_several_deviations_has_a_wider_band():
    rank = (Noise.of(0, 1000).uniform(800) * 10).long().reshape(1000, 100, 8)
    worst = [max((deviation(one, 9, tests=8) for one in run.T), key=lambda d: d.value) for run in rank.unbind(1)]
    # 5 of 100 expected, deviation 2.2; the band of a single one is left in a third of the runs.
    assert sum(found.value > found.band for found in worst) <= 13
    assert sum(found.value > deviation(rank[:, 0, 0], 9).band for found in worst) > 20


def test_central_intervals_cover_exactly_their_level():
    def coverage(**wrong):
        pairs = joint(2000, (5,), **wrong)
        return interval_coverage(ranks(pairs.x_0, pairs.draws, Noise.of(1, 2000)), 19)

    exact = coverage()
    assert abs(exact.value - 0.9) < 4 * exact.error
    # A spread s covers like the interval of ± s × 1.645 deviations, but for the finite number of draws.
    narrow = coverage(spread=0.7)
    assert narrow.value == pytest.approx(2 * scipy.stats.norm.cdf(0.7 * 1.645) - 1, abs=0.03)


def test_the_choice_of_lively_pixels_leaves_exact_draws_exact():
    pairs = joint(3000, (2, 3, 3))
    scale = 0.1 / float(SCHEDULE.sigma(torch.tensor(T)))  # posterior deviations just at the threshold
    scaled = JointDraws(pairs.x_0 * scale, pairs.x_t, T, pairs.draws * scale)
    alive = lively(scaled, 1.0).flatten(1)
    assert 0.1 < alive.float().mean() < 0.9
    rank = ranks(scaled.x_0.flatten(1), scaled.draws.flatten(2), Noise.of(1, 3000))
    exact = interval_coverage(rank, 19, mask=alive)
    assert abs(exact.value - 0.9) < 4 * exact.error
    # A choice by the draws' own spread would not be exact: it favours wide draws.
    wide = interval_coverage(rank, 19, mask=scaled.draws.std(dim=0).flatten(1) > 0.1)
    assert wide.value - 0.9 > 4 * wide.error


def test_at_a_resolution_invisible_atoms_do_not_count_and_visible_widths_do():
    """Inked or blank pixels, whose truths' ink is a shade less: ranks lose their upper misses, exact or not."""
    n, count = 1000, 19

    def coverage(shade, spread, blurred):
        inked = (Noise.of(0, n).draws(count + 1).uniform(30) < 0.4).float().reshape(count + 1, n, 30)
        x = 2 * inked - 1
        truth, draws = x[0].clamp(max=1 - shade), spread * (x[1:] + 0.2) - 0.2
        pairs = JointDraws(truth, truth, T, draws)
        seen = at_resolution(pairs, 1.0, Noise.of(1, n)) if blurred else pairs
        return interval_coverage(ranks(seen.x_0, seen.draws, Noise.of(2, n)), count)

    exact = coverage(0.0, 1.0, blurred=True)
    assert abs(exact.value - 0.9) < 4 * exact.error
    assert coverage(0.016, 1.0, blurred=True).value < 0.915
    assert coverage(0.016, 1.0, blurred=False).value > 0.94
    assert coverage(0.0, 0.9, blurred=True).value < 0.87
    assert coverage(0.0, 1.1, blurred=True).value > 0.93


@pytest.mark.parametrize("count", [2, 19])
def test_spread_skill_is_the_factor_of_the_spread(count):
    exact, narrow = spread_skill(joint(4000, count=count)), spread_skill(joint(4000, count=count, spread=0.5))
    assert abs(exact.value - 1) < 4 * exact.error
    # E s² = f², skill = 1 + f²/K, in units of the posterior variance.
    expected = math.sqrt((1 + 1 / count) * 0.25 / (1 + 0.25 / count))
    assert abs(narrow.value - expected) < 4 * narrow.error


def test_crps_is_the_double_sum_and_the_closed_form_of_a_gaussian():
    pairs = joint(3000, (2,), count=7)
    absolute = (pairs.draws - pairs.x_0).abs().mean()
    apart = (pairs.draws[:, None] - pairs.draws[None]).abs().sum(dim=(0, 1)).mean() / (7 * 6)
    found = crps(pairs)
    assert found.value == pytest.approx(float(absolute - apart / 2), rel=1e-4)
    sigma = float(SCHEDULE.sigma(torch.tensor(T)))
    # E|X - X'| / 2 of N(0, σ²) is σ / √π.
    assert abs(found.value - sigma / math.sqrt(math.pi)) < 4 * found.error


def test_crps_is_least_for_exact_draws():
    exact = crps(joint(3000)).value
    for wrong in ({"spread": 0.6}, {"spread": 1.5}, {"bias": 0.4}):
        assert crps(joint(3000, **wrong)).value > exact * 1.02


def test_draws_do_not_depend_on_the_batch(monkeypatch):
    x_t, noise = Noise.of(5, 50).normal(3), Noise.of(6, 50)
    whole = draw(Gaussian(), x_t, T, 4, noise)
    monkeypatch.setattr("stmd_sdk.runs.chunks.ROWS", 7)
    assert torch.equal(draw(Gaussian(), x_t, T, 4, noise), whole)


def test_samplers_that_ignore_their_key_are_refused():
    x_t = Noise.of(0, 2).normal(3)
    check_posterior(Gaussian(), x_t, T, Noise.of(1, 2))

    def fixed(x_t, t, noise, /):
        return x_t + Noise.of(0, len(x_t)).normal(3)

    def one_noise_for_all_rows(x_t, t, noise, /):
        return x_t + noise[:1].normal(3)

    for sampler in (lambda x_t, t, noise: x_t, fixed, one_noise_for_all_rows):
        with pytest.raises(InvalidArgumentError, match="identical draws"):
            check_posterior(sampler, x_t, T, Noise.of(1, 2))


def test_samplers_that_draw_from_a_generator_of_their_own_are_refused():
    own = torch.Generator().manual_seed(0)

    def unkeyed(x_t, t, noise, /):
        return x_t + torch.randn(x_t.shape, generator=own)

    with pytest.raises(InvalidArgumentError, match="one key gives different draws"):
        check_posterior(unkeyed, Noise.of(0, 2).normal(3), T, Noise.of(1, 2))


def test_bad_draws_and_bad_levels_are_named():
    x_t = torch.zeros(3, 2)
    with pytest.raises(InvalidArgumentError, match=r"torch\.Tensor, got ndarray"):
        draw(lambda x_t, t, noise: x_t.numpy(), x_t, T, 1, Noise.of(0, 3))
    with pytest.raises(InvalidArgumentError, match="NaN"):
        draw(lambda x_t, t, noise: x_t * float("nan"), x_t, T, 1, Noise.of(0, 3))
    with pytest.raises(InvalidArgumentError, match="shape"):
        draw(lambda x_t, t, noise: x_t[:, :1], x_t, T, 1, Noise.of(0, 3))
    with pytest.raises(InvalidArgumentError, match="must be an integer"):
        interval_coverage(torch.zeros(10, 1).long(), 8)
    with pytest.raises(InvalidArgumentError, match="at least 100 are needed"):
        uniformity(torch.zeros(99).long(), 19)
