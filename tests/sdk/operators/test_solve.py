"""The noisy copy leaves a Gaussian's posterior as it is, for any spectrum; an unknown spectrum needs its norm alone."""

import math
from dataclasses import dataclass

import pytest
import torch

from stmd_sdk import InvalidArgumentError, Noise
from stmd_sdk.operators import (
    Blur,
    Grayscale,
    Mask,
    Matrix,
    RandomFourier,
    average_pool,
    bicubic,
    box_mask,
    check_adjoint,
    gaussian_projections,
)
from stmd_sdk.operators.solve import NormDeflation, SpectralDeflation, deflation_of, noisy_copy

SIGMA = 0.1
SHAPE = (1, 8, 8)
SPECTRAL = {
    "box": (Mask(box_mask(SHAPE, 4)), SHAPE),
    "pool": (average_pool(SHAPE, 4), SHAPE),
    "bicubic": (bicubic(SHAPE, 2), SHAPE),
    "gaussian blur": (Blur.gaussian(1.2, 3), SHAPE),
    "motion blur": (Blur.motion(5, 30.0), SHAPE),
    "grayscale": (Grayscale(), (3, 4, 4)),
    "projections": (gaussian_projections((20,), 7, 0), (20,)),
    "more rows than columns": (Matrix(Noise.of(3, 9).normal(4), (4,)), (4,)),
    "fourier": (RandomFourier(SHAPE, 20), SHAPE),
}


@dataclass(frozen=True)
class Foreign:
    """An operator that shows A and its adjoint alone."""

    inner: object

    def A(self, x):
        return self.inner.A(x)

    def A_adjoint(self, y):
        return self.inner.A_adjoint(y)


def _eye(shape):
    d = math.prod(shape)
    return torch.eye(d, dtype=torch.float64).reshape(d, *shape)


def _matrix(linear, shape):
    """The matrix [m, d] of a linear map of batches."""
    return linear(_eye(shape)).flatten(1).T


def _measured(operator, shape):
    return operator.A(torch.zeros(1, *shape, dtype=torch.float64))


@pytest.mark.parametrize("name", SPECTRAL)
def test_a_spectrum_diagonalises_the_operator_in_an_orthonormal_basis(name):
    operator, shape = SPECTRAL[name]
    y = _measured(operator, shape)
    spectrum, m = operator.spectrum(y), tuple(y.shape[1:])
    A = _matrix(operator.A, shape)
    U = _matrix(spectrum.measurement, m)
    torch.testing.assert_close(U.T @ U, torch.eye(len(U)).double())
    torch.testing.assert_close(_matrix(spectrum.coordinates, m), U.T)
    torch.testing.assert_close(U @ spectrum.gains.flatten().square().diag() @ U.T, A @ A.T, rtol=0, atol=1e-9)


def _invariant_law(operator, shape, deflation, rho):
    """The posterior of a Gaussian prior under C_ρ, and what one move and one exact draw of x given z make of it."""
    y = 0.7 * Noise.of(5, 1).normal(*_measured(operator, shape).shape[1:]).double()
    d, m = math.prod(shape), y.numel()
    root = Noise.of(6, d).normal(d).double() / math.sqrt(d)
    P, mean = root @ root.T + 0.05 * torch.eye(d), Noise.of(7, 1).normal(d)[0].double()
    A = _matrix(operator.A, shape)
    # C_ρ by its definition as the noise that makes log_density: -½ rᵀ C⁻¹ r.
    zero = torch.zeros_like(y)
    base = deflation.log_density(zero, rho)
    E = _eye(tuple(y.shape[1:]))
    single = -2 * (deflation.log_density(E, rho) - base)
    pairs = -2 * (deflation.log_density((E[:, None] + E[None]).flatten(0, 1), rho) - base).reshape(m, m)
    C = torch.linalg.inv((pairs - single[:, None] - single) / 2)
    gain = P @ A.T @ torch.linalg.inv(A @ P @ A.T + C)
    posterior = mean + gain @ (y.flatten() - A @ mean), P - gain @ A @ P

    def z_of(*normal):
        rows = max(map(len, normal))
        x, e, n = (one.expand(rows, *one.shape[1:]) for one in normal)
        return noisy_copy(operator, deflation, y, x, rho, e, n).flatten(1)

    no_x, no_n = torch.zeros(1, *shape).double(), torch.zeros_like(y)
    shift = z_of(no_x, no_x, no_n)
    X = (z_of(_eye(shape), no_x, no_n) - shift).T
    W = (z_of(no_x, _eye(shape), no_n) - shift).T
    V = (z_of(no_x, no_x, E) - shift).T
    z_mean = X @ posterior[0] + shift[0]
    z_covariance = X @ posterior[1] @ X.T + W @ W.T + V @ V.T
    draw = P @ torch.linalg.inv(P + rho**2 * torch.eye(d))  # x | z ~ N(mean + draw (z - mean), P - draw P)
    after = mean + draw @ (z_mean - mean), P - draw @ P + draw @ z_covariance @ draw.T
    return posterior, after, C


