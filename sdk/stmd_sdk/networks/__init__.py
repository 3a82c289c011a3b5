"""Networks: U-Net, DiT and residual MLP, each of signature (packed input, times) -> output."""

from __future__ import annotations

from torch import nn

from ..errors import InvalidArgumentError
from .config import PRESETS, DiTConfig, MLPConfig, NetworkConfig, UNetConfig

__all__ = ["PRESETS", "DiTConfig", "MLPConfig", "NetworkConfig", "UNetConfig", "build_network"]


def build_network(
    config: NetworkConfig, *, in_channels: int, out_channels: int, times: int, size: tuple[int, ...]
) -> nn.Module:
    """A freshly initialised network; ``size`` is the spatial shape of its input, () for vectors."""
    _check_size(config, size)
    match config:
        case UNetConfig():
            from .unet import UNet  # noqa: PLC0415  diffusers takes seconds to import

            return UNet(config, in_channels, out_channels, times)
        case DiTConfig():
            from .dit import DiT  # noqa: PLC0415

            return DiT(config, in_channels, out_channels, times, (size[0], size[1]))
        case MLPConfig():
            from .mlp import ResidualMLP  # noqa: PLC0415

            return ResidualMLP(config, in_channels, out_channels, times)


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
