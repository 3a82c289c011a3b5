"""What an operator is: the methods of deepinv's physics that this project calls, and their checks."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ..diffusion.noise import Noise
from ..errors import InferenceWarning, InvalidArgumentError

__all__ = [
    "AbstractLinearOperator",
    "AdjointOperator",
    "LinearOperator",
    "Operator",
    "SpectralOperator",
    "Spectrum",
    "check_adjoint",
    "check_linear",
    "check_measurement",
    "check_reachable",
    "check_scale",
    "doubt_scale",
    "itself",
]

POWER_STEPS = 20
LEAST_SEEN, MOST_NOISE, BLACK = 16, 0.1, 0.05
ADJOINT_TOLERANCE = 1e-4  # relative; float32 sums of an image lose some 1e-6


@runtime_checkable
class Operator(Protocol):
    """Anything with a method ``A`` that maps samples [b, *d] to clean measurements [b, *m], row by row."""

    def A(self, x: Any, /) -> Any:
        """The clean measurements of x."""
        ...


@runtime_checkable
class AdjointOperator(Operator, Protocol):
    """A linear operator with its adjoint."""

    def A_adjoint(self, y: Any, /) -> Any:
        """Aᵀ y."""
        ...


@runtime_checkable
class LinearOperator(AdjointOperator, Protocol):
    """A linear operator with its adjoint and pseudoinverse: deepinv's ``LinearPhysics`` is one as it is."""

    def A_dagger(self, y: Any, /) -> Any:
        """A⁺ y, the pseudoinverse."""
        ...


@final
@dataclass(frozen=True, eq=False)
class Spectrum:
    """A Aᵀ = U diag(gains²) Uᵀ, with U an orthonormal basis of the space of measurements.

    ``gains`` are the singular values of A, one a coordinate, zero where nothing is measured; ``coordinates`` is Uᵀ,
    ``measurement`` is U, both of batches [b, *m].
    """

    gains: Float[Tensor, "*m"]
    coordinates: Callable[[Tensor], Tensor]
    measurement: Callable[[Tensor], Tensor]


@runtime_checkable
class SpectralOperator(AdjointOperator, Protocol):
    """A linear operator whose singular values and left singular vectors are known."""

    def spectrum(self, y: Any, /) -> Spectrum:
        """The spectrum on measurements of the shape, type and device of ``y`` [1, *m]."""
        ...


class AbstractLinearOperator(ABC):
    """This project's own linear operators. All take batches, keep the device's type, and can be differentiated."""

    @abstractmethod
    def A(self, x: Float[Tensor, "b *d"], /) -> Float[Tensor, "b *m"]:
        """The clean measurements of x."""

    @abstractmethod
    def A_adjoint(self, y: Float[Tensor, "b *m"], /) -> Float[Tensor, "b *d"]:
        """Aᵀ y."""

    @abstractmethod
    def A_dagger(self, y: Float[Tensor, "b *m"], /) -> Float[Tensor, "b *d"]:
        """A⁺ y, with A A⁺ A = A."""

    @abstractmethod
    def spectrum(self, y: Float[Tensor, "1 *m"], /) -> Spectrum:
        """The spectrum on measurements like ``y``."""


def itself(y: Tensor) -> Tensor:
    """The basis of an operator that is diagonal as it is."""
    return y


def check_linear(operator: Any, shape: tuple[int, ...], device: torch.device) -> None:
    """Raise unless ``operator`` is linear on samples of ``shape``: ⟨A x, y⟩ = ⟨x, Aᵀ y⟩ and A A⁺ A = A.

    Foreign pseudoinverses are often iterative; one that is off by more than a hundredth is refused.
    """
    missing = [name for name in ("A", "A_adjoint", "A_dagger") if not callable(getattr(operator, name, None))]
    if missing:
        raise InvalidArgumentError(
            f"{type(operator).__name__} has no method {missing[0]}: this needs a linear operator with A, "
            "A_adjoint and A_dagger; for others use a log-likelihood (Measurement, chain, steer)"
        )
    check_adjoint(operator, shape, device)
    a_x = operator.A(Noise.of(0, 1, device=device).fold(0).normal(*shape))
    gap = float((operator.A(operator.A_dagger(a_x)) - a_x).norm() / (a_x.norm() + 1e-12))
    if not gap <= 1e-2:
        raise InvalidArgumentError(
            f"{type(operator).__name__}: A_dagger is no pseudoinverse of A: A A_dagger A differs from A by {gap:.2g}"
        )


def check_adjoint(operator: Any, shape: tuple[int, ...], device: torch.device) -> None:
    """Raise unless ⟨A x, y⟩ = ⟨x, Aᵀ y⟩ on samples of ``shape``: no operator that is not linear passes."""
    noise = Noise.of(0, 1, device=device)
    x = noise.fold(0).normal(*shape)
    a_x = operator.A(x)
    y = noise.fold(1).normal(*a_x.shape[1:])
    adjoint = operator.A_adjoint(y)
    if adjoint.shape != x.shape:
        raise InvalidArgumentError(f"A_adjoint gives shape {list(adjoint.shape)}, x has {list(x.shape)}")
    left, right = float((a_x * y).sum()), float((x * adjoint).sum())
    scale = float(a_x.norm() * y.norm()) + 1e-12
    if not abs(left - right) <= ADJOINT_TOLERANCE * scale:
        raise InvalidArgumentError(
            f"{type(operator).__name__}: A_adjoint is not the adjoint of A: <A x, y> = {left:.6g}, "
            f"<x, A_adjoint y> = {right:.6g}"
        )