@pytest.mark.parametrize("rho", [0.05, 0.7])
@pytest.mark.parametrize("name", SPECTRAL)
def test_a_move_leaves_the_posterior_of_a_gaussian_unchanged(name, rho):
    operator, shape = SPECTRAL[name]
    deflation = deflation_of(operator, _measured(operator, shape), SIGMA)
    assert isinstance(deflation, SpectralDeflation)
    before, after, C = _invariant_law(operator, shape, deflation, rho)
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(after[1], before[1], rtol=0, atol=1e-6)
    if rho * deflation.largest <= SIGMA:
        torch.testing.assert_close(C, SIGMA**2 * torch.eye(len(C)).double(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rho", [0.05, 0.7])
def test_the_norm_alone_makes_an_exact_move_too(rho):
    blur, shape = SPECTRAL["motion blur"]
    operator, y = Foreign(blur), _measured(blur, shape)
    deflation = deflation_of(operator, y, SIGMA)
    assert isinstance(deflation, NormDeflation)
    largest = float(blur.spectrum(y).gains.max())
    assert largest <= deflation.largest <= 1.1 * largest
    before, after, _ = _invariant_law(operator, shape, deflation, rho)
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(after[1], before[1], rtol=0, atol=1e-6)


def test_the_plain_noise_of_a_split_sampler_would_miss_the_posterior():
    """The law test can fail: with σ² I in the place of C_ρ - ρ² A Aᵀ the posterior is not invariant."""

    @dataclass(frozen=True)
    class Plain:
        sigma: float
        largest: float
        spectrum: object

        def correction(self, r, n, rho):
            gains = self.spectrum.gains
            total = self.sigma**2 + (rho * gains) ** 2
            return self.spectrum.measurement((self.spectrum.coordinates(r) - self.sigma * n) / total)

        def log_density(self, r, rho):
            return SpectralDeflation(self.spectrum, self.largest, self.sigma).log_density(r, rho)

    operator, shape = SPECTRAL["motion blur"]
    spectrum = operator.spectrum(_measured(operator, shape))
    before, after, _ = _invariant_law(operator, shape, Plain(SIGMA, 1.0, spectrum), 0.1)
    assert (after[1] - before[1]).abs().max() > 1e-4


def test_evidence_counts_every_coordinate_as_the_measurements_own_likelihood_does():
    operator, shape = SPECTRAL["motion blur"]
    y = _measured(operator, shape)
    r = Noise.of(1, 3).normal(*y.shape[1:]).double()
    for form in (operator, Foreign(operator)):
        found = deflation_of(form, y, SIGMA).log_density(r, 0.01)
        expected = torch.distributions.Normal(0, SIGMA).log_prob(r).flatten(1).sum(dim=1)
        torch.testing.assert_close(found, expected)


def test_operators_of_zero_and_operators_that_are_not_linear_are_refused():
    zero = Matrix(torch.zeros(2, 4), (4,))
    for operator in (zero, Foreign(zero)):
        with pytest.raises(InvalidArgumentError, match="measures nothing"):
            deflation_of(operator, torch.zeros(1, 2), SIGMA)

    class Squared:
        def A(self, x):
            return x.square()

        def A_adjoint(self, y):
            return y

    with pytest.raises(InvalidArgumentError, match="not the adjoint"):
        check_adjoint(Squared(), (4,), torch.device("cpu"))
