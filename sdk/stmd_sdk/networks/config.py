"""The networks that specs and recipes know, by their kind or by name."""

from __future__ import annotations

from .diffusers_config import DiffusersConfig
from .dit import DiTConfig
from .given import GivenConfig
from .mlp import MLPConfig
from .none import NoNetworkConfig
from .unet_config import UNetConfig

__all__ = ["PRESETS", "NetworkConfig"]

NetworkConfig = UNetConfig | DiTConfig | MLPConfig | DiffusersConfig | GivenConfig | NoNetworkConfig

PRESETS: dict[str, NetworkConfig] = {
    # The paper's Table 1 (1.1 M and 37.5 M parameters) and its CelebA transformer (308 M).
    "unet-mnist": UNetConfig(channels=(32, 64, 32)),
    "unet-cifar10": UNetConfig(
        channels=(128, 256, 256, 256), layers_per_block=2, downsample_padding=0, embedding_width=512
    ),
    "dit-m2": DiTConfig(depth=16, width=1024, heads=16),
    # Small ones, for CPUs and tests.
    "unet-digits": UNetConfig(channels=(32, 64), groups=8, embedding_width=128),
    "unet-compact": UNetConfig(channels=(32, 64), groups=8, patch_size=2, embedding_width=128),
    "unet-compact-cifar10": UNetConfig(
        channels=(32, 64, 128), attention=(1, 2), groups=8, patch_size=2, embedding_width=128
    ),
    "dit-small": DiTConfig(depth=4, width=128, heads=4),
    "mlp": MLPConfig(),
    # For what is fitted and not trained.
    "none": NoNetworkConfig(),
}
"""Networks by name, for recipes: ``network = "unet-mnist"``."""
