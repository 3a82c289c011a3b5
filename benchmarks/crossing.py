"""What a one-step draw from noise can at best be, whose map is continuous: it must cross between modes.

    python benchmarks/crossing.py mixture2d --data mixture2d [--draws 65536]

At t = 1 a one-step draw is a map G of standard normal numbers (x_1, ε). By Gaussian isoperimetry (Sudakov and
Tsirelson, 1974; Borell, 1975) a set of mass p has a boundary of at least I(p) = φ(Φ⁻¹(p)). So, by the coarea formula,
of sets of masses p_i that lie ``gap`` apart (here discs of three deviations about the modes)

    E[‖∂G‖; outside all sets] >= gap / 2 · Σ_i I(p_i):

only a steep crossing leaves little mass between the modes. Of half-planes it says that the quantiles of θᵀG, where the
mean of ‖∂(θᵀG)‖ given θᵀG is nowhere above L, have a slope of at most L in those of the normal law. The nearest such
quantiles to the data's are an isotonic regression, and their distance is the least sliced W2 of any map of this slope.
Both hold for every network and every training.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from sklearn.isotonic import isotonic_regression
from torch import Tensor

from stmd_sdk import Noise, Sampler
from stmd_sdk.diffusion.noise import GivenNoise
from stmd_sdk.diffusion.posterior import FlowPosterior
from stmd_sdk.errors import InvalidArgumentError
from stmd_sdk.evaluation import mixture, sliced_w2
from stmd_sdk.mixtures.law import GaussianMixture

DEVIATIONS = 3.0
DIRECTIONS = 64
LEVELS = 64  # along a line, of equal mass, in which slopes are averaged
DATA = 200_000  # samples that the law's quantiles are of
CHUNK = 4096
SLOPES = 2.0, 3.0, 4.0, 6.0, 8.0, 12.0
NORMAL = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))


def least_boundary(masses: Float[Tensor, " k"]) -> float:
    """Σ_i I(p_i): what sets of these masses have for boundaries, at least."""
    return float(NORMAL.log_prob(NORMAL.icdf(masses.double())).exp().sum())


def most_within(masses: Float[Tensor, " k"], gap: float, slope: float) -> float:
    """The largest share of G in sets ``gap`` apart, in proportion to ``masses``, at a mean ``slope`` outside them."""
    low, high = 0.0, 1.0
    for _ in range(60):  # what must lie outside grows with what lies within, up to half a set's mass
        share = (low + high) / 2
        fits = 1 - share >= gap / 2 * least_boundary(share * masses) / slope
        low, high = (share, high) if fits else (low, share)
    return low


def least_sliced_w2(x: Float[Tensor, "n d"], slope: float, noise: Noise) -> float:
    """The least sliced W2 to ``x`` of a map whose mean ``slope`` on each level of each line is at most this.

    Along a line the quantiles f nearest to the data's T with f' <= L: L z - f rises, and is the isotonic regression
    of L z - T.
    """
    directions = torch.nn.functional.normalize(noise.normal(x.shape[1]), dim=1).double()
    z = NORMAL.icdf((torch.arange(len(x)) + 0.5).double() / len(x))
    total = 0.0
    for theta in directions:
        rest = slope * z - (x.double() @ theta).sort().values
        total += float((torch.from_numpy(isotonic_regression(rest.numpy())) - rest).square().mean())
    return math.sqrt(total / len(directions))


def draw_with_slopes(
    posterior: FlowPosterior, noise: Noise, d: int
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d e"]]:
    """One-step draws from noise, and their derivatives by it."""
    draws, slopes = list[Tensor](), list[Tensor]()
    for start in range(0, len(noise), CHUNK):
        inputs = noise[start : start + CHUNK].normal(2 * d).requires_grad_()
        x_1, epsilon = inputs.split(d, dim=1)
        x_0 = posterior(x_1, torch.ones(len(inputs)), GivenNoise(epsilon[None]).fold(0))
        rows = [torch.autograd.grad(x_0[:, i].sum(), inputs, retain_graph=True)[0] for i in range(d)]
        draws.append(x_0.detach())
        slopes.append(torch.stack(rows, dim=1))
    return torch.cat(draws), torch.cat(slopes)


@final
@dataclass(frozen=True)
class Crossing:
    """What a model's one-step draws are, and what no map of their slopes betters."""

    within: float
    exact_within: float
    slope_outside: float
    most_within: float
    slope_along: float
    distance: float
    exact_distance: float
    least_distance: float


