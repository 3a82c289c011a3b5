"""Measurement operators and noise models, with the method names of deepinv's physics: A, A_adjoint, A_dagger.

May import codecs, networks, diffusion and the root modules. To add an operator: a final dataclass in ``linear.py`` (or
``nonlinear.py``), named here, and in ``named.py`` where commands should know it.
"""

from __future__ import annotations

from .linear import (
    Blur,
    Grayscale,
    Mask,
    Separable,
    average_pool,
    bicubic,
)
from .masks import box_mask, half_mask, latent_mask, random_mask, strokes_mask
from .measurement import GaussianNoise, Measurement, NoiseModel, PoissonNoise
from .nonlinear import Clip, Jpeg, PhaseRetrieval
from .projections import Matrix, RandomFourier, gaussian_projections
from .protocol import (
    AbstractLinearOperator,
    LinearOperator,
    Operator,
    SpectralOperator,
    Spectrum,
    check_adjoint,
    check_linear,
    check_measurement,
    check_reachable,
    check_scale,
    doubt_scale,
)

__all__ = [
    "AbstractLinearOperator",
    "Blur",
    "Clip",
    "GaussianNoise",
    "Grayscale",
    "Jpeg",
    "LinearOperator",
    "Mask",
    "Matrix",
    "Measurement",
    "NoiseModel",
    "Operator",
    "PhaseRetrieval",
    "PoissonNoise",
    "RandomFourier",
    "Separable",
    "SpectralOperator",
    "Spectrum",
    "average_pool",
    "bicubic",
    "box_mask",
    "check_adjoint",
    "check_linear",
    "check_measurement",
    "check_reachable",
    "check_scale",
    "doubt_scale",
    "gaussian_projections",
    "half_mask",
    "latent_mask",
    "random_mask",
    "strokes_mask",
]
