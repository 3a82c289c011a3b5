"""Linear operators on images, each with its adjoint, its exact pseudoinverse and its singular values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import check_integer
from ..errors import InvalidArgumentError
from .projections import gains_of, pinv
from .protocol import AbstractLinearOperator, Spectrum, itself

__all__ = [
    "Blur",
    "Grayscale",
    "Mask",
    "Separable",
    "average_pool",
    "bicubic",
]

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
CUTOFF = 1e-3  # frequencies that a blur passes with less than this are taken as lost


@final
@dataclass(frozen=True, eq=False)
class Mask(AbstractLinearOperator):
    """Inpainting: keep x where ``mask`` is 1, put 0 where it is 0. It broadcasts against a sample."""

    mask: Float[Tensor, "..."]

    def __post_init__(self) -> None:
        if torch.compiler.is_exporting():
            return  # the mask is an input of the graph, without values yet
        if not bool(((self.mask == 0) | (self.mask == 1)).all()):
            raise InvalidArgumentError("a mask must hold 0 and 1 alone: 1 keeps a pixel, 0 hides it")
        if not bool(self.mask.any()):
            raise InvalidArgumentError("the mask hides every pixel: there is nothing to condition on")

    def A(self, x: Float[Tensor, "b *d"], /) -> Float[Tensor, "b *d"]:
        """m x."""
        return self.mask.to(x) * x

    def A_adjoint(self, y: Float[Tensor, "b *d"], /) -> Float[Tensor, "b *d"]:
        """m y."""
        return self.mask.to(y) * y

    def A_dagger(self, y: Float[Tensor, "b *d"], /) -> Float[Tensor, "b *d"]:
        """m y."""
        return self.mask.to(y) * y

    def spectrum(self, y: Float[Tensor, "1 *d"], /) -> Spectrum:
        """A Aᵀ y = m y: pixel by pixel."""
        return Spectrum(self.mask.to(y).expand(y.shape[1:]), itself, itself)


@final
@dataclass(frozen=True, eq=False)
class Separable(AbstractLinearOperator):
    """y = R x Cᵀ on the last two axes, channel by channel."""

    rows: Float[Tensor, "p h"]
    columns: Float[Tensor, "q w"]
    pseudo_rows: Float[Tensor, "h p"] = field(init=False)
    pseudo_columns: Float[Tensor, "w q"] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pseudo_rows", pinv(self.rows))
        object.__setattr__(self, "pseudo_columns", pinv(self.columns))

    def A(self, x: Float[Tensor, "b c h w"], /) -> Float[Tensor, "b c p q"]:
        """R x Cᵀ."""
        return self.rows.to(x) @ x @ self.columns.to(x).T

    def A_adjoint(self, y: Float[Tensor, "b c p q"], /) -> Float[Tensor, "b c h w"]:
        """Rᵀ y C."""
        return self.rows.to(y).T @ y @ self.columns.to(y)

    def A_dagger(self, y: Float[Tensor, "b c p q"], /) -> Float[Tensor, "b c h w"]:
        """R⁺ y C⁺ᵀ."""
        return self.pseudo_rows.to(y) @ y @ self.pseudo_columns.to(y).T

    def spectrum(self, y: Float[Tensor, "1 c p q"], /) -> Spectrum:
        """A Aᵀ y = R Rᵀ y C Cᵀ, by the eigenvectors of both."""
        (a, U), (b, V) = gains_of(self.rows, y), gains_of(self.columns, y)
        gains = (a[:, None] * b).expand(y.shape[1:])
        return Spectrum(gains, lambda y: U.T @ y @ V, lambda c: U @ c @ V.T)


def average_pool(shape: tuple[int, ...], factor: int) -> Separable:
    """Super-resolution by ``factor``: each pixel of y is the mean of factor × factor pixels of x [c, h, w]."""
    height, width = _divided(shape, factor)
    return Separable(*(torch.eye(n).repeat_interleave(factor, dim=1) / factor for n in (height, width)))


def bicubic(shape: tuple[int, ...], factor: int) -> Separable:
    """Super-resolution by ``factor`` after antialiased bicubic reduction (that of Pillow and PyTorch)."""
    height, width = _divided(shape, factor)
    return Separable(_bicubic_rows(height, factor), _bicubic_rows(width, factor))


def _bicubic_rows(n: int, factor: int) -> Float[Tensor, "n m"]:
    """The matrix of a one-dimensional reduction from n·factor to n pixels: the image of each unit vector."""
    size = (n * factor, n)
    unit = torch.eye(n * factor)[None, None]
    return torch.nn.functional.interpolate(unit, size=size, mode="bicubic", antialias=True)[0, 0].T.contiguous()


def _divided(shape: tuple[int, ...], factor: int) -> tuple[int, int]:
    factor = check_integer("factor", factor, 2)
    if len(shape) != 3 or shape[1] % factor or shape[2] % factor:
        raise InvalidArgumentError(f"images of shape {list(shape)} cannot be reduced {factor} times")
    return shape[1] // factor, shape[2] // factor


@final
@dataclass(frozen=True, eq=False)
class Blur(AbstractLinearOperator):
    """Circular convolution with ``kernel`` [h, w], of an odd size at most the image's, by FFT.

    Frequencies that the kernel passes with less than 1/1000 are set to zero in A itself, so that its
    pseudoinverse is exact and divides by nothing smaller.
    """

    kernel: Float[Tensor, "p q"]

    def __post_init__(self) -> None:
        if any(side % 2 == 0 for side in self.kernel.shape) or not bool(self.kernel.isfinite().all()):
            raise InvalidArgumentError(f"a blur needs a finite kernel of odd sides, got {list(self.kernel.shape)}")

    @classmethod
    def gaussian(cls, deviation: float, radius: int | None = None) -> Blur:
        """A Gaussian of ``deviation`` pixels, cut off at ``radius`` (three deviations)."""
        if not 0 < deviation < math.inf:
            raise InvalidArgumentError(f"the deviation of a blur must be positive, got {deviation}")
        reach = math.ceil(3 * deviation) if radius is None else check_integer("radius", radius, 1)
        line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / deviation) ** 2)
        kernel = line[:, None] * line
        return cls(kernel / kernel.sum())

    @classmethod
    def motion(cls, length: int, angle: float = 0.0) -> Blur:
        """A straight stroke of ``length`` pixels at ``angle`` degrees, anticlockwise from the horizontal."""
        reach = check_integer("length", length, 2) // 2 + 1
        steps = torch.linspace(-(length - 1) / 2, (length - 1) / 2, 8 * length)
        across, up = steps * math.cos(math.radians(angle)), steps * math.sin(math.radians(angle))
        centre = torch.arange(-reach, reach + 1, dtype=torch.float32)
        near_x = (1 - (centre - across[:, None]).abs()).clamp(min=0)
        near_y = (1 - (centre + up[:, None]).abs()).clamp(min=0)
        kernel = torch.einsum("np,nq->pq", near_y, near_x)
        return cls(kernel / kernel.sum())

    def A(self, x: Float[Tensor, "b c h w"], /) -> Float[Tensor, "b c h w"]:
        """k * x."""
        return self._filter(x, self._transfer(x))

    def A_adjoint(self, y: Float[Tensor, "b c h w"], /) -> Float[Tensor, "b c h w"]:
        """Correlation with k."""
        return self._filter(y, self._transfer(y).conj())

    def A_dagger(self, y: Float[Tensor, "b c h w"], /) -> Float[Tensor, "b c h w"]:
        """Division by the transfer function where it is not zero."""
        transfer = self._transfer(y)
        passed = transfer != 0
        return self._filter(y, torch.where(passed, 1 / torch.where(passed, transfer, 1), 0))

    def spectrum(self, y: Float[Tensor, "1 c h w"], /) -> Spectrum:
        """|k̂| in the basis of the Hartley transform: A Aᵀ has the even transfer function |k̂|²."""
        transfer = torch.fft.fft2(self._placed(y)).abs()
        gains = torch.where(transfer < CUTOFF, 0, transfer).expand(y.shape[1:])
        return Spectrum(gains, _hartley, _hartley)

    def _transfer(self, x: Tensor) -> Tensor:
        """The kernel's discrete Fourier transform on the grid of x, what hardly passes set to zero."""
        transfer = torch.fft.rfft2(self._placed(x))
        return torch.where(transfer.abs() < CUTOFF, 0, transfer)

    def _placed(self, x: Tensor) -> Float[Tensor, "h w"]:
        """The kernel on the grid of x, its centre at pixel (0, 0)."""
        (p, q), (h, w) = self.kernel.shape, x.shape[-2:]
        if p > h or q > w:
            raise InvalidArgumentError(f"the blur's kernel [{p}, {q}] is larger than the image [{h}, {w}]")
        return torch.nn.functional.pad(self.kernel.to(x), (0, w - q, 0, h - p)).roll((-(p // 2), -(q // 2)), (0, 1))

    @staticmethod
    def _filter(x: Tensor, transfer: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * transfer, s=x.shape[-2:])


@final
@dataclass(frozen=True)
class Grayscale(AbstractLinearOperator):
    """y = 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601)."""

    def A(self, x: Float[Tensor, "b 3 h w"], /) -> Float[Tensor, "b 1 h w"]:
        """wᵀ x."""
        return (self._weights(x) * x).sum(dim=1, keepdim=True)

    def A_adjoint(self, y: Float[Tensor, "b 1 h w"], /) -> Float[Tensor, "b 3 h w"]:
        """w y."""
        return self._weights(y) * y

    def A_dagger(self, y: Float[Tensor, "b 1 h w"], /) -> Float[Tensor, "b 3 h w"]:
        """w y / ‖w‖²."""
        weights = self._weights(y)
        return weights / weights.square().sum() * y

    def spectrum(self, y: Float[Tensor, "1 1 h w"], /) -> Spectrum:
        """‖w‖ at every pixel."""
        return Spectrum(self._weights(y).norm().expand(y.shape[1:]), itself, itself)

    @staticmethod
    def _weights(x: Tensor) -> Tensor:
        return x.new_tensor(LUMA)[:, None, None]


def _hartley(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Re - Im of the orthonormal Fourier transform: real, orthonormal and its own inverse."""
    f = torch.fft.fft2(x, norm="ortho")
    return f.real - f.imag
