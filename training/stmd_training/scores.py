"""Energy scores: proper scoring rules of a few draws against the truth, of whole samples and of their fine scales."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.diffusion.posterior import Posterior
from stmd_sdk.errors import InvalidArgumentError

__all__ = ["EnergyScore"]

View = Callable[[Tensor], tuple[Tensor, int]]
"""The squared norms [b, p] of p parts of samples [b, *d], each scored by itself, and how many numbers are in one."""


def _whole(x: Float[Tensor, "b *d"]) -> tuple[Float[Tensor, "b 1"], int]:
    return x.flatten(1).square().sum(1, keepdim=True), x[0].numel()


def _differences(x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b 1"], int]:
    """∂x and ∂y of an image: each value less its left and its upper neighbour."""
    across, down = x.diff(dim=3), x.diff(dim=2)
    norms = across.flatten(1).square().sum(1, keepdim=True) + down.flatten(1).square().sum(1, keepdim=True)
    return norms, across[0].numel() + down[0].numel()


def _patches(size: int) -> View:
    """All patches of ``size`` x ``size`` pixels that lie ``size`` // 2 apart."""

    def view(x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b p"], int]:
        squares = x.square().sum(1, keepdim=True)
        norms = functional.avg_pool2d(squares, size, max(size // 2, 1), divisor_override=1)
        return norms.flatten(1), x.shape[1] * size**2

    return view


@final
@dataclass(frozen=True)
class EnergyScore:
    """The energy score of ``draws`` draws x̂ of a posterior at (x_t, t), over d^(β/2) in d dimensions:

        E‖x̂ - x_0‖^β - ½ E‖x̂ - x̂'‖^β,    β = ``exponent``, in (0, 2)

    A strictly proper scoring rule (Gneiting and Raftery, 2007), used as a diffusion loss by De Bortoli et al. (2025):
    its only minimiser is the true posterior. It restores the variance that the flow loss alone loses at one step. A
    smaller β weighs small distances more, and so tells separated modes from a bridge between them; in many dimensions,
    where all distances are alike, β matters little. More draws make it less noisy, at an evaluation each. ``weight``
    is the λ of the loss that adds it.

    The score of a whole image constrains its fine scales badly (ECMWF 2026, arXiv 2607.19161). A share of it may be the
    score of neighbour ``differences`` ∂x, ∂y, and a share, ``patches``, the mean of the scores of all patches of
    ``patch_sizes`` pixels, half a patch apart; the rest is that of the whole. A weighted sum of proper scores is
    proper, and strictly so while the whole has a share of it.
    """

    weight: float = 0.0
    exponent: float = 1.0
    draws: int = 2
    differences: float = 0.0
    patches: float = 0.0
    patch_sizes: tuple[int, ...] = (4, 7)

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise InvalidArgumentError(f"weight: must be at least 0, got {self.weight}")
        if not 0 < self.exponent < 2:
            raise InvalidArgumentError(f"exponent: must lie in (0, 2), where the score is proper, got {self.exponent}")
        if self.draws < 2:
            raise InvalidArgumentError(f"draws: must be at least 2, got {self.draws}")
        if not (self.differences >= 0 and self.patches >= 0 and self.differences + self.patches < 1):
            raise InvalidArgumentError(
                "differences and patches: shares of at least 0 that leave some for the whole sample, "
                f"got {self.differences} and {self.patches}"
            )
        if not self.patch_sizes or min(self.patch_sizes) < 1:
            raise InvalidArgumentError(f"patch_sizes: expected sizes of at least 1, got {list(self.patch_sizes)}")

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse samples of a ``shape`` that has no neighbours or is smaller than a patch."""
        if self.differences + self.patches > 0 and len(shape) != 3:
            raise InvalidArgumentError(
                f"energy_score.differences and .patches: scores of images, not of samples of shape {list(shape)}"
            )
        if self.differences > 0 and max(shape[1:]) < 2:
            raise InvalidArgumentError(f"energy_score.differences: images of shape {list(shape)} have no neighbours")
        if self.patches > 0 and max(self.patch_sizes) > min(shape[1:]):
            raise InvalidArgumentError(
                f"energy_score.patch_sizes: {max(self.patch_sizes)} is more than images of shape {list(shape)} hold"
            )

    def _views(self) -> Iterator[tuple[float, View]]:
        """What is scored, each with its share."""
        yield 1 - self.differences - self.patches, _whole
        if self.differences > 0:
            yield self.differences, _differences
        if self.patches > 0:
            for size in self.patch_sizes:
                yield self.patches / len(self.patch_sizes), _patches(size)

    def __call__(
        self, posterior: Posterior, x_0: Float[Tensor, "b *d"], x_t: Float[Tensor, "b *d"], t: Tensor, noise: Noise
    ) -> Float[Tensor, " b"]:
        """The score of each sample, without bias in the number of draws and without its weight."""
        many = [self.draws, *[1] * (x_t.ndim - 1)]
        x = posterior(x_t.repeat(many), t.repeat(self.draws), noise.draws(self.draws)).chunk(self.draws)
        return sum((share * self._score(view, x, x_0) for share, view in self._views()), start=torch.zeros_like(t))

    def _score(self, view: View, x: Sequence[Tensor], x_0: Float[Tensor, "b *d"]) -> Float[Tensor, " b"]:
        """The score of one view, over d^(β/2); the mean over its parts."""

        def distance(a: Tensor, b: Tensor) -> Float[Tensor, "b p"]:
            norms, d = view(a - b)
            # The square root has no derivative at 0, where two draws of a fresh network may meet.
            return (norms + 1e-12) ** (self.exponent / 2) / d ** (self.exponent / 2)

        error = torch.stack([distance(one, x_0) for one in x]).mean(0)
        spread = torch.stack([distance(a, b) for a, b in combinations(x, 2)]).mean(0)
        return (error - 0.5 * spread).mean(1)
