"""Calibration of posterior draws, without an oracle: ranks, coverage, TARP, spread and skill, CRPS.

One law carries every test here: given x_t, the truth x_0 and K exact draws are exchangeable. So for any
number q(x, x_t), the rank of the truth's q among the draws' is uniform on {0, ..., K}: simulation-based
calibration (Talts et al., 2018; Modrák et al., 2023). TARP (Lemos et al., 2023) is the rank of the distance
to a random reference point. Ties take a random rank, by a key: constant pixels (MNIST's border, exactly -1)
then rank uniformly if the draws are constant too, and miss if the draws wander.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..diffusion.noise import Noise
from ..diffusion.schedule import Schedule
from ..diffusion.target import ResidualTarget
from ..errors import InvalidArgumentError
from .joint import JointDraws
from .statistics import (
    Estimate,
    bridge_mean,
    bridge_quantile,
    chi_square_p_value,
    estimate,
    mean_estimate,
    ratio_estimate,
)

__all__ = [
    "at_resolution",
    "coverage_curve",
    "crps",
    "deviation",
    "histogram",
    "interval_coverage",
    "lively",
    "projected_ranks",
    "ranks",
    "ranks_along",
    "spread_skill",
    "tarp_ranks",
    "uniformity",
]

EXPECTED = 5  # least expected count of a bin, for the chi-square law of a histogram
RESOLUTION = 0.1  # of c_out: a pixel that deviates by less counts as constant


def ranks(truth: Float[Tensor, "n *q"], draws: Float[Tensor, "K n *q"], noise: Noise) -> Int[Tensor, "n *q"]:
    """The rank of each truth among its K draws, in {0, ..., K}; ties at random."""
    below, ties = torch.zeros_like(truth), torch.zeros_like(truth)
    for one in draws:
        below += one < truth
        ties += one == truth
    return (below + (noise.uniform(*truth.shape[1:]) * (ties + 1)).floor()).long()


def tarp_ranks(joint: JointDraws, schedule: Schedule, sigma_data: float, noise: Noise) -> Int[Tensor, " n"]:
    """Ranks of ‖x_0 - r‖ among ‖draw - r‖ (TARP), with one reference point r a pair.

    r is drawn from N(c_skip x_t, c_out² I), the posterior of data N(0, σ_d² I): near x_0, and with x_t in it,
    without which TARP cannot see that a posterior ignores x_t. A bias that all pairs share cancels over such
    symmetric points; the ranks along fixed directions see that one.
    """
    t = joint.x_t.new_full((len(joint.x_t),), joint.t)
    r = ResidualTarget(schedule, sigma_data).decode(noise.fold(0).normal(*joint.x_t.shape[1:]), joint.x_t, t)
    truth = torch.linalg.vector_norm((joint.x_0 - r).flatten(1), dim=1)
    draws = torch.linalg.vector_norm((joint.draws - r).flatten(2), dim=2)
    return ranks(truth, draws, noise.fold(1))


def projected_ranks(joint: JointDraws, directions: int, noise: Noise) -> Int[Tensor, "n directions"]:
    """Ranks of θᵀx_0 among the θᵀdraw, for random unit directions θ, one of each of the first keys."""
    return ranks_along(joint.x_0.flatten(1), joint.draws.flatten(2), directions, noise)


def ranks_along(
    truth: Float[Tensor, "n q"], draws: Float[Tensor, "K n q"], directions: int, noise: Noise
) -> Int[Tensor, "n directions"]:
    """Ranks of θᵀtruth among the θᵀdraw, of samples themselves or of features of both."""
    theta = torch.nn.functional.normalize(noise.fold(0)[:directions].normal(truth.shape[1]), dim=1).T
    return ranks(truth @ theta, draws @ theta, noise.fold(1))


def histogram(rank: Int[Tensor, "..."], draws: int) -> Int[Tensor, " bins"]:
    """How many truths have each rank: draws + 1 bins, flat if calibrated."""
    return torch.bincount(rank.flatten(), minlength=draws + 1)


def uniformity(rank: Int[Tensor, " n"], draws: int) -> float:
    """The p-value of independent ranks being uniform: Pearson's chi-square over the draws + 1 bins."""
    bins = draws + 1
    if len(rank) < EXPECTED * bins:
        raise InvalidArgumentError(
            f"{len(rank)} pairs are too few for a histogram of {bins} ranks: at least {EXPECTED * bins} are needed"
        )
    expected = len(rank) / bins
    statistic = float((histogram(rank, draws) - expected).square().sum() / expected)
    return chi_square_p_value(statistic, draws)


def coverage_curve(rank: Int[Tensor, " n"], draws: int) -> Float[Tensor, " levels"]:
    """P(rank < j) at the credibility levels j / (K + 1), j = 1..K, which it should equal."""
    return histogram(rank, draws).double().cumsum(0)[:-1] / len(rank)


