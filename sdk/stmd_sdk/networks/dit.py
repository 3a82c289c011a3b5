"""A diffusion transformer with adaptive layer norm, for images and latents (Peebles and Xie, 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import InvalidArgumentError
from .embedding import TimesEmbedding
from .limits import check_fields, check_image, check_numbers, check_weights

__all__ = ["DiT", "DiTConfig"]


@dataclass(frozen=True)
class DiTConfig:
    """A diffusion transformer with adaptive layer norm (Peebles and Xie, 2023), for images and latents."""

    depth: int
    width: int
    heads: int
    patch_size: int = 2
    kind: Literal["dit"] = "dit"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.width % self.heads or self.width % 4:
            raise InvalidArgumentError(f"width: {self.width} is not divisible by heads = {self.heads} and by 4")
        check_weights(self.depth * 18 * self.width**2)

    def check_input(self, in_channels: int, size: tuple[int, ...]) -> None:
        """Raise for a packed input [b, in_channels, *size] of sides that patches do not fill."""
        check_image(self.kind, in_channels, size, self.patch_size)
        check_numbers(self.kind, "the positions", math.prod(size) // self.patch_size**2 * self.width)

    def build(self, in_channels: int, out_channels: int, times: int, size: tuple[int, ...], classes: int) -> nn.Module:
        """The network."""
        return DiT(self, in_channels, out_channels, times, (size[0], size[1]), classes)

    def tiny(self) -> DiTConfig:
        """As many attentions, on as few numbers as they take."""
        return replace(self, depth=2, width=32, heads=2)


def positions(rows: int, columns: int, width: int) -> Float[Tensor, "tokens width"]:
    """Sinusoidal positions of a grid: half of the width for the row, half for the column."""
    # On the CPU even where the weights are built on the meta device: no file brings the positions.
    frequency = 10_000.0 ** -torch.linspace(0, 1, width // 4 + 1, dtype=torch.float32, device="cpu")[:-1]

    def axis(count: int) -> Tensor:
        angle = torch.arange(count, device="cpu")[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    row = axis(rows)[:, None].expand(-1, columns, -1)
    column = axis(columns)[None].expand(rows, -1, -1)
    return torch.cat([row, column], dim=-1).flatten(0, 1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift, one shift and scale a sample."""
    return x * (1 + scale[:, None]) + shift[:, None]


class Attention(nn.Module):
    """Multi-head self-attention: in plain operations, which have forward-mode derivatives; fused in inference mode."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.leave = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "b tokens width"]) -> Float[Tensor, "b tokens width"]:
        """Attend among the tokens."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if torch.is_inference_mode_enabled():
            attended = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            attended = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v
        return self.leave(attended.transpose(1, 2).flatten(2))


class DiTBlock(nn.Module):
    """Attention and MLP, each shifted, scaled and gated by the times; the gates start at zero."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """[b, tokens, width] and [b, width] to [b, tokens, width]."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(embedding).chunk(6, dim=-1)
        x = x + gate_a[:, None] * self.attention(modulate(self.norm_attention(x), shift_a, scale_a))
        return x + gate_m[:, None] * self.mlp(modulate(self.norm_mlp(x), shift_m, scale_m))


class DiT(nn.Module):
    """Images [b, in_channels, h, w] and times [b, k] to [b, out_channels, h, w].

    k is ``times``, and one more for the labels of a network with ``classes``.
    """

    def __init__(
        self,
        config: DiTConfig,
        in_channels: int,
        out_channels: int,
        times: int,
        size: tuple[int, int],
        classes: int = 0,
    ) -> None:
        super().__init__()
        patch = config.patch_size
        self.fold = nn.PixelUnshuffle(patch)
        self.unfold = nn.PixelShuffle(patch)
        self.enter = nn.Linear(in_channels * patch**2, config.width)
        grid = positions(size[0] // patch, size[1] // patch, config.width)
        self.register_buffer("positions", grid, persistent=False)
        self.embed = TimesEmbedding(times, config.width, config.width, classes)
        self.blocks = nn.ModuleList(DiTBlock(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(config.width, 2 * config.width)
        self.leave = nn.Linear(config.width, out_channels * patch**2)
        for layer in (self.modulation, self.leave):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "b c_in h w"], times: Float[Tensor, "b k"]) -> Float[Tensor, "b c h w"]:
        """Evaluate the network."""
        folded = self.fold(x)
        embedding = nn.functional.silu(self.embed(times))
        tokens = self.enter(folded.flatten(2).transpose(1, 2))
        tokens = tokens + self.get_buffer("positions").to(tokens.dtype)
        for block in self.blocks:
            tokens = block(tokens, embedding)
        shift, scale = self.modulation(embedding).chunk(2, dim=-1)
        patches = self.leave(modulate(self.norm(tokens), shift, scale))
        return self.unfold(patches.transpose(1, 2).unflatten(2, folded.shape[2:]))
