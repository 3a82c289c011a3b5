"""The embedding of a network's times and labels, shared by all networks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["TimesEmbedding"]

FEATURES = 128


def frequencies(like: Tensor) -> Tensor:
    """Angular frequencies from ½ to 64, nine to an octave.

    From a nearly linear feature to one that tells t = 0.01 from t = 0; much higher ones would only amplify
    the time derivative that Mean Flow training takes.
    """
    return torch.exp2(torch.arange(FEATURES // 2, dtype=like.dtype, device=like.device) / 9 - 1)


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
    """Sinusoidal features of each of ``times`` times in [0, 1], mixed by a residual MLP to one embedding.

    With ``classes`` a last column holds labels, 0 to ``classes`` - 1, or ``classes`` for none, and a vector of each is
    added to the embedding, as in ADM (Dhariwal and Nichol, 2021).
    """

    def __init__(self, times: int, hidden: int, width: int, classes: int = 0) -> None:
        super().__init__()
        self.enter = nn.Linear(times * FEATURES, hidden)
        self.blocks = nn.Sequential(ResidualBlock(hidden), ResidualBlock(hidden))
        self.leave = nn.Linear(hidden, width)
        self.classes = nn.Embedding(classes + 1, width) if classes else None

    def forward(self, times: Float[Tensor, "b k"]) -> Float[Tensor, "b width"]:
        """Embed the times; the features are float32 at least, whatever the dtype of the weights."""
        # No buffer: a cast of the module to bfloat16 would round the frequencies, hence the angles by 0.1.
        times = times.to(torch.promote_types(times.dtype, torch.float32))
        own = times if self.classes is None else times[:, :-1]
        angles = own[:, :, None] * frequencies(times)
        features = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)
        embedding = self.leave(self.blocks(self.enter(features.to(self.enter.weight.dtype))))
        return embedding if self.classes is None else embedding + self.classes(times[:, -1].long())
