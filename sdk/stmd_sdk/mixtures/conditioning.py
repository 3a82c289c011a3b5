"""A mixture given a linear Gaussian measurement: a mixture again, exactly."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InvalidArgumentError
from .law import GaussianMixture

__all__ = ["conditioned"]

LEAST_WEIGHT = 1e-300  # a mixture's weights are positive; this is no weight at all


def conditioned(
    mixture: GaussianMixture, matrix: Float[Tensor, "m d"], y: Float[Tensor, " m"], sigma: float
) -> tuple[GaussianMixture, float]:
    """p(x_0 | y) under y = M x_0 + N(0, sigma² I), and log p(y).

    The conjugate update of component N(m, C): gain K = C Mᵀ (M C Mᵀ + sigma² I)⁻¹, mean m + K (y - M m),
    covariance C - K M C, weight in proportion to w N(y; M m, M C Mᵀ + sigma² I).
    """
    if matrix.shape != (len(y), *mixture.shape) or not sigma > 0:
        raise InvalidArgumentError(
            f"need a matrix [m, {mixture.shape[0]}], y [m] and sigma > 0, "
            f"got {list(matrix.shape)}, {list(y.shape)} and {sigma}"
        )
    matrix, y = matrix.double(), y.double()
    noise = sigma**2 * torch.eye(len(matrix), dtype=torch.float64)
    total = matrix @ mixture.covariances @ matrix.T + noise
    gain = mixture.covariances @ matrix.T @ torch.linalg.inv(total)
    residual = y - mixture.means @ matrix.T
    means = mixture.means + torch.einsum("kdm,km->kd", gain, residual)
    covariances = mixture.covariances - gain @ matrix @ mixture.covariances
    law = torch.distributions.MultivariateNormal(torch.zeros_like(residual), total)
    log_joint = mixture.weights.log() + law.log_prob(residual)
    weights = log_joint.softmax(dim=0).clamp(min=LEAST_WEIGHT)
    given = GaussianMixture(weights, means, (covariances + covariances.mT) / 2, f"{mixture.name} given y")
    return given, float(log_joint.logsumexp(dim=0))
