"""A residual MLP for vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import InvalidArgumentError
from .embedding import TimesEmbedding
from .limits import check_fields, check_numbers, check_weights

__all__ = ["MLPConfig", "ResidualMLP"]


@dataclass(frozen=True)
class MLPConfig:
    """A residual multilayer perceptron for vectors.

    With ``octaves`` it also sees the sine and cosine of each input at that many frequencies from π/2 up (Tancik et al.,
    2020): for data in few coordinates with many modes, whose edges a plain perceptron learns last.
    """

    width: int = 256
    depth: int = 3
    embedding_width: int = 64
    octaves: int = 0
    kind: Literal["mlp"] = "mlp"

    def __post_init__(self) -> None:
        check_fields(self)
        check_weights(self.depth * 2 * self.width**2)

    def check_input(self, in_channels: int, size: tuple[int, ...]) -> None:
        """Raise for a packed input [b, in_channels, *size] that is no vector."""
        if size:
            raise InvalidArgumentError(f"an MLP takes vectors, not images of {'x'.join(map(str, size))}")
        check_numbers(self.kind, "one input", in_channels)

    def build(self, in_channels: int, out_channels: int, times: int, size: tuple[int, ...], classes: int) -> nn.Module:
        """The network."""
        return ResidualMLP(self, in_channels, out_channels, times, classes)

    def tiny(self) -> MLPConfig:
        """As few numbers as it takes to try."""
        return replace(self, width=16, depth=1)


def rms_norm(h: Tensor) -> Tensor:
    """h over its root mean square, in plain operations: they are forward-mode safe and fast there."""
    return h * (h.square().mean(-1, keepdim=True) + 1e-6).rsqrt()


class MLPBlock(nn.Module):
    """h + W2 silu(W1 norm(h) + E embedding)."""

    def __init__(self, width: int, embedding_width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.times = nn.Linear(embedding_width, width)
        self.second = nn.Linear(width, width)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """[b, width] and [b, embedding_width] to [b, width]."""
        return h + self.second(nn.functional.silu(self.first(rms_norm(h)) + self.times(embedding)))


def fourier_features(x: Float[Tensor, "b c"], octaves: int) -> Float[Tensor, "b c2"]:
    """x, then sin ωx and cos ωx at ω = π/2, π, 2π, …; in float32 at least, as angles need it."""
    angles = [math.pi / 2 * 2**k * x.to(torch.promote_types(x.dtype, torch.float32)) for k in range(octaves)]
    return torch.cat([x, *(wave(angle).to(x.dtype) for angle in angles for wave in (torch.sin, torch.cos))], dim=1)


class ResidualMLP(nn.Module):
    """Vectors [b, in_channels] and times [b, k] to [b, out_channels].

    k is ``times``, and one more for the labels of a network with ``classes``.
    """

    def __init__(self, config: MLPConfig, in_channels: int, out_channels: int, times: int, classes: int = 0) -> None:
        super().__init__()
        self.embed = TimesEmbedding(times, config.embedding_width, config.embedding_width, classes)
        self.octaves = config.octaves
        self.enter = nn.Linear(in_channels * (1 + 2 * config.octaves), config.width)
        self.blocks = nn.ModuleList(MLPBlock(config.width, config.embedding_width) for _ in range(config.depth))
        self.leave = nn.Linear(config.width, out_channels)

    def forward(self, x: Float[Tensor, "b c_in"], times: Float[Tensor, "b k"]) -> Float[Tensor, "b c"]:
        """Evaluate the network."""
        embedding = nn.functional.silu(self.embed(times))
        h = self.enter(fourier_features(x, self.octaves))
        for block in self.blocks:
            h = block(h, embedding)
        # Without the last norm the stream can grow until every unit is dead, at learning rates that are fine otherwise.
        return self.leave(nn.functional.silu(rms_norm(h)))
