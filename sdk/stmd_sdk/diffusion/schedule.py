"""The seam of schedules: how signal and noise mix at each time, and the bridge between two times.

Equation numbers are those of arXiv 2605.07661.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Num, Shaped
from torch import Tensor

__all__ = ["Schedule", "expand"]


def expand(t: Num[Tensor, " b"] | Bool[Tensor, " b"], x: Float[Tensor, "b *d"]) -> Shaped[Tensor, "b *ones"]:
    """Shape one number a sample so that it broadcasts against ``x``. The one border for broadcasting."""
    return t.reshape(-1, *[1] * (x.ndim - 1))


@runtime_checkable  # for the checks of annotations in the tests
class Schedule(Protocol):
    """A variance-preserving diffusion on t in [0, 1]: x_t | x_0 ~ N(α_t x_0, (1 - α_t²) I) (15).

    A schedule is its ``log_ratio`` and the inverse, ``time``; marginal and bridge follow. Any other Gaussian path is
    this one after scaling: what is seen of x_0 at noise level σ_t/α_t is the same. Times are float32 tensors [b].
    """

    @abstractmethod
    def log_ratio(self, t: Tensor, s: Tensor) -> Tensor:
        """log(α_t / α_s), without the cancellation of a difference of logarithms; α_0 = 1."""
        ...

    @abstractmethod
    def time(self, ratio: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """The time at which σ_t / α_t = ``ratio``; 1 where it never gets so large."""
        ...

    def alpha(self, t: Tensor) -> Tensor:
        """α_t of the marginal x_t | x_0 ~ N(α_t x_0, σ_t² I) (15)."""
        return self.alpha_and_variance(t)[0]

    def variance(self, t: Tensor) -> Tensor:
        """σ_t² = 1 - α_t² of the marginal (15)."""
        return self.alpha_and_variance(t)[1]

    def alpha_and_variance(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(α_t, σ_t²) of the marginal (15)."""
        log_alpha = self.log_ratio(t, torch.zeros_like(t))
        return log_alpha.exp(), -torch.expm1(2 * log_alpha)

    def sigma(self, t: Tensor) -> Tensor:
        """σ_t of the marginal (15)."""
        return self.variance(t).sqrt()

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

        Exact at s = 0, where it is x_0, and at s = t, where it is x_t.
        """
        toward_t, toward_0, spread = self.bridge_coefficients(t, s)
        return expand(toward_t, x_t) * x_t + expand(toward_0, x_0) * x_0 + expand(spread, x_0) * epsilon

    def bridge_coefficients(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What x_t, x_0 and ε are multiplied by in a draw of the bridge (19).

        With a = α_t/α_s and v = σ_t² - a² σ_s² = 1 - a²:
        x_s = (a σ_s² x_t + α_s v x_0) / σ_t² + √(σ_s² v / σ_t²) ε.
        """
        log_a, variance_t = self.log_ratio(t, s), self.variance(t)
        alpha_s, variance_s = self.alpha_and_variance(s)
        share = -torch.expm1(2 * log_a) / variance_t
        return log_a.exp() * (variance_s / variance_t), alpha_s * share, (variance_s * share).sqrt()