def deviation(rank: Int[Tensor, " n"], draws: int, *, tests: int = 1) -> Estimate:
    """max_j |P(rank < j) - j / (K + 1)|, the largest distance of the coverage curve from the diagonal.

    The error is that of the curve where it is farthest; the band is the 95 % quantile of the deviation that
    exact draws show at this n and K, which falls as 1/√n: of the largest of ``tests`` deviations (Bonferroni). The
    mean of what they show is ``chance``, of the largest of ``tests`` as if these were independent.
    """
    n = len(rank)
    curve = coverage_curve(rank, draws)
    distance = (curve - torch.arange(1, draws + 1) / (draws + 1)).abs()
    at = curve[distance.argmax()]
    error = math.sqrt(float(at * (1 - at)) / n)
    band, chance = (of(draws, tests) / math.sqrt(n) for of in (bridge_quantile, bridge_mean))
    return Estimate(float(distance.max()), error, band, chance)


def interval_coverage(
    rank: Int[Tensor, "n q"], draws: int, level: float = 0.9, mask: Bool[Tensor, "n q"] | None = None
) -> Estimate:
    """How often the central interval between two order statistics of the draws covers the truth.

    Exactly ``level`` for exact draws. Ranks of one pair depend on each other: the error is taken over pairs.

    ``draws`` must make the level exact: 19, 39, ... for 0.9. ``mask`` leaves out some ranks.
    """
    outside = (1 - level) / 2 * (draws + 1)
    if round(outside) < 1 or abs(outside - round(outside)) > 1e-6:
        raise InvalidArgumentError(
            f"{draws} draws have no central interval of level {level}: (draws + 1) (1 - level) / 2 must be an integer"
        )
    inside = (rank >= round(outside)) & (rank <= draws - round(outside))
    mask = torch.ones_like(inside) if mask is None else mask
    if not bool(mask.any()):
        raise InvalidArgumentError("the mask leaves out every rank: there is no coverage to measure")
    return ratio_estimate((inside & mask).sum(dim=1).double(), mask.sum(dim=1).double())


def lively(joint: JointDraws, scale: float) -> Bool[Tensor, "n *d"]:
    """The pixels whose truth and draws together deviate by more than a tenth of ``scale``.

    The choice treats truth and draws alike, so their ranks stay uniform on the chosen pixels; a choice by the
    draws' spread alone would favour wide draws and cover too often.
    """
    return torch.cat([joint.x_0[None], joint.draws]).std(dim=0) > RESOLUTION * scale


def at_resolution(joint: JointDraws, scale: float, noise: Noise) -> JointDraws:
    """The joint draws, each value with noise of a tenth of ``scale`` of its own: as exchangeable as they were.

    Ranks alone see differences of any size. Where data and draws have atoms, white at 253 of 255 levels in the data and
    at 255 in draws that are clamped there takes every truth's upper miss away, and intervals seem to cover too much.
    """
    n, keys = len(joint.x_0), noise.draws(len(joint.draws) + 1)
    values = [joint.x_0, *joint.draws]
    truth, *draws = (
        x + RESOLUTION * scale * keys[k * n : (k + 1) * n].normal(*x.shape[1:]) for k, x in enumerate(values)
    )
    return JointDraws(truth, joint.x_t, joint.t, torch.stack(draws))


def spread_skill(joint: JointDraws) -> Estimate:
    """√( (1 + 1/K) E s² / E (mean draw - x_0)² ) over all pixels.

    1 for exact draws, below it for overconfident ones; s² is the unbiased variance of K draws (Fortin et al.,
    2014). There are no ranks and so no ties: a constant pixel counts with what it is, nothing.
    """
    count = len(joint.draws)
    spread = joint.draws.var(dim=0).flatten(1).sum(dim=1) * (1 + 1 / count)
    skill = (joint.draws.mean(dim=0) - joint.x_0).square().flatten(1).sum(dim=1)
    if not float(skill.sum()) > 0:
        raise InvalidArgumentError("the mean draw equals the truth everywhere: there is no spread to compare")
    squared = ratio_estimate(spread, skill)
    root = math.sqrt(squared.value)
    return estimate(root, squared.error / (2 * root) if root > 0 else 0.0)


def crps(joint: JointDraws) -> Estimate:
    """E|draw - x_0| - ½ E|draw - draw'|, a pixel: the continuous ranked probability score, unbiased in K.

    Lower is better, and lowest for the true posterior (Gneiting and Raftery, 2007). With the draws sorted,
    Σ_{k<l} |y_k - y_l| = Σ_j (2j - K - 1) y_(j).
    """
    count = len(joint.draws)
    weight = 2 * torch.arange(1, count + 1, dtype=torch.float32, device=joint.x_0.device) - count - 1
    ordered = joint.draws.flatten(2).sort(dim=0).values
    spread = torch.einsum("k,knp->n", weight, ordered) / (count * (count - 1))
    skill = torch.stack([(one - joint.x_0).flatten(1).abs().sum(dim=1) for one in joint.draws]).mean(dim=0)
    return mean_estimate((skill - spread) / joint.x_0[0].numel())
