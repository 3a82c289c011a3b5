"""What a U-Net is, apart from its network, which takes seconds to import."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from ..errors import InvalidArgumentError
from .limits import MOST_LEVELS, WIDEST, check_fields, check_image, check_weights

__all__ = ["UNetConfig"]


@dataclass(frozen=True)
class UNetConfig:
    """A U-Net for images, built from diffusers' ``UNet2DModel``.

    ``channels`` has one entry a level; ``attention`` names the levels with self-attention (0 is the finest);
    ``patch_size`` folds blocks of pixels into channels first, so that a small network sees a smaller image.
    """

    channels: tuple[int, ...]
    attention: tuple[int, ...] = (1,)
    layers_per_block: int = 1
    downsample_padding: int = 1
    groups: int = 32
    patch_size: int = 1
    embedding_width: int = 256
    kind: Literal["unet"] = "unet"

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < len(self.channels) <= MOST_LEVELS:
            raise InvalidArgumentError(
                f"channels: must have an entry for each level, of which there are 1 to {MOST_LEVELS}"
            )
        for width in self.channels:
            if not 8 <= width <= WIDEST or width % self.groups:
                raise InvalidArgumentError(
                    f"channels: need multiples of groups = {self.groups}, from 8 to {WIDEST}, not {width}"
                )
        # Two 3×3 convolutions a layer, on the way down and up.
        check_weights(sum(36 * self.layers_per_block * width**2 for width in self.channels))
        for level in self.attention:
            if not 0 <= level < len(self.channels):
                raise InvalidArgumentError(f"attention: levels are 0 to {len(self.channels) - 1}, got {level}")

    def check_input(self, in_channels: int, size: tuple[int, ...]) -> None:
        """Raise for a packed input [b, in_channels, *size] of sides that cannot be halved a level."""
        check_image(self.kind, in_channels, size, self.patch_size * 2 ** (len(self.channels) - 1))

    def build(self, in_channels: int, out_channels: int, times: int, size: tuple[int, ...], classes: int) -> nn.Module:
        """The network."""
        from .unet import UNet  # noqa: PLC0415  diffusers takes seconds to import

        return UNet(self, in_channels, out_channels, times, classes)

    def tiny(self) -> UNetConfig:
        """As many levels and blocks, on as few channels as they take."""
        return replace(self, channels=(8,) * len(self.channels), groups=8, embedding_width=16)
