"""Time samplers: which intervals (r, τ) of the conditional flow a batch trains.

The paper defers to MeanFlow's code here; the kinds are its later values (Geng et al., 2025). The uniform share is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.errors import InvalidArgumentError

__all__ = ["TimeSampler"]


@dataclass(frozen=True)
class TimeSampler:
    """Draws τ and r ≤ τ, each a sigmoid of a normal, with r = τ for a share of the rows.

    ``pixels``: τ from N(-0.6, 1.6²) and r from N(-4.0, 1.6²), cut at τ. ``latents``: both from N(-0.4, 1), sorted. A
    row in ``uniform_share`` takes uniform times instead, two sorted ones or, where r = τ, one: the other laws all but
    leave out τ near 1, where every draw starts, and M > 1 steps with u(z, r, 1) at r > 0. ``moving_share`` is the
    share of rows with r < τ, which alone need a derivative: three quarters for pixels and a quarter for latents in
    MeanFlow. This share is by row index, so that shapes stay static.
    """

    kind: Literal["pixels", "latents"] = "pixels"
    moving_share: float = 0.75
    uniform_share: float = 0.0

    def __post_init__(self) -> None:
        for key in ("moving_share", "uniform_share"):
            if not 0 <= getattr(self, key) <= 1:
                raise InvalidArgumentError(f"{key}: must lie in [0, 1], got {getattr(self, key)}")

    def moving_rows(self, batch: int) -> int:
        """How many rows, the first ones, have r < τ."""
        return round(self.moving_share * batch)

    def __call__(self, noise: Noise) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
        """(τ, r) for each sample."""
        first, second = noise.normal(2).unbind(1)
        if self.kind == "pixels":
            tau = torch.sigmoid(1.6 * first - 0.6)
            r = torch.minimum(torch.sigmoid(1.6 * second - 4.0), tau)
        else:
            first, second = torch.sigmoid(first - 0.4), torch.sigmoid(second - 0.4)
            tau, r = torch.maximum(first, second), torch.minimum(first, second)
        k = self.moving_rows(len(noise))
        if self.uniform_share:
            one, other = noise.fold(0).uniform(2).unbind(1)
            uniform = noise.fold(1).uniform() < self.uniform_share
            tau = torch.where(uniform, torch.cat([torch.maximum(one, other)[:k], one[k:]]), tau)
            r = torch.where(uniform, torch.minimum(one, other), r)
        return tau, torch.cat([r[:k], tau[k:]])
