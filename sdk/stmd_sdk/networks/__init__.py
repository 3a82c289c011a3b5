"""Networks: U-Net, DiT, residual MLP and diffusers' own, each of signature (packed input, times) -> output.

May import diffusion and the root modules. To add one: a module with its configuration, which checks and builds it, and
the configuration's name in ``config.py``.
"""

from __future__ import annotations

from torch import nn

from .config import PRESETS, NetworkConfig
from .diffusers_config import DiffusersConfig
from .dit import DiTConfig
from .given import GivenConfig
from .mlp import MLPConfig
from .none import NoNetworkConfig
from .unet_config import UNetConfig

__all__ = [
    "PRESETS",
    "DiTConfig",
    "DiffusersConfig",
    "GivenConfig",
    "MLPConfig",
    "NetworkConfig",
    "NoNetworkConfig",
    "UNetConfig",
    "build_network",
]


def build_network(
    config: NetworkConfig, *, in_channels: int, out_channels: int, times: int, size: tuple[int, ...], classes: int = 0
) -> nn.Module:
    """A freshly initialised network; ``size`` is the spatial shape of its input, () for vectors.

    With ``classes`` it takes their labels as one more column of its times; the class after the last is no label.
    """
    config.check_input(in_channels, size)
    return config.build(in_channels, out_channels, times, size, classes)
