"""Rules for the conditional flow: from z_1 = ε to y, in M evaluations of a velocity."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .velocity import Velocity

__all__ = ["Integrator", "average_steps", "multistep"]

GRADING = 1.5
"""How far the multistep rule's angles are drawn towards the data: the most even over the mixtures and times tried."""


@runtime_checkable  # for the checks of annotations in the tests
class Integrator(Protocol):
    """y of z_1 in ``steps`` evaluations of the velocity, one t a sample."""

    def __call__(
        self, velocity: Velocity, z: Float[Tensor, "b *d"], x_t: Float[Tensor, "b *d"], t: Float[Tensor, " b"],
        steps: int, /,
    ) -> Float[Tensor, "b *d"]:  # fmt: skip
        """The end of the flow."""
        ...


def average_steps(velocity: Velocity, z: Tensor, x_t: Tensor, t: Tensor, steps: int, /) -> Tensor:
    """z_r = z_τ - (τ - r) u(z_τ, r, τ) from τ = 1 to 0 on a uniform grid: exact for an average velocity.

    For one that is the velocity at τ whatever r is, as that of a denoiser, it is Euler's method.
    """
    grid = torch.linspace(1, 0, steps + 1, dtype=z.dtype, device=z.device)
    rows = z.shape[0]  # len() would freeze the batch of an exported graph
    for tau, r in pairwise(grid):
        z = z - (tau - r) * velocity(z, r.expand(rows), tau.expand(rows), x_t, t)
    return z


def multistep(velocity: Velocity, z: Tensor, x_t: Tensor, t: Tensor, steps: int, /) -> Tensor:
    """An exponential rule of one evaluation a step, for a velocity at τ: a third-order Adams pair in the angle ψ.

    With τ = cos ψ / (cos ψ + sin ψ) the state w = (cos ψ + sin ψ) z_τ = sin ψ y + cos ψ ε turns from ε to y as ψ goes
    from 0 to π/2, and E = E[y | z_τ, x_t] = z_τ - τ u alone moves it:

        w(b) = (cos b / cos a) w(a) + cos b ∫_a^b E dψ / cos² ψ.

    If y given x_t is N(m, I), as residuals of about unit variance nearly are, E = m + ε sin ψ: so E is taken for a
    polynomial in sin ψ, whose integrals are known. It goes through the last two evaluations (the first step, which has
    but one, takes the slope ε), and each new one corrects the step that led there, by the polynomial through three.
    Without a prior and in log-SNR that is DPM-Solver++ (Lu et al., 2022) with UniPC's corrector (Zhao et al., 2023).
    The angles are π/2 (1 - (1 - k/M)^1.5). M = 1 draws the Gaussian N(E[y | x_t], I).
    """
    angles, first, predict, correct = _coefficients(steps)
    rows, epsilon, start = z.shape[0], z, z
    seen: list[Tensor] = []
    w = z
    for k, psi in enumerate(angles[:-1]):
        total, tau = math.cos(psi) + math.sin(psi), 1 / (1 + math.tan(psi))
        at = z.new_full((rows,), tau)
        z = w / total
        seen = [*seen[-2:], z - tau * velocity(z, at, at, x_t, t)]
        if k > 0:
            w = _moved(start, seen, math.cos(psi) / math.cos(angles[k - 1]), correct[k - 1])
        start = w
        decay = 0.0 if k + 1 == steps else math.cos(angles[k + 1]) / math.cos(psi)
        w = _moved(start, [seen[-1], epsilon] if k == 0 else seen[-2:], decay, first if k == 0 else predict[k - 1])
    return w


def _moved(w: Tensor, seen: list[Tensor], decay: float, weights: tuple[float, ...]) -> Tensor:
    """decay w + Σ weights seen."""
    moved = decay * w
    for weight, one in zip(weights, seen, strict=True):
        moved = moved + weight * one
    return moved


Weights = tuple[float, ...]


@lru_cache(64)
def _coefficients(steps: int) -> tuple[Weights, Weights, tuple[Weights, ...], tuple[Weights, ...]]:
    """The angles; the weights of the first step, on E and ε; of each later prediction; and of each correction."""
    angles = tuple(math.pi / 2 * (1 - (1 - k / steps) ** GRADING) for k in range(steps + 1))
    moments = [_moments(a, b) for a, b in pairwise(angles)]
    sines = [math.sin(psi) for psi in angles]
    predict = tuple(_weights(sines[k - 1 : k + 1], moments[k]) for k in range(1, steps))
    correct = tuple(_weights(sines[max(0, k - 2) : k + 1], moments[k - 1]) for k in range(1, steps))
    return angles, (float(moments[0][0]), float(moments[0][1])), predict, correct


def _moments(a: float, b: float) -> tuple[float, float, float]:
    """cos b ∫_a^b sin^j ψ / cos² ψ dψ for j = 0, 1, 2, which are finite at b = π/2 too."""
    cos_b = 0.0 if b == math.pi / 2 else math.cos(b)
    zeroth = math.sin(b) - cos_b * math.tan(a)
    return zeroth, 1 - cos_b / math.cos(a), zeroth - cos_b * (b - a)


def _weights(nodes: list[float], moments: tuple[float, float, float]) -> Weights:
    """The weights of values at ``nodes`` in the integral of the polynomial through them."""
    powers = np.vander(nodes, increasing=True).T
    return tuple(np.linalg.solve(powers, moments[: len(nodes)]).tolist())
