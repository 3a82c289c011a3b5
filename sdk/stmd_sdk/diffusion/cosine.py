"""The cosine schedule: the angle between signal and noise grows evenly in time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InvalidArgumentError
from .schedule import Schedule

__all__ = ["CosineSchedule"]


@final
@dataclass(frozen=True)
class CosineSchedule(Schedule):
    """α_t = cos(θ t) and σ_t = sin(θ t), with θ = arctan(``ratio_max``), the largest σ_t / α_t, just short of π/2.

    Nichol and Dhariwal (2021), without their offset and cut where they clip: at t = 1 some signal is left, as there is
    in the linear schedule, whose σ_1 / α_1 is 152.
    """

    ratio_max: float = 150.0
    kind: Literal["cosine"] = "cosine"

    def __post_init__(self) -> None:
        if not 0 < self.ratio_max < math.inf:
            raise InvalidArgumentError(f"ratio_max: must be positive and finite, got {self.ratio_max}")

    def log_ratio(self, t: Tensor, s: Tensor) -> Tensor:
        """log(cos θt / cos θs), by cos a - cos b = -2 sin((a + b)/2) sin((a - b)/2)."""
        half = 0.5 * math.atan(self.ratio_max)
        return torch.log1p(-2 * torch.sin(half * (t + s)) * torch.sin(half * (t - s)) / torch.cos(2 * half * s))

    def time(self, ratio: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """arctan(``ratio``) / θ, at most 1."""
        return (torch.atan(ratio) / math.atan(self.ratio_max)).clamp(max=1)
