"""What a network is, as plain values: the part of a model's spec that says how to build it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["DiTConfig", "MLPConfig", "NetworkConfig", "UNetConfig"]


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


@dataclass(frozen=True)
class DiTConfig:
    """A diffusion transformer with adaptive layer norm (Peebles and Xie, 2023), for images and latents."""

    depth: int
    width: int
    heads: int
    patch_size: int = 2
    kind: Literal["dit"] = "dit"


@dataclass(frozen=True)
class MLPConfig:
    """A residual multilayer perceptron for vectors."""

    width: int = 256
    depth: int = 4
    kind: Literal["mlp"] = "mlp"


NetworkConfig = UNetConfig | DiTConfig | MLPConfig

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
    "dit-small": DiTConfig(depth=4, width=128, heads=4),
    "mlp": MLPConfig(),
}
"""Networks by name, for recipes: ``network = "unet-mnist"``."""
