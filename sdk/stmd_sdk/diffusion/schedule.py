"""The forward process: the only place that knows β.

Equation numbers are those of arXiv 2605.07661.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Num, Shaped
from torch import Tensor

from ..errors import InvalidArgumentError

__all__ = ["VPSchedule", "expand"]


def expand(t: Num[Tensor, " b"] | Bool[Tensor, " b"], x: Float[Tensor, "b *d"]) -> Shaped[Tensor, "b *ones"]:
    """Shape one number a sample so that it broadcasts against ``x``. The one border for broadcasting."""
    return t.reshape(-1, *[1] * (x.ndim - 1))


@dataclass(frozen=True)
class VPSchedule:
    """The variance-preserving SDE dx = -½ β(t) x dt + √β(t) dW on t in [0, 1] (14).

    β(t) = β_min + t (β_max - β_min). Times are float32 tensors of shape [b].
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not (0 < self.beta_min <= self.beta_max < math.inf):
            raise InvalidArgumentError(f"need 0 < beta_min <= beta_max, got {self.beta_min} and {self.beta_max}")

    def log_ratio(self, t: Tensor, s: Tensor) -> Tensor:
        """log(α_t / α_s) = -½ ∫_s^t β, without the cancellation of a difference of logarithms."""
        slope = self.beta_max - self.beta_min
        return -0.25 * slope * (t - s) * (t + s) - 0.5 * self.beta_min * (t - s)

    def alpha(self, t: Tensor) -> Tensor:
        """α_t of the marginal x_t | x_0 ~ N(α_t x_0, σ_t² I) (15)."""
        return self.log_ratio(t, torch.zeros_like(t)).exp()

    def variance(self, t: Tensor) -> Tensor:
        """σ_t² = 1 - α_t² of the marginal (15)."""
        return -torch.expm1(2 * self.log_ratio(t, torch.zeros_like(t)))

    def sigma(self, t: Tensor) -> Tensor:
        """σ_t of the marginal (15)."""
        return self.variance(t).sqrt()

    def time(self, ratio: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The time at which σ_t / α_t = ``ratio``; 1 where it never gets so large.

        -log α_t = ½ log(1 + ratio²) is a quadratic equation in t.
        """
        slope, level = 0.25 * (self.beta_max - self.beta_min), 0.5 * self.beta_min
        c = 0.5 * torch.log1p(ratio**2)
        return (2 * c / (level + (level**2 + 4 * slope * c).sqrt())).clamp(max=1)

    def marginal(
        self, x_0: Float[Tensor, "b *d"], t: Float[Tensor, " b"], epsilon: Float[Tensor, "b *d"]
    ) -> Float[Tensor, "b *d"]:
        """x_t = α_t x_0 + σ_t ε (15)."""
        return expand(self.alpha(t), x_0) * x_0 + expand(self.sigma(t), x_0) * epsilon

    def bridge(
        self,
        x_0: Float[Tensor, "b *d"],
        x_t: Float[Tensor, "b *d"],
        t: Float[Tensor, " b"],
        s: Float[Tensor, " b"],
        epsilon: Float[Tensor, "b *d"],
    ) -> Float[Tensor, "b *d"]:
        """A draw of the bridge q(x_s | x_0, x_t) (19), 0 <= s <= t, t > 0.

        Exact at s = 0, where it is x_0, and at s = t, where it is x_t. With a = α_t/α_s and
        v = σ_t² - a² σ_s² = 1 - a²:
        x_s = (a σ_s² x_t + α_s v x_0) / σ_t² + √(σ_s² v / σ_t²) ε.
        """
        log_a = self.log_ratio(t, s)
        v = -torch.expm1(2 * log_a)
        variance_s, variance_t = self.variance(s), self.variance(t)
        toward_t = log_a.exp() * (variance_s / variance_t)
        toward_0 = self.alpha(s) * (v / variance_t)
        spread = (variance_s * (v / variance_t)).sqrt()
        return expand(toward_t, x_t) * x_t + expand(toward_0, x_0) * x_0 + expand(spread, x_0) * epsilon
