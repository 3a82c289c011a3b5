"""Measurements by a matrix or by random coefficients: compressed sensing, anything small."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import check_integer
from ..diffusion.noise import Noise
from ..errors import InvalidArgumentError
from .protocol import AbstractLinearOperator, Spectrum, itself

__all__ = ["Matrix", "RandomFourier", "gains_of", "gaussian_projections", "pinv"]


@final
@dataclass(frozen=True, eq=False)
class Matrix(AbstractLinearOperator):
    """y = M x with x of ``shape`` flattened: projections, Gaussian compressed sensing, anything small."""

    matrix: Float[Tensor, "m d"]
    shape: tuple[int, ...]
    pseudo: Float[Tensor, "d m"] = field(init=False)

    def __post_init__(self) -> None:
        if self.matrix.shape[1] != math.prod(self.shape):
            raise InvalidArgumentError(
                f"a matrix {list(self.matrix.shape)} does not apply to samples of shape {list(self.shape)}"
            )
        object.__setattr__(self, "pseudo", pinv(self.matrix))

    def A(self, x: Float[Tensor, "b *d"], /) -> Float[Tensor, "b m"]:
        """M x."""
        return x.flatten(1) @ self.matrix.to(x).T

    def A_adjoint(self, y: Float[Tensor, "b m"], /) -> Float[Tensor, "b *d"]:
        """Mᵀ y."""
        return (y @ self.matrix.to(y)).reshape(-1, *self.shape)

    def A_dagger(self, y: Float[Tensor, "b m"], /) -> Float[Tensor, "b *d"]:
        """M⁺ y."""
        return (y @ self.pseudo.to(y).T).reshape(-1, *self.shape)

    def spectrum(self, y: Float[Tensor, "1 m"], /) -> Spectrum:
        """The eigenvectors of M Mᵀ."""
        gains, U = gains_of(self.matrix, y)
        return Spectrum(gains, lambda y: y @ U, lambda c: c @ U.T)


def gaussian_projections(shape: tuple[int, ...], count: int, seed: int) -> Matrix:
    """Compressed sensing: ``count`` random Gaussian rows, each of norm 1."""
    d = math.prod(shape)
    rows = Noise.of(seed, check_integer("count", count, 1, d)).normal(d)
    return Matrix(torch.nn.functional.normalize(rows, dim=1), shape)


@final
@dataclass(frozen=True)
class RandomFourier(AbstractLinearOperator):
    """Compressed sensing: ``count`` random coefficients of the orthonormal Hartley transform of ± x.

    The Hartley transform, Re - Im of the Fourier transform, is real, symmetric and its own inverse; random
    signs before it spread every coefficient over the image. A Aᵀ = I, so that A⁺ = Aᵀ.
    """

    shape: tuple[int, ...]
    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        check_integer("count", self.count, 1, math.prod(self.shape))

    def A(self, x: Float[Tensor, "b *d"], /) -> Float[Tensor, "b m"]:
        """S H D x."""
        signs, kept = self._pattern(x.device)
        return _hartley(x.flatten(1) * signs)[:, kept]

    def A_adjoint(self, y: Float[Tensor, "b m"], /) -> Float[Tensor, "b *d"]:
        """D H Sᵀ y."""
        signs, kept = self._pattern(y.device)
        placed = y.new_zeros(len(y), len(signs)).index_copy(1, kept, y)
        return (_hartley(placed) * signs).reshape(-1, *self.shape)

    def A_dagger(self, y: Float[Tensor, "b m"], /) -> Float[Tensor, "b *d"]:
        """Aᵀ y."""
        return self.A_adjoint(y)

    def spectrum(self, y: Float[Tensor, "1 m"], /) -> Spectrum:
        """1 for every coefficient."""
        return Spectrum(torch.ones_like(y[0]), itself, itself)

    def _pattern(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The signs of all pixels and the coefficients that are kept."""
        noise, d = Noise.of(self.seed, 1, device=device), math.prod(self.shape)
        signs = noise.fold(0).normal(d)[0].sign()
        return signs, noise.fold(1).uniform(d)[0].argsort()[: self.count]


def _hartley(x: Tensor) -> Tensor:
    f = torch.fft.fft(x, norm="ortho")
    return f.real - f.imag


def pinv(matrix: Float[Tensor, "m d"]) -> Float[Tensor, "d m"]:
    """M⁺, by float64."""
    return torch.linalg.pinv(matrix.double()).float()


def gains_of(matrix: Float[Tensor, "m d"], like: Tensor) -> tuple[Float[Tensor, " m"], Float[Tensor, "m m"]]:
    """The singular values s of M and the matrix U of M Mᵀ = U diag(s²) Uᵀ, by float64, of the type of ``like``."""
    wide = matrix.double()
    squares, U = torch.linalg.eigh(wide @ wide.T)
    return squares.clamp(min=0).sqrt().to(like), U.to(like)
