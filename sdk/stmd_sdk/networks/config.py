"""What a network is, as plain values: the part of a model's spec that says how to build it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from ..checks import check_integer
from ..errors import InvalidArgumentError

__all__ = ["DiTConfig", "MLPConfig", "NetworkConfig", "UNetConfig"]


# What a file may ask for: far beyond any network in use, and little enough that asking takes no time and no memory.
WIDEST = 65_536
MOST = {"depth": 512, "layers_per_block": 16, "octaves": 32, "patch_size": 1024, "downsample_padding": 1}
MOST_LEVELS = 10
MOST_WEIGHTS = 2**35


def _check_sizes(config: UNetConfig | DiTConfig | MLPConfig) -> None:
    for field in fields(config):
        value: object = getattr(config, field.name)
        if isinstance(value, int):
            least = 0 if field.name in ("downsample_padding", "octaves") else 1
            check_integer(field.name, value, least, MOST.get(field.name, WIDEST))


def _check_weights(weights: int) -> None:
    """Raise for networks that no machine holds; ``weights`` counts those of their largest layers."""
    if weights > MOST_WEIGHTS:
        raise InvalidArgumentError(f"a network of {weights:.3g} weights, more than {MOST_WEIGHTS:.3g}")


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
        _check_sizes(self)
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
        _check_weights(sum(36 * self.layers_per_block * width**2 for width in self.channels))
        for level in self.attention:
            if not 0 <= level < len(self.channels):
                raise InvalidArgumentError(f"attention: levels are 0 to {len(self.channels) - 1}, got {level}")


@dataclass(frozen=True)
class DiTConfig:
    """A diffusion transformer with adaptive layer norm (Peebles and Xie, 2023), for images and latents."""

    depth: int
    width: int
    heads: int
    patch_size: int = 2
    kind: Literal["dit"] = "dit"

    def __post_init__(self) -> None:
        _check_sizes(self)
        if self.width % self.heads or self.width % 4:
            raise InvalidArgumentError(f"width: {self.width} is not divisible by heads = {self.heads} and by 4")
        _check_weights(self.depth * 18 * self.width**2)


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
        _check_sizes(self)
        _check_weights(self.depth * 2 * self.width**2)


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
