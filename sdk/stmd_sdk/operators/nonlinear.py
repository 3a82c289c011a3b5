"""Nonlinear operators: they have a method ``A`` alone, for likelihoods."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import check_integer
from ..errors import InvalidArgumentError

__all__ = ["Clip", "Jpeg", "PhaseRetrieval"]

BLOCK = 8
# Step sizes for luminance of Annex K of ITU-T T.81 at quality 50.
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


@final
@dataclass(frozen=True)
class Clip:
    """Overexposure, as in high dynamic range: y = clip(gain x, -1, 1)."""

    gain: float = 2.0

    def __post_init__(self) -> None:
        if not 1 < self.gain < math.inf:
            raise InvalidArgumentError(f"the gain must be larger than 1, got {self.gain}")

    def A(self, x: Float[Tensor, "b *d"], /) -> Float[Tensor, "b *d"]:
        """clip(gain x)."""
        return (self.gain * x).clamp(-1, 1)


@final
@dataclass(frozen=True)
class Jpeg:
    """JPEG without its colour conversion and entropy coding: 8×8 cosine blocks of each channel, quantised.

    ``quality`` from 1 to 100 scales the luminance table as libjpeg does. Images whose sides are no multiples
    of 8 are continued by their last pixels. Its derivative is zero almost everywhere: use a chain.
    """

    quality: int = 25

    def __post_init__(self) -> None:
        check_integer("quality", self.quality, 1, 100)

    def A(self, x: Float[Tensor, "b c h w"], /) -> Float[Tensor, "b c h w"]:
        """The image after coding and decoding."""
        height, width = x.shape[-2:]
        padded = torch.nn.functional.pad(x, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate")
        blocks = padded.unfold(2, BLOCK, BLOCK).unfold(3, BLOCK, BLOCK)
        cosines = _cosines().to(x)
        step = self._steps().to(x) * (2 / 255)
        coded = (cosines @ blocks @ cosines.T / step).round() * step
        decoded = (cosines.T @ coded @ cosines).transpose(3, 4)
        return decoded.reshape(padded.shape)[..., :height, :width].clamp(-1, 1)

    def _steps(self) -> Tensor:
        scale = 5000 / self.quality if self.quality < 50 else 200 - 2 * self.quality
        return ((torch.tensor(LUMINANCE) * scale + 50) / 100).floor().clamp(1, 255)


def _cosines() -> Tensor:
    """The orthonormal DCT-II of eight numbers."""
    k, n = torch.arange(BLOCK)[:, None], torch.arange(BLOCK)
    matrix = (math.pi * (n + 0.5) * k / BLOCK).cos() * math.sqrt(2 / BLOCK)
    matrix[0] /= math.sqrt(2)
    return matrix


@final
@dataclass(frozen=True)
class PhaseRetrieval:
    """y = |F x| of the image padded to ``oversampling`` times its sides: the Fourier magnitudes."""

    oversampling: int = 2

    def __post_init__(self) -> None:
        check_integer("oversampling", self.oversampling, 1)

    def A(self, x: Float[Tensor, "b c h w"], /) -> Float[Tensor, "b c p q"]:
        """The magnitudes of the orthonormal Fourier transform."""
        size = [side * self.oversampling for side in x.shape[-2:]]
        return torch.fft.fft2(x, s=size, norm="ortho").abs()