def check_measurement(operator: Any, y: Any, shape: tuple[int, ...], device: torch.device) -> Float[Tensor, "1 *m"]:
    """One measurement as the float32 batch [1, *m] that ``operator`` makes of a sample of ``shape``.

    ``y`` may leave out the batch. Raises for another shape, and for values that are not finite.
    """
    if not callable(getattr(operator, "A", None)):
        raise InvalidArgumentError(f"{type(operator).__name__} has no method A: it is no measurement operator")
    if not isinstance(y, Tensor):
        raise InvalidArgumentError(f"y must be a torch.Tensor, got a {type(y).__name__}")
    try:
        clean = operator.A(torch.zeros(1, *shape, device=device))
    except RuntimeError as error:
        raise InvalidArgumentError(
            f"{type(operator).__name__} does not take samples of shape {list(shape)}: {error}"
        ) from error
    if y.shape == clean.shape[1:]:
        y = y[None]
    if y.shape != clean.shape:
        raise InvalidArgumentError(
            f"y must be one measurement of shape {list(clean.shape[1:])}, got {list(y.shape)}; "
            "condition on one measurement at a time"
        )
    if y.is_complex() or clean.is_complex():
        raise InvalidArgumentError("measurements must be real numbers: give real and imaginary parts as two of them")
    if not bool(y.isfinite().all()):
        raise InvalidArgumentError("y has values that are not finite")
    return y.to(device, torch.float32)


def check_reachable(operator: LinearOperator, y: Float[Tensor, "1 *m"], bound: float | None) -> None:
    """Raise unless some sample with values in [-bound, bound] has the noiseless measurement ``y``.

    Of all samples with measurement y, A⁺ y is the shortest; and y must lie in the range of A.
    """
    shortest = operator.A_dagger(y)
    gap = float((operator.A(shortest) - y).norm() / (y.norm() + 1e-12))
    if not gap <= 1e-2:
        raise InvalidArgumentError(
            f"no sample has this measurement: A A_dagger y differs from y by {gap:.2g}; if y is noisy, give sigma"
        )
    size = float(shortest.square().mean().sqrt())
    if bound is not None and size > bound * 1.001:
        raise InvalidArgumentError(
            f"y is out of range: samples lie in [{-bound:g}, {bound:g}], but the smallest with this measurement has "
            f"a root mean square of {size:.3g}; scale images to [-1, 1]"
        )


def check_scale(
    operator: LinearOperator, y: Float[Tensor, "1 *m"], shape: tuple[int, ...], bound: float, sigma: float
) -> None:
    """Raise where y = A x + N(0, sigma² I) is longer than that of any x of ``shape`` with values in [-bound, bound].

    ‖y‖ ≤ ‖A‖ ‖x‖ + ‖noise‖, where ‖x‖ ≤ bound √d and ‖noise‖ is at most sigma (√m + 6) but for one in 10⁸; ‖A‖ by the
    power method, with a tenth to spare.
    """
    x = Noise.of(0, 1, device=y.device).normal(*shape)
    for _ in range(POWER_STEPS):
        x = operator.A_adjoint(operator.A(x / x.norm().clamp(min=1e-30)))
    gain = 1.1 * float(x.norm().sqrt())
    longest = gain * bound * math.prod(shape) ** 0.5 + sigma * (y.numel() ** 0.5 + 6)
    if float(y.norm()) > longest:
        raise InvalidArgumentError(
            f"y is out of range: samples lie in [{-bound:g}, {bound:g}], whose measurements are at most {longest:.3g} "
            f"long with noise of {sigma:g}, and y is {float(y.norm()):.3g}; scale images to [-1, 1]"
        )


def doubt_scale(
    operator: Operator, y: Float[Tensor, "1 *m"], shape: tuple[int, ...], bound: float, sigma: float
) -> None:
    """Warn where ``y`` looks measured of images in [0, 1] and not in [-bound, bound]: the darkest value is at A 0.

    Nothing can know it: an image whose darkest pixel is mid-grey measures the same, and draws meet either measurement
    as well (their residuals do not tell). So it is a warning, of at least 16 values with little noise, that lie between
    A 0 and A 1, reach the brighter half and touch A 0 within a twentieth.
    """
    white = operator.A(torch.full((1, *shape), bound, device=y.device))
    seen = white > white.max() / 2
    if sigma > MOST_NOISE * bound or int(seen.sum()) < LEAST_SEEN:
        return
    levels, slack = y[seen] / white[seen], 4 * sigma / bound
    least, most = float(levels.min()), float(levels.max())
    if -slack <= least <= BLACK and 0.5 <= most <= 1 + slack:
        warnings.warn(
            f"y has no value below mid-grey and its darkest one is at it: samples lie in [{-bound:g}, {bound:g}]; if y "
            f"was measured of images in [0, 1], map those by 2 x - 1 first",
            InferenceWarning,
            stacklevel=4,
        )
