"""Where annealed split Gibbs chains end on Gaussian problems, by algebra: how far its levels leave it behind.

    python benchmarks/lag.py [--steps 20 40]

x and the noise e of its copy are jointly Gaussian all along, and so their law at the end is exact, whatever the levels.
Printed: KL(the end | the posterior) a coordinate, in the mean over y; the largest lag of a mean in its deviations.
"""

from __future__ import annotations

import argparse
import math

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from stmd_sdk import Noise
from stmd_sdk.evaluation import mixture
from stmd_sdk.inference.gibbs import WIDE, coupling_levels
from stmd_sdk.operators import Blur, Mask, average_pool, box_mask, gaussian_projections

SIGMA, SIDE = 0.1, 8
WIDTHS = (10.0, 3.0, 2.0, 1.0, 0.5, 0.3)


def problems() -> dict[str, tuple[Tensor, Tensor]]:
    """(covariance of the data, operator) by name: three gains, and 8 x 8 digits, of all classes and of one mode."""
    root = Noise.of(6, 6).normal(6).double() / math.sqrt(6)
    gains = torch.diag(torch.tensor([1.0, 0.3, 0.05], dtype=torch.float64))
    rotated = gains @ torch.linalg.qr(Noise.of(8, 6).normal(6).double()).Q[:3]
    law, pixels = mixture("mixture64"), torch.eye(SIDE**2).view(-1, 1, SIDE, SIDE)
    everything = law.covariances + law.means[:, :, None] * law.means[:, None]
    mean = law.weights @ law.means
    digits = torch.einsum("k,kde->de", law.weights, everything) - mean[:, None] * mean
    projections = gaussian_projections((SIDE**2,), 16, 123).matrix.double()
    operators = {
        "means of 2 x 2": average_pool((1, SIDE, SIDE), 2),
        "Gaussian blur": Blur.gaussian(1.0),
        "motion blur": Blur.motion(3, 30.0),
        "box of 4 x 4": Mask(box_mask((1, SIDE, SIDE), 4)),
    }
    found = {
        "three gains": (root @ root.T + 0.05 * torch.eye(6), rotated),
        "16 projections": (digits, projections),
        "16 projections of one mode": (law.covariances[0], projections),
    }
    return found | {name: (digits, one.A(pixels).flatten(1).double().T) for name, one in operators.items()}


def ended(covariance: Tensor, A: Tensor, levels: list[float], *, turned: bool = True) -> tuple[float, float]:
    """(KL a coordinate, largest lag) after a move at each of ``levels`` from x = 0; data of mean 0.

    With ``turned`` the noise of the earlier copy turns round, else it is drawn anew.
    """
    d, m, one = len(covariance), len(A), torch.eye(len(covariance), dtype=torch.float64)
    U, s, W = torch.linalg.svd(A)
    gains, basis = torch.zeros(d).double(), W.T
    gains[: len(s)] = s
    left = torch.zeros(d, m).double()
    left[: len(s)] = U.T[: len(s)]
    mean, joint = torch.zeros(2 * d, m).double(), torch.zeros(2 * d, 2 * d).double()  # of (x, e), the mean a map of y
    joint[d:, d:] = one
    for rho in levels:
        noise = (rho * gains).square().clamp(min=SIGMA**2)  # C_ρ
        share = rho**2 * gains / noise
        H, K = (basis * (1 - share * gains)) @ basis.T, (basis * share) @ left
        rest = (basis * (share.square() * (noise - (rho * gains).square()))) @ basis.T
        B = torch.cat([H, rho * H], dim=1)  # z = H (x + ρ e) + K y + rest
        of_z, about = B @ mean + K, B @ joint @ B.T + rest
        P = torch.linalg.solve(covariance + rho**2 * one, covariance)  # x | z
        V = rho**2 * P
        # e | x, z has the mean (z - H x - K y) / ρ and the covariance I - H.
        back = torch.cat([P.T, (one - H @ P.T) / rho])
        joint = back @ about @ back.T
        joint[:d, :d] += V
        joint[:d, d:] -= V @ H / rho
        joint[d:, :d] -= H @ V / rho
        joint[d:, d:] += H @ V @ H / rho**2 + one - H
        mean = back @ of_z
        mean[d:] -= K / rho
        sign = torch.cat([torch.ones(d), -torch.ones(d)]).double() if turned else torch.cat([torch.ones(d), 0 * gains])
        joint, mean = sign[:, None] * joint * sign, sign[:, None] * mean
        if not turned:
            joint[d:, d:] = one
        joint = (joint + joint.T) / 2
    of_y = A @ covariance @ A.T + SIGMA**2 * torch.eye(m)
    G = torch.linalg.solve(of_y, A @ covariance).T
    posterior = covariance - G @ A @ covariance
    off = (mean[:d] - G) @ of_y @ (mean[:d] - G).T
    ratio = torch.linalg.solve(posterior, joint[:d, :d])
    apart = torch.linalg.solve(posterior, off).trace()
    kl = 0.5 * float(ratio.trace() + apart - d - torch.linalg.slogdet(ratio).logabsdet) / d
    return kl, float((off.diagonal() / posterior.diagonal()).sqrt().max())


def levels_of(covariance: Tensor, A: Tensor, wide: float, steps: int) -> list[float]:
    """From ``wide`` times the data's deviation to σ / s_max."""
    deviation = float((covariance.trace() / len(covariance)).sqrt())
    return coupling_levels(wide * deviation, SIGMA / float(torch.linalg.svdvals(A).max()), steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="*", default=[20, 40], help="numbers of levels")
    options = parser.parse_args()
    given = problems()
    table = Table("levels", "noise", "first over deviation", *given, "mean KL", title=f"chosen: turned, {WIDE:g}")
    for steps in options.steps:
        for turned in (False, True):
            for wide in WIDTHS:
                ends = [ended(S, A, levels_of(S, A, wide, steps), turned=turned) for S, A in given.values()]
                mean = sum(kl for kl, _ in ends) / len(ends)
                row = [f"{kl:.4f}, {lag:.2f}" for kl, lag in ends]
                table.add_row(str(steps), "turned" if turned else "anew", f"{wide:g}", *row, f"{mean:.4f}")
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
