"""Networks: U-Net, DiT and residual MLP, each of signature (packed input, times) -> output."""

from __future__ import annotations

import math

from torch import nn

from ..errors import InvalidArgumentError
from .config import PRESETS, DiTConfig, MLPConfig, NetworkConfig, UNetConfig

__all__ = ["PRESETS", "DiTConfig", "MLPConfig", "NetworkConfig", "UNetConfig", "build_network"]


def build_network(
    config: NetworkConfig, *, in_channels: int, out_channels: int, times: int, size: tuple[int, ...], classes: int = 0
) -> nn.Module:
    """A freshly initialised network; ``size`` is the spatial shape of its input, () for vectors.

    With ``classes`` it takes their labels as one more column of its times; the class after the last is no label.
    """
    _check_size(config, size)
    _check_numbers(config, in_channels, size)
    match config:
        case UNetConfig():
            from .unet import UNet  # noqa: PLC0415  diffusers takes seconds to import

            return UNet(config, in_channels, out_channels, times, classes)
        case DiTConfig():
            from .dit import DiT  # noqa: PLC0415

            return DiT(config, in_channels, out_channels, times, (size[0], size[1]), classes)
        case MLPConfig():
            from .mlp import ResidualMLP  # noqa: PLC0415

            return ResidualMLP(config, in_channels, out_channels, times, classes)


MOST_NUMBERS = 2**27
"""In one input, and in a transformer's positions: an image of 4096×4096 in colour has 2^25.6, two are an input."""


def _check_numbers(config: NetworkConfig, in_channels: int, size: tuple[int, ...]) -> None:
    """Raise for inputs and positions that would fill the memory: on the positions' behalf before they are made."""
    numbers = in_channels * math.prod(size)
    positions = math.prod(size) // config.patch_size**2 * config.width if isinstance(config, DiTConfig) else 0
    for what, count in (("one input", numbers), ("the positions", positions)):
        if count > MOST_NUMBERS:
            raise InvalidArgumentError(f"{what} of this {config.kind} would have more than {MOST_NUMBERS} numbers")


def _check_size(config: NetworkConfig, size: tuple[int, ...]) -> None:
    if isinstance(config, MLPConfig):
        if size:
            raise InvalidArgumentError(f"an MLP takes vectors, not images of {'x'.join(map(str, size))}")
        return
    if len(size) != 2:
        raise InvalidArgumentError(f"a {config.kind} takes images [b, c, h, w], not data of spatial shape {size}")
    levels = len(config.channels) if isinstance(config, UNetConfig) else 1
    multiple = config.patch_size * 2 ** (levels - 1)
    if any(side % multiple for side in size):
        raise InvalidArgumentError(
            f"this {config.kind} needs height and width divisible by {multiple}, got {size[0]}x{size[1]}"
        )
