"""Learned weights of the losses: each is divided by its own size at the times it was drawn at."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stmd_sdk.networks.embedding import TimesEmbedding

__all__ = ["LossWeights"]

WIDTH = 64


@final
class LossWeights(nn.Module):
    """L exp(-s) + s in place of a loss L > 0, with s(τ, r, t) trained along: one s for each of STMD's two losses.

    At its least e^s is the mean of L at (τ, r, t) (Kendall et al., 2018; over a diffusion's noise levels Karras et
    al., 2024), so that no time's gradients drown another's. s begins at 0, which is the plain loss, and is no part of
    the trained model.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = TimesEmbedding(3, WIDTH, WIDTH)
        self.leave = nn.Linear(WIDTH, 2)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, tau: Float[Tensor, " b"], r: Float[Tensor, " b"], t: Float[Tensor, " b"]) -> Float[Tensor, "b 2"]:
        """s of the flow loss and of the energy score."""
        return self.leave(nn.functional.silu(self.embed(torch.stack([tau, r, t], dim=1)))).float()

    def flow(
        self, loss: Float[Tensor, " b"], tau: Float[Tensor, " b"], r: Float[Tensor, " b"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """The flow losses of the intervals (r, τ) at t, weighed."""
        s = self(tau, r, t)[:, 0]
        return loss * (-s).exp() + s

    def energy_score(self, score: Float[Tensor, " b"], t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The energy scores at t, weighed: their draws take the whole interval (0, 1)."""
        s = self(torch.ones_like(t), torch.zeros_like(t), t)[:, 1]
        return score * (-s).exp() + s
