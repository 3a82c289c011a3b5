"""The linear schedule of the paper: the only place that knows β."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InvalidArgumentError
from .schedule import Schedule

__all__ = ["VPSchedule"]


@final
@dataclass(frozen=True)
class VPSchedule(Schedule):
    """The variance-preserving SDE dx = -½ β(t) x dt + √β(t) dW on t in [0, 1] (14).

    β(t) = β_min + t (β_max - β_min). Times are float32 tensors of shape [b].
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    kind: Literal["vp"] = "vp"

    def __post_init__(self) -> None:
        if not (0 < self.beta_min <= self.beta_max < math.inf):
            raise InvalidArgumentError(f"need 0 < beta_min <= beta_max, got {self.beta_min} and {self.beta_max}")

    @classmethod
    def up_to(cls, ratio: float) -> VPSchedule:
        """The default schedule, or a flatter one whose largest σ_t / α_t, that at t = 1, is ``ratio``.

        For denoisers that know no larger level: log α_1 = -¼ (β_max + β_min) is to be -½ log(1 + ratio²).
        """
        usual = cls()
        beta_max = 2 * math.log1p(min(ratio, 1e6) ** 2) - usual.beta_min
        return cls(min(usual.beta_min, beta_max), min(usual.beta_max, beta_max))

    def log_ratio(self, t: Tensor, s: Tensor) -> Tensor:
        """log(α_t / α_s) = -½ ∫_s^t β, without the cancellation of a difference of logarithms."""
        slope, gap = self.beta_max - self.beta_min, t - s
        return -0.25 * slope * gap * (t + s) - 0.5 * self.beta_min * gap

    def time(self, ratio: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """The time at which σ_t / α_t = ``ratio``; 1 where it never gets so large.

        -log α_t = ½ log(1 + ratio²) is a quadratic equation in t.
        """
        slope, level = 0.25 * (self.beta_max - self.beta_min), 0.5 * self.beta_min
        c = 0.5 * torch.log1p(ratio**2)
        return (2 * c / (level + (level**2 + 4 * slope * c).sqrt())).clamp(max=1)
