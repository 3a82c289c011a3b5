"""The embedding of a network's times, shared by all networks."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["TimesEmbedding"]

FEATURES = 128
# Angular frequencies: from a nearly linear feature to one that tells t = 0.01 from t = 0. Much higher ones would
# only amplify the time derivative that Mean Flow training takes.
FREQUENCY_MIN, FREQUENCY_MAX = 0.5, 64.0


class ResidualBlock(nn.Module):
    """x + W2 silu(W1 silu(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[b, width] to [b, width]."""
        silu = nn.functional.silu
        return x + self.second(silu(self.first(silu(x))))


class TimesEmbedding(nn.Module):
    """Sinusoidal features of each of ``times`` times in [0, 1], mixed by a residual MLP to one embedding."""

    def __init__(self, times: int, hidden: int, width: int) -> None:
        super().__init__()
        frequencies = torch.logspace(math.log10(FREQUENCY_MIN), math.log10(FREQUENCY_MAX), FEATURES // 2)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.enter = nn.Linear(times * FEATURES, hidden)
        self.blocks = nn.Sequential(ResidualBlock(hidden), ResidualBlock(hidden))
        self.leave = nn.Linear(hidden, width)

    def forward(self, times: Float[Tensor, "b k"]) -> Float[Tensor, "b width"]:
        """Embed the times; the features are float32 whatever the dtype of the weights."""
        angles = times.float()[:, :, None] * self.get_buffer("frequencies").float()
        features = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
        return self.leave(self.blocks(self.enter(features.to(self.enter.weight.dtype))))
