"""Estimates, p-values and their corrections: the little statistics that the certificate needs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.noise import Noise
from ..errors import InvalidArgumentError

__all__ = [
    "NORMAL_95",
    "Estimate",
    "bridge_mean",
    "bridge_p_value",
    "bridge_quantile",
    "chi_square_p_value",
    "combined_p_value",
    "estimate",
    "holm",
    "mean_estimate",
    "normal_p_value",
    "ratio_estimate",
    "spread",
]

NORMAL_95 = 1.96
BRIDGES = 2**17  # simulated null draws; the smallest p-value they give is 8e-6


@final
@dataclass(frozen=True)
class Estimate:
    """A Monte Carlo estimate, its standard error, and the half-width of its 95 % band.

    ``chance`` is what exact draws show on the average, where that is not the target itself: a deviation has a size.
    """

    value: float
    error: float
    band: float
    chance: float | None = None


def estimate(value: float, error: float) -> Estimate:
    """An estimate with a normal error: its band is 1.96 standard errors."""
    return Estimate(value, error, NORMAL_95 * error)


def mean_estimate(values: Float[Tensor, " n"]) -> Estimate:
    """The mean of independent values and its standard error s/√n."""
    _several(len(values))
    values = values.double()
    return estimate(float(values.mean()), float(values.std()) / math.sqrt(len(values)))


def ratio_estimate(numerator: Float[Tensor, " n"], denominator: Float[Tensor, " n"]) -> Estimate:
    """R = Σa / Σb over independent pairs; its error is that of a - R b, over mean(b) (delta method)."""
    _several(len(numerator))
    a, b = numerator.double(), denominator.double()
    ratio = a.mean() / b.mean()
    error = (a - ratio * b).std() / (b.mean().abs() * math.sqrt(len(a)))
    return estimate(float(ratio), float(error))


def normal_p_value(z: float, *, one_sided: bool = False) -> float:
    """P(|Z| >= |z|), or P(Z >= z) where only large values speak against the hypothesis."""
    if one_sided:
        return 0.5 * math.erfc(z / math.sqrt(2))
    return math.erfc(abs(z) / math.sqrt(2))


def chi_square_p_value(statistic: float, freedom: int) -> float:
    """P(χ² >= statistic)."""
    half = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def combined_p_value(p_values: Sequence[float]) -> float:
    """One p-value of several dependent ones: Cauchy combination (Liu and Xie, 2020).

    Under the hypothesis each tan((½ - p) π) is Cauchy, and so, in the tail, is their mean, however they
    depend on each other. Unlike Bonferroni's it stays about uniform for strongly dependent tests.
    """
    angles = [math.tan((0.5 - min(max(p, 1e-15), 1 - 1e-4)) * math.pi) for p in p_values]
    return 0.5 - math.atan(sum(angles) / len(angles)) / math.pi


def holm(p_values: Sequence[float], level: float) -> list[bool]:
    """Which hypotheses fall, with probability at most ``level`` of any false rejection (Holm, 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected = [False] * len(p_values)
    for step, i in enumerate(order):
        if p_values[i] > level / (len(p_values) - step):
            break
        rejected[i] = True
    return rejected


@lru_cache(maxsize=8)
def _bridges(levels: int) -> Float[Tensor, " simulations"]:
    """Sorted draws of max_j |B(j / (levels + 1))|, j = 1..levels, of Brownian bridges B."""
    steps = Noise.of(0, BRIDGES).normal(levels + 1).double() / math.sqrt(levels + 1)
    walk = steps.cumsum(dim=1)
    at = torch.arange(1, levels + 1) / (levels + 1)
    return (walk[:, :-1] - at * walk[:, -1:]).abs().amax(dim=1).sort().values


def bridge_p_value(deviation: float, n: int, levels: int) -> float:
    """P(max_j |F_n(j) - F(j)| >= deviation) for n ranks, uniform on 0..levels: Kolmogorov's test on a grid.

    √n (F_n - F) tends to a Brownian bridge seen at ``levels`` points, which is simulated (with a fixed key).
    """
    null = _bridges(levels)
    above = len(null) - int(torch.searchsorted(null, deviation * math.sqrt(n) * (1 - 1e-9)))
    return (1 + above) / (1 + len(null))


def bridge_quantile(levels: int, tests: int = 1) -> float:
    """The quantile at 1 - 0.05 / ``tests`` of √n max_j |F_n(j) - F(j)| for ranks uniform on 0..levels."""
    null = _bridges(levels)
    return float(null[int((1 - 0.05 / tests) * len(null))])


def bridge_mean(levels: int, tests: int = 1) -> float:
    """The mean of the largest of ``tests`` independent √n max_j |F_n(j) - F(j)| of ranks uniform on 0..levels."""
    null = _bridges(levels)
    below = (torch.arange(len(null) + 1, dtype=torch.float64) / len(null)) ** tests
    return float(null @ below.diff())


def _several(n: int) -> None:
    if n < 2:
        raise InvalidArgumentError(f"a standard error needs at least 2 independent values, got {n}")


def spread(values: list[float], digits: int) -> str:
    """A mean, ± the standard deviation where there are several values."""
    deviation = f" ±{statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"