def crossing(posterior: FlowPosterior, data: GaussianMixture, draws: int) -> Crossing:
    """Measure one model; ``data`` are modes of one deviation."""
    (d,), key = data.shape, Noise.of(0, draws)
    x, slopes = draw_with_slopes(posterior, key.fold(0), d)
    exact, others = data.sample(key.fold(1)), data.sample(key.fold(2))
    outside = ~_within(x, data)
    slope_outside = float(torch.linalg.matrix_norm(slopes, 2)[outside].mean())
    directions = Noise.of(1, DIRECTIONS)
    return Crossing(
        within=float(1 - outside.float().mean()),
        exact_within=float(_within(exact, data).float().mean()),
        slope_outside=slope_outside,
        most_within=most_within(data.weights, _gap(data), slope_outside),
        slope_along=(along := _steepest_along(x, slopes, directions)),
        distance=sliced_w2(x, others, directions),
        exact_distance=sliced_w2(exact, others, directions),
        least_distance=least_sliced_w2(data.sample(Noise.of(2, DATA)), along, directions),
    )


def _deviation(data: GaussianMixture) -> float:
    return float(data.covariances[0, 0, 0].sqrt())


def _within(x: Tensor, data: GaussianMixture) -> Tensor:
    return torch.cdist(x.double(), data.means).min(dim=1).values <= DEVIATIONS * _deviation(data)


def _gap(data: GaussianMixture) -> float:
    """Between the discs about neighbouring modes; 0 where they touch."""
    return max(0.0, float(torch.pdist(data.means).min()) - 2 * DEVIATIONS * _deviation(data))


def _steepest_along(x: Tensor, slopes: Tensor, directions: Noise) -> float:
    """The largest mean of ‖∂(θᵀG)‖ on a level of θᵀG, over levels and directions θ."""
    size, found = len(x) // LEVELS, 0.0
    for theta in torch.nn.functional.normalize(directions.normal(x.shape[1]), dim=1):
        along = torch.einsum("nij,i->nj", slopes, theta).norm(dim=1)[(x @ theta).argsort()]
        found = max(found, float(along[: size * LEVELS].reshape(LEVELS, size).mean(dim=1).max()))
    return found


def _opened(model: str, data: GaussianMixture) -> FlowPosterior:
    sampler = Sampler.from_pretrained(model)
    posterior = sampler.spec.build_posterior(sampler.network)
    if not isinstance(posterior, FlowPosterior) or sampler.spec.shape != data.shape:
        raise InvalidArgumentError(f"{model}: not a model that draws {data.name} with a flow")
    return posterior


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="bundled names or files, of models for vectors")
    parser.add_argument("--data", choices=("mixture2d", "mixture3"), default="mixture2d", help="what they draw")
    parser.add_argument("--draws", type=int, default=65_536)
    options = parser.parse_args()
    data, console = mixture(options.data), Console()
    table = Table("model", "within", "slope outside", "most within", "slope along", "distance", "least distance")
    opened = {name: _opened(name, data) for name in options.models}
    for name, posterior in opened.items():
        one = crossing(posterior, data, options.draws)
        table.add_row(
            name,
            f"{one.within:.3f} (exact {one.exact_within:.3f})",
            f"{one.slope_outside:.2f}",
            f"{one.most_within:.3f}",
            f"{one.slope_along:.2f}",
            f"{one.distance:.4f} (exact {one.exact_distance:.4f})",
            f"{one.least_distance:.4f}",
        )
    console.print(table)
    law, x = Table("slope", "most within", "least distance", title="of any map"), data.sample(Noise.of(2, DATA))
    for slope in SLOPES:
        distance = least_sliced_w2(x, slope, Noise.of(1, DIRECTIONS))
        law.add_row(f"{slope:g}", f"{most_within(data.weights, _gap(data), slope):.3f}", f"{distance:.4f}")
    console.print(law)
    console.print(
        f"{options.draws} draws, one step, one training seed each; distance: sliced W2 over {DIRECTIONS} directions"
    )


if __name__ == "__main__":
    main()
