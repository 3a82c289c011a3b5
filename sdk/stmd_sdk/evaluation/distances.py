"""Distances between two samples: energy distance, sliced W2, maximum mean discrepancy, Fréchet distance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.noise import Noise
from ..errors import InvalidArgumentError

__all__ = [
    "centred",
    "distance_blocks",
    "energy_distance",
    "frechet_distance",
    "mmd",
    "sliced_w2",
    "two_sample_p_value",
]

BLOCK = 512  # rows a side: a block of float32 distances stays in the cache
BANDWIDTH_POINTS = 2000
SLICES = 64  # projections at once


def energy_distance(x: Float[Tensor, "n *d"], y: Float[Tensor, "m *d"], *, unbiased: bool = True) -> float:
    """2 E‖X - Y‖ - E‖X - X'‖ - E‖Y - Y'‖ (Székely and Rizzo, 2013): zero only for equal distributions.

    ``unbiased`` leaves the zero distance of a point to itself out of the means (a U-statistic, which can fall
    below zero); without it the estimate is the distance of the empirical distributions (a V-statistic), whose
    square root is SciPy's ``energy_distance`` in one dimension.
    """
    x, y = centred(x, y)
    n, m = len(x), len(y)
    off = 1 if unbiased else 0
    if min(n, m) <= off:
        raise InvalidArgumentError(f"an unbiased energy distance needs at least 2 points a side, got {n} and {m}")
    within = _own_sum(x, _itself) / (n * (n - off)) + _own_sum(y, _itself) / (m * (m - off))
    return 2 * _pair_sum(x, y, _itself) / (n * m) - within


def distance_blocks(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Iterator[tuple[slice, Float[Tensor, "b m"]]]:
    """Distances of some rows of x to all of y, block by block: (rows, ‖x_i - y_j‖)."""
    rows = max(1, BLOCK * BLOCK // len(y))
    for start in range(0, len(x), rows):
        yield slice(start, start + rows), torch.cdist(x[start : start + rows], y)


def two_sample_p_value(x: Float[Tensor, "n *d"], y: Float[Tensor, "m *d"], noise: Noise) -> float:
    """The p-value of equal distributions: the energy distance, permuted once for each key of ``noise``."""
    pooled = torch.cat([x, y]).flatten(1)
    pooled = pooled - pooled.mean(dim=0)
    # 2 E‖X-Y‖ - E‖X-X'‖ - E‖Y-Y'‖ = -wᵀ D w with w = 1/n on one side and -1/m on the other.
    observed = torch.cat([torch.full((len(x),), 1 / len(x)), torch.full((len(y),), -1 / len(y))])
    weights = torch.cat([observed[None], observed[noise.uniform(len(pooled)).argsort(dim=1)]])
    statistic = torch.zeros(len(weights), dtype=torch.float64)
    for some, of in zip(pooled.split(BLOCK), weights.split(BLOCK, dim=1), strict=True):
        statistic -= (of @ torch.cdist(some, pooled) * weights).sum(dim=1, dtype=torch.float64)
    return float((statistic[1:] >= statistic[0]).double().sum() + 1) / len(weights)


def _pair_sum(x: Tensor, y: Tensor, kernel: Callable[[Tensor], Tensor]) -> float:
    """Σ_ij kernel(‖x_i - y_j‖) by square blocks, summed in float64."""
    blocks = (kernel(torch.cdist(a, b)).sum() for a in x.split(BLOCK) for b in y.split(BLOCK))
    return sum(float(block) for block in blocks)


def _own_sum(x: Tensor, kernel: Callable[[Tensor], Tensor]) -> float:
    """Σ_ij over i != j: each pair of blocks computed once."""
    total = 0.0
    for start in range(0, len(x), BLOCK):
        own = x[start : start + BLOCK]
        total += float(kernel(torch.cdist(own, own)).fill_diagonal_(0).sum())
        total += 2 * _pair_sum(own, x[start + BLOCK :], kernel)
    return total


def sliced_w2(x: Float[Tensor, "n *d"], y: Float[Tensor, "n *d"], noise: Noise) -> float:
    """√ E_θ W2²(θᵀX, θᵀY) over one random direction θ for each key of ``noise`` (Bonneel et al., 2015).

    W2 of equally many points on a line is the root mean square difference of the sorted points.
    """
    x, y = centred(x, y)
    if len(x) != len(y):
        raise InvalidArgumentError(f"sliced W2 compares equally many points, got {len(x)} and {len(y)}")
    directions = torch.nn.functional.normalize(noise.normal(x.shape[1]), dim=1)
    total = 0.0
    for theta in directions.split(SLICES):
        gap = (x @ theta.T).sort(dim=0).values - (y @ theta.T).sort(dim=0).values
        total += float(gap.double().square().mean(dim=0).sum())
    return math.sqrt(total / len(directions))


def mmd(x: Float[Tensor, "n *d"], y: Float[Tensor, "m *d"], *, bandwidth: float | None = None) -> float:
    """Unbiased MMD² with the kernel exp(-‖x - y‖² / (2 h²)) (Gretton et al., 2012); can fall below zero.

    ``bandwidth`` h defaults to the median distance among the first 1000 points of each side.
    """
    x, y = centred(x, y)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise InvalidArgumentError(f"an unbiased MMD needs at least 2 points a side, got {n} and {m}")
    if bandwidth is None:
        bandwidth = float(torch.pdist(torch.cat([x[: BANDWIDTH_POINTS // 2], y[: BANDWIDTH_POINTS // 2]])).median())
    if not bandwidth > 0:
        raise InvalidArgumentError(f"bandwidth must be positive, got {bandwidth}; are all points equal?")

    def kernel(distance: Tensor) -> Tensor:
        return distance.square_().mul_(-0.5 / bandwidth**2).exp_()

    within = _own_sum(x, kernel) / (n * (n - 1)) + _own_sum(y, kernel) / (m * (m - 1))
    return within - 2 * _pair_sum(x, y, kernel) / (n * m)


def frechet_distance(
    x: Float[Tensor, "n *d"], y: Float[Tensor, "m *d"], features: Callable[[Tensor], Tensor] | None = None
) -> float:
    """‖μ_x - μ_y‖² + tr(C_x + C_y - 2 (C_x C_y)^½) of Gaussians fitted to features (Heusel et al., 2017).

    ``features`` maps samples to vectors [b, f], a classifier's penultimate layer, say; None takes the samples
    themselves. Each side needs more samples than features, or its covariance would be degenerate.
    """
    centred(x, y)
    first, second = _features(x, features), _features(y, features)
    for side in (first, second):
        if len(side) <= side.shape[1]:
            raise InvalidArgumentError(
                f"{len(side)} samples make a degenerate covariance of {side.shape[1]} features: "
                f"a Fréchet distance needs at least {side.shape[1] + 1} samples a side"
            )
    c_x, c_y = (
        torch.cov(first.T).reshape(first.shape[1], -1),
        torch.cov(second.T).reshape(second.shape[1], -1),
    )
    eigenvalues, axes = torch.linalg.eigh(c_x)
    root = axes * eigenvalues.clamp(min=0).sqrt() @ axes.T
    # (C_x C_y)^½ has the eigenvalues of (C_x^½ C_y C_x^½)^½, which is symmetric.
    cross = torch.linalg.eigvalsh(root @ c_y @ root).clamp(min=0).sqrt().sum()
    gap = (first.mean(dim=0) - second.mean(dim=0)).square().sum()
    return float(gap + c_x.trace() + c_y.trace() - 2 * cross)


def _itself(distance: Tensor) -> Tensor:
    return distance


def _features(x: Tensor, features: Callable[[Tensor], Tensor] | None) -> Tensor:
    if features is None:
        return x.flatten(1).double()
    with torch.no_grad():
        found = torch.cat([features(chunk) for chunk in x.split(BLOCK)])
    if found.ndim != 2 or not bool(found.isfinite().all()):
        raise InvalidArgumentError(f"features must be finite vectors [b, f], got shape {list(found.shape)}")
    return found.double()


def centred(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both samples as rows of numbers about their common centre, checked."""
    if x.shape[1:] != y.shape[1:] or x.ndim < 2 or len(x) == 0 or len(y) == 0:
        raise InvalidArgumentError(f"two samples of one shape are needed, got {list(x.shape)} and {list(y.shape)}")
    for side in (x, y):
        if not side.is_floating_point():
            raise InvalidArgumentError(f"samples must be floating-point tensors, got {side.dtype}")
        if not bool(side.isfinite().all()):
            raise InvalidArgumentError("a sample has values that are NaN or infinite")
    x, y = x.flatten(1), y.flatten(1)
    # Distances do not change, and float32 loses less when it squares small numbers.
    centre = (x.mean(dim=0) + y.mean(dim=0)) / 2
    return x - centre, y - centre
