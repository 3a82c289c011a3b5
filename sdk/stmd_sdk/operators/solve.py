"""A noisy copy of x that has seen the measurement: one half of split Gibbs sampling, in closed form.

For y = A x + N(0, σ² I) and a coupling ρ let C_ρ = max(σ², ρ² s²) along each left singular vector of A, of gain s.
Given x, draw z from N(z; x, ρ² I) N(y; A z, C_ρ - ρ² A Aᵀ), which Matheron's rule does exactly:

    z = w + ρ² Aᵀ C_ρ⁻¹ (y - A w - n'),   w = x + ρ e,   n' ~ N(0, C_ρ - ρ² A Aᵀ).

With z integrated out the likelihood of x is N(y; A x, C_ρ). So the move, and a draw x ~ p(x | z) after it, leave
p(x) N(y; A x, C_ρ) invariant: at ρ <= σ / s_max the exact posterior. (With σ² I in the place of C_ρ - ρ² A Aᵀ, as in
PnP-DM of Wu et al., 2024, it would be that of the inflated noise σ² I + ρ² A Aᵀ.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.noise import Noise
from ..errors import InvalidArgumentError
from .protocol import AdjointOperator, SpectralOperator, Spectrum

__all__ = ["Deflation", "NormDeflation", "SpectralDeflation", "deflation_of", "noisy_copy", "turned_copy"]

CUTOFF = 1e-6  # singular values below this share of the largest measure nothing
MARGIN = 1.1  # of ρ² ‖A‖², for a norm found by power iteration, which is never too large
POWERS, TERMS = 100, 40  # iterations for the norm; Chebyshev polynomials, which leave 1e-8 at that margin


@runtime_checkable  # for the checks of annotations in the tests
class Deflation(Protocol):
    """The noise C_ρ of a measurement, of which a copy of deviation ρ makes the part ρ² A Aᵀ."""

    @property
    def sigma(self) -> float:
        """σ."""
        ...

    @property
    def largest(self) -> float:
        """s_max: at ρ <= σ / s_max the noise is σ² I."""
        ...

    def correction(self, r: Float[Tensor, "b *m"], n: Float[Tensor, "b *m"], rho: float) -> Float[Tensor, "b *m"]:
        """C_ρ⁻¹ (r - n') with n' = (C_ρ - ρ² A Aᵀ)^½ n of standard normal n."""
        ...

    def log_density(self, r: Float[Tensor, "b *m"], rho: float) -> Float[Tensor, " b"]:
        """log N(r; 0, C_ρ)."""
        ...


@final
@dataclass(frozen=True, eq=False)
class SpectralDeflation:
    """C_ρ = max(σ², ρ² s²) in the operator's own singular basis; ``largest`` is s_max."""

    spectrum: Spectrum
    largest: float
    sigma: float

    def correction(self, r: Float[Tensor, "b *m"], n: Float[Tensor, "b *m"], rho: float) -> Float[Tensor, "b *m"]:
        """Coordinate by coordinate; what is not measured, and which Aᵀ would drop, is 0."""
        squares = self._copied(rho)
        variances = squares.clamp(min=self.sigma**2)
        away = self.spectrum.coordinates(r) - (variances - squares).sqrt() * n
        seen = self.spectrum.gains > CUTOFF * self.spectrum.gains.max()
        return self.spectrum.measurement(torch.where(seen, away / variances, 0))

    def log_density(self, r: Float[Tensor, "b *m"], rho: float) -> Float[Tensor, " b"]:
        """Coordinate by coordinate."""
        variances = self._copied(rho).clamp(min=self.sigma**2)
        squares = self.spectrum.coordinates(r).square() / variances
        return -0.5 * (squares + (2 * math.pi * variances).log()).flatten(1).sum(dim=1)

    def _copied(self, rho: float) -> Float[Tensor, "*m"]:
        """ρ² s²."""
        return (rho * self.spectrum.gains).square()


@final
@dataclass(frozen=True, eq=False)
class NormDeflation:
    """C_ρ = max(σ², 1.1 ρ² ‖A‖²) I, for an operator of which nothing but A and Aᵀ is known.

    Larger than need be along small gains until ρ <= σ / largest, where it is σ² I as well; so ``largest`` is √1.1 ‖A‖.
    The square root is a Chebyshev series in A Aᵀ, which costs 40 applications of A Aᵀ.
    """

    operator: AdjointOperator
    largest: float
    sigma: float

    def correction(self, r: Float[Tensor, "b *m"], n: Float[Tensor, "b *m"], rho: float) -> Float[Tensor, "b *m"]:
        """(r - n') / C_ρ."""
        return (r - self._root(n, rho)) / self._variance(rho)

    def log_density(self, r: Float[Tensor, "b *m"], rho: float) -> Float[Tensor, " b"]:
        """Of independent coordinates."""
        variance = self._variance(rho)
        return -0.5 * (r.square() / variance + math.log(2 * math.pi * variance)).flatten(1).sum(dim=1)

    def _variance(self, rho: float) -> float:
        return max(self.sigma**2, (rho * self.largest) ** 2)

    def _root(self, n: Tensor, rho: float) -> Tensor:
        """(C_ρ - ρ² A Aᵀ)^½ n = Σ_j c_j T_j(B) n, with the spectrum of B = 2 A Aᵀ / top - I in [-1, 1].

        Half of the margin is for a norm that was found too small, half keeps the root's zero out of [0, top].
        """
        top, variance = self.largest**2 / math.sqrt(MARGIN), self._variance(rho)

        def B(v: Tensor) -> Tensor:
            return (2 / top) * self.operator.A(self.operator.A_adjoint(v)) - v

        angles = math.pi * (torch.arange(TERMS, dtype=torch.float64) + 0.5) / TERMS
        values = (variance - rho**2 * top * (1 + angles.cos()) / 2).sqrt()
        c = [float(2 / TERMS * (values * (j * angles).cos()).sum()) for j in range(TERMS)]
        before, now = n, B(n)
        total = 0.5 * c[0] * n + c[1] * now
        for j in range(2, TERMS):
            before, now = now, 2 * B(now) - before
            total = total + c[j] * now
        return total


def deflation_of(operator: AdjointOperator, y: Float[Tensor, "1 *m"], sigma: float) -> Deflation:
    """That of the operator's spectrum where it has one, else of its norm; an operator of zero is refused."""
    if isinstance(operator, SpectralOperator):
        spectrum = operator.spectrum(y)
        found = SpectralDeflation(spectrum, float(spectrum.gains.max()), sigma)
    else:
        found = NormDeflation(operator, math.sqrt(MARGIN) * _norm(operator, y), sigma)
    if not 0 < found.largest < math.inf:
        raise InvalidArgumentError(f"{type(operator).__name__} is an operator of zero: it measures nothing")
    return found


def _norm(operator: AdjointOperator, y: Float[Tensor, "1 *m"]) -> float:
    """‖A‖ by power iteration on A Aᵀ."""
    v, size = Noise.of(0, 1, device=y.device).normal(*y.shape[1:]).to(y), torch.zeros(())
    for _ in range(POWERS):
        v = operator.A(operator.A_adjoint(v / v.norm().clamp(min=1e-30)))
        size = v.norm()
    return math.sqrt(float(size))


def noisy_copy(
    operator: AdjointOperator,
    deflation: Deflation,
    y: Float[Tensor, "1 *m"],
    x: Float[Tensor, "b *d"],
    rho: float,
    e: Float[Tensor, "b *d"],
    n: Float[Tensor, "b *m"],
) -> Float[Tensor, "b *d"]:
    """z of x by the module's formula, with standard normal ``e`` and ``n``."""
    w = x + rho * e
    return w + rho**2 * operator.A_adjoint(deflation.correction(y - operator.A(w), n, rho))


def turned_copy(
    operator: AdjointOperator,
    deflation: Deflation,
    y: Float[Tensor, "1 *m"],
    x: Float[Tensor, "b *d"],
    z: Float[Tensor, "b *d"],
    before: float,
    rho: float,
    e: Float[Tensor, "b *d"],
    n: Float[Tensor, "b *m"],
    other: Float[Tensor, "b *m"],
) -> Float[Tensor, "b *d"]:
    """A copy of x at ρ with the noise e of the earlier copy z, drawn at the coupling ``before``, turned round.

    Given x, y and z the e of z is Gaussian: by Matheron's rule that of a fresh copy plus (z - fresh) / ρ. Of the joint
    law of x, e and n' it is independent, whatever ρ, and so -e is as good as e: with n' drawn anew (of ``other``) the
    law of the copy given x is that of an independent one. But x has moved away from z, and z' goes on the same way:
    where nothing is measured z' = x + ρ' / ρ (x - z). (Adler's over-relaxation, 1981, with the factor -1.)
    """
    earlier = e + (z - noisy_copy(operator, deflation, y, x, before, e, n)) / before
    return noisy_copy(operator, deflation, y, x, rho, -earlier, other)
