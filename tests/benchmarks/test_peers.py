"""Peers on Gaussian problems whose posterior is known."""

import math

import peers
import pytest
import torch

from stmd_sdk import Noise
from stmd_sdk.evaluation import GaussianMixture, conditioned
from stmd_sdk.operators import Matrix

D, N, SIGMA = 4, 4000, 0.2
ROOT = Noise.of(6, D).normal(D).double() / math.sqrt(D)
COVARIANCE = ROOT @ ROOT.T + 0.1 * torch.eye(D)
MATRIX = torch.diag(torch.tensor([1.0, 0.4])) @ torch.linalg.qr(Noise.of(8, D).normal(D)).Q[:2]
Y = torch.tensor([[0.8, -0.3]])
LAW = GaussianMixture(torch.ones(1), torch.zeros(1, D), COVARIANCE[None], "gaussian")
PROBLEM = peers.Problem.of(peers.basis_of(Matrix(MATRIX, (D,)), (D,)), Y, SIGMA)
PEERS = {
    "ddrm": lambda levels, key, problem: peers.ddrm(_denoise, problem, levels, key),
    "diffpir": lambda levels, key, problem: peers.diffpir(_denoise, problem, levels, key, lam=1.0),
    "daps": lambda levels, key, problem: peers.daps(_denoise, problem, levels, key),
    "pnp_dm": lambda levels, key, problem: peers.pnp_dm(_denoise, problem, levels, key),
}


def _denoise(x, sigma):
    gain = torch.linalg.solve(COVARIANCE + sigma**2 * torch.eye(D), COVARIANCE)
    return (x.double() @ gain).float()


def test_the_singular_basis_gives_the_measurement_back():
    x = Noise.of(0, 5).normal(D)
    seen = (x @ PROBLEM.V) * PROBLEM.gains
    torch.testing.assert_close(seen.square().sum(dim=1), (x @ MATRIX.T).square().sum(dim=1))
    exact, _ = conditioned(LAW, MATRIX, Y[0], SIGMA)
    isotropic = PROBLEM.given(torch.zeros(1, D), 1.0, None) @ PROBLEM.V.T
    wanted = torch.linalg.solve(MATRIX.T @ MATRIX + SIGMA**2 * torch.eye(D), MATRIX.T @ Y[0])
    torch.testing.assert_close(isotropic[0], wanted, rtol=1e-4, atol=1e-5)
    assert exact.shape == (D,)


def test_pnp_dm_has_the_posterior_of_its_own_inflated_noise():
    """Fixed ρ, many moves: mean and covariance under σ² I + ρ² A Aᵀ, the inner steps' error aside."""
    rho = 0.4
    draws = peers.pnp_dm(_denoise, PROBLEM, [rho] * 60 + [0.0], Noise.of(1, N), inner=60).double()
    wide = torch.linalg.cholesky(SIGMA**2 * torch.eye(2) + rho**2 * MATRIX @ MATRIX.T)
    white = torch.linalg.solve(wide, MATRIX), torch.linalg.solve(wide, Y[0])
    exact, _ = conditioned(LAW, *white, 1.0)
    deviation = exact.covariances[0].diagonal().sqrt()
    assert ((draws.mean(dim=0) - exact.means[0]) / deviation).abs().max() < 0.08
    torch.testing.assert_close(draws.std(dim=0) / deviation, torch.ones(D).double(), rtol=0, atol=0.06)


@pytest.mark.parametrize(("name", "off"), [("ddrm", 0.5), ("diffpir", 0.5), ("daps", 0.25), ("pnp_dm", 0.25)])
def test_means_come_near_the_posterior_mean_and_leave_the_prior_mean(name, off):
    """In deviations of the posterior; none of them is exact. The prior mean is some 2 off."""
    exact, _ = conditioned(LAW, MATRIX, Y[0], SIGMA)
    deviation = exact.covariances[0].diagonal().sqrt()
    levels = peers.falling(10.0, 0.2 if name == "pnp_dm" else 0.02, 60)
    draws = PEERS[name](levels, Noise.of(1, N), PROBLEM).double()
    assert ((draws.mean(dim=0) - exact.means[0]) / deviation).abs().max() < off
    assert (exact.means[0] / deviation).abs().max() > 2 * off
    assert (draws.std(dim=0) > 0.2 * deviation).all()


@pytest.mark.parametrize("name", list(PEERS))
def test_a_sharp_measurement_is_met(name):
    sharp = peers.Problem.of(peers.basis_of(Matrix(MATRIX, (D,)), (D,)), Y, 1e-3)
    levels = peers.falling(10.0, 0.02, 60)
    draws = PEERS[name](levels, Noise.of(1, 500), sharp)
    torch.testing.assert_close((draws @ MATRIX.T).mean(dim=0), Y[0], rtol=0, atol=0.02)
