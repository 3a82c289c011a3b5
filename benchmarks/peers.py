"""Peers for linear inverse problems, from any denoiser D(x, σ) = E[x_0 | x_0 + σ n = x]: DDRM, DiffPIR, DAPS, PnP-DM.

Written after the papers, in the variance-exploding convention and the operator's singular basis, which for small images
is an ordinary decomposition. Levels σ fall geometrically; the settings are the papers' own where not said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.operators import LinearOperator

__all__ = ["Denoise", "Problem", "basis_of", "daps", "ddrm", "diffpir", "falling", "pnp_dm"]

CUTOFF = 1e-5  # of the largest gain: what is below it measures nothing


class Denoise(Protocol):
    """E[x_0 | x_0 + σ n = x] for flat x."""

    def __call__(self, x: Float[Tensor, "b d"], sigma: float, /) -> Float[Tensor, "b d"]:
        """The mean of x_0."""
        ...


@dataclass(frozen=True)
class Problem:
    """y = A x + N(0, sigma² I) along right singular vectors V [d, d]: gains s [d], ȳ = y / s where s > 0, else 0."""

    V: Tensor
    gains: Tensor
    y: Tensor
    sigma: float

    @classmethod
    def of(cls, basis: tuple[Tensor, Tensor, Tensor], y: Tensor, sigma: float) -> Problem:
        """``basis`` is that of the operator, by :func:`basis_of`; ``y`` is [1, *m]."""
        U, s, W = basis
        seen = int((s > CUTOFF * s[0]).sum())
        gains, found = torch.zeros(len(W)), torch.zeros(len(W))
        gains[:seen] = s[:seen].float()
        found[:seen] = ((U.T @ y.flatten().double())[:seen] / s[:seen]).float()
        return cls(W.T.float(), gains, found, sigma)

    @property
    def noise(self) -> Tensor:
        """The deviation of ȳ, σ / s; infinite where nothing is measured."""
        return torch.where(self.gains > 0, self.sigma / self.gains, torch.inf)

    def given(self, mean: Tensor, deviation: float, epsilon: Tensor | None) -> Tensor:
        """N(mean, deviation² I) times the likelihood, in V's coordinates: a draw, or its mean without ``epsilon``."""
        weight = 1 / (1 + (self.noise / deviation).square())  # of ȳ
        middle = mean + weight * (self.y - mean)
        return middle if epsilon is None else middle + deviation * (1 - weight).sqrt() * epsilon


def basis_of(operator: LinearOperator, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """U, s, Wᵀ of the operator as a matrix, float64."""
    d = math.prod(shape)
    return torch.linalg.svd(operator.A(torch.eye(d).reshape(d, *shape)).flatten(1).T.double(), full_matrices=True)


def falling(first: float, last: float, steps: int) -> list[float]:
    """``steps`` levels, and 0."""
    return [first * (last / first) ** (k / (steps - 1)) for k in range(steps)] + [0.0]


def ddrm(denoise: Denoise, problem: Problem, levels: Sequence[float], noise: Noise, eta: float = 0.85) -> Tensor:
    """DDRM (Kawar et al., 2022), η_b = 1."""
    V, s_y = problem.V, problem.noise
    epsilon = noise.fold(0).normal(len(V))
    seen = s_y <= levels[0]
    start = torch.where(seen, levels[0] ** 2 - s_y.square(), levels[0] ** 2).clamp(min=0).sqrt()
    x = torch.where(seen, problem.y, 0) + start * epsilon
    for k, (sigma, after) in enumerate(pairwise(levels), start=1):
        x_0, epsilon = denoise(x @ V.T, sigma) @ V, noise.fold(k).normal(len(V))
        kept = math.sqrt(1 - eta**2) * after
        blind = x_0 + kept * (x - x_0) / sigma + eta * after * epsilon
        noisy = x_0 + kept * (problem.y - x_0) / s_y.clamp(max=1e9) + eta * after * epsilon
        clear = problem.y + (after**2 - s_y.clamp(max=1e9).square()).clamp(min=0).sqrt() * epsilon
        x = torch.where(problem.gains == 0, blind, torch.where(after < s_y, noisy, clear))
    return x @ V.T


def diffpir(
    denoise: Denoise, problem: Problem, levels: Sequence[float], noise: Noise, lam: float = 8.0, zeta: float = 0.3
) -> Tensor:
    """DiffPIR (Zhu et al., 2023): the mean denoised, moved to y by the proximal step, noised again."""
    V = problem.V
    x = levels[0] * noise.fold(0).normal(len(V))
    for k, (sigma, after) in enumerate(pairwise(levels), start=1):
        x_0 = problem.given(denoise(x @ V.T, sigma) @ V, sigma / math.sqrt(lam), None)
        kept = (x - x_0) / sigma
        x = x_0 + after * (math.sqrt(1 - zeta) * kept + math.sqrt(zeta) * noise.fold(k).normal(len(V)))
    return x @ V.T


def daps(denoise: Denoise, problem: Problem, levels: Sequence[float], noise: Noise, inner: int = 5) -> Tensor:
    """DAPS (Zhang et al., 2024): ``inner`` evaluations of the ODE to x̂_0, a draw of N(x̂_0, σ² I) given y, noised.

    Its Langevin steps have the Gaussian as their limit, which is drawn here as it is.
    """
    V = problem.V
    x = levels[0] * noise.fold(0).normal(len(V))
    for k, (sigma, after) in enumerate(pairwise(levels), start=1):
        x_hat = x
        for now, then in pairwise(falling(sigma, min(sigma, 0.01) if sigma <= 0.01 else 0.01, inner)):
            x_0 = denoise(x_hat @ V.T, now) @ V
            x_hat = x_0 + then / now * (x_hat - x_0)
        x_0 = problem.given(x_hat, sigma, noise.fold(2 * k - 1).normal(len(V)))
        x = x_0 + after * noise.fold(2 * k).normal(len(V))
    return x @ V.T


def pnp_dm(denoise: Denoise, problem: Problem, levels: Sequence[float], noise: Noise, inner: int = 10) -> Tensor:
    """PnP-DM (Wu et al., 2024): z given x and y with the noise σ² I at every coupling, x given z by a reverse SDE.

    Levels are the couplings, ``inner`` evaluations each. It ends at the noise σ² I + ρ² A Aᵀ.
    """
    V = problem.V
    x = torch.zeros(len(noise), len(V))
    for k, rho in enumerate(levels[:-1]):
        key = noise.fold(k)
        x = problem.given(x, rho, key.fold(0).normal(len(V)))
        for j, (now, then) in enumerate(pairwise(falling(rho, rho / 30, inner)), start=1):
            x_0, share = denoise(x @ V.T, now) @ V, (then / now) ** 2
            x = x_0 + share * (x - x_0) + then * math.sqrt(1 - share) * key.fold(j).normal(len(V))
    return x @ V.T
