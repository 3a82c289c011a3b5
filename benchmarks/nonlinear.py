"""Held-out digits behind measurements that are not linear: overexposed, coded as JPEG, without phases, counted.

    python benchmarks/nonlinear.py --data MNIST_DIR [--model MODEL] [--digits 8] [--out nonlinear.json]

A hundred evaluations a draw each: split Gibbs sampling by slices, Metropolis chains, and DPS with the same network at
several step lengths, where the likelihood has a gradient. What the slices cost is the likelihood alone.
"""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from scoring import DRAWS, Restored, compared, flow_steps, held_out, mean_of, restoring_options, table, write_rows
from solvers import dps
from torch import Tensor

from stmd_sdk import InferenceError, InferenceWarning, Noise, Sampler
from stmd_sdk.diffusion.loop import time_grid
from stmd_sdk.files import check_writable
from stmd_sdk.operators import Clip, GaussianNoise, Jpeg, Mask, Measurement, NoiseModel, PhaseRetrieval, PoissonNoise
from stmd_sdk.operators.protocol import Operator

EVALUATIONS = 100
CHAINS = 64  # that temper together; 19 of them are looked at
ZETAS = 0.3, 1.0, 3.0


@dataclass(frozen=True)
class Problem:
    """One measurement of each truth."""

    name: str
    operator: Operator
    measured: list[Measurement]


Method = Callable[[Sampler, Problem, int], Restored]


def problems(x: Tensor, sigma: float, peak: float, seed: int) -> list[Problem]:
    """Clipped at twice the gain, JPEG of quality 25, Fourier magnitudes, photons."""
    gaussian = GaussianNoise(sigma)
    kinds: dict[str, tuple[Operator, NoiseModel]] = {
        "overexposed": (Clip(2.0), gaussian),
        "JPEG, quality 25": (Jpeg(25), gaussian),
        "phase retrieval": (PhaseRetrieval(2), gaussian),
        f"photons, {peak:g} at most": (Mask(torch.ones(1, *x.shape[2:])), PoissonNoise(peak)),
    }
    found = list[Problem]()
    for name, (operator, noise) in kinds.items():
        y = noise.draw(operator.A(x), Noise.of(seed, len(x)).fold(7))
        found.append(Problem(name, operator, [Measurement(operator, one[None], noise) for one in y]))
    return found


def sliced(sampler: Sampler, problem: Problem, seed: int) -> Restored:
    """Annealed split Gibbs sampling, each draw by itself."""
    steps, last = EVALUATIONS // flow_steps(sampler), list[float]()
    parts = list[Tensor]()
    for i, measured in enumerate(problem.measured):
        draws = sampler.gibbs(measured, DRAWS, steps=steps, seed=Noise.of(seed, DRAWS).fold(100 + i))
        parts.append(draws.samples)
        last.append(draws.levels[-1])
    return Restored(torch.stack(parts, dim=1), steps * flow_steps(sampler), {"last_rho": statistics.mean(last)})


def chained(sampler: Sampler, problem: Problem, seed: int) -> Restored:
    """Chains that temper the likelihood from draws of the prior in N = 4."""
    parts, mixing, begin = list[Tensor](), list[float](), 4
    rows = torch.linspace(0, CHAINS - 1, DRAWS).long()
    steps = EVALUATIONS // flow_steps(sampler) - begin
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InferenceWarning)  # the roots are in the notes
        for i, measured in enumerate(problem.measured):
            key = Noise.of(seed, CHAINS).fold(100 + i)
            draws = sampler.chain(measured, CHAINS, steps=steps, inference_steps=begin, seed=key)
            parts.append(draws.samples[rows])
            mixing.append(draws.roots or 0.0)
    return Restored(
        torch.stack(parts, dim=1), (steps + begin) * flow_steps(sampler), {"roots_median": statistics.median(mixing)}
    )


def guided(zeta: float) -> Method:
    """DPS on ‖y - A x_0‖, of counts divided by the deviation that y says, as its paper does; a gradient a step."""

    def run(sampler: Sampler, problem: Problem, seed: int) -> Restored:
        if isinstance(problem.operator, Jpeg):
            raise InferenceError("rounding has no gradient")
        spec, times, mean, parts = sampler.spec, time_grid(EVALUATIONS), mean_of(sampler), list[Tensor]()
        for i, measured in enumerate(problem.measured):
            key, whitened = Noise.of(seed, DRAWS).fold(100 + i), Whitened.of(measured)
            parts.append(dps(mean, spec.schedule, times, spec.shape, key, whitened, whitened.A_of(measured.y), zeta))
        return Restored(spec.codec.decode(torch.stack(parts, dim=1)), EVALUATIONS, {"zeta": zeta})

    return run


@dataclass(frozen=True, eq=False)
class Whitened:
    """An operator whose noise has one deviation: counts are divided by the square root of the count, at least 1."""

    operator: Operator
    weight: Tensor

    @classmethod
    def of(cls, measured: Measurement) -> Whitened:
        """That of a measurement."""
        weight = torch.ones(())
        if isinstance(measured.noise, PoissonNoise):
            counts = measured.noise.peak * (measured.y + 1) / 2
            weight = counts.clamp(min=1).rsqrt() * counts.mean().clamp(min=1).sqrt()
        return cls(measured.operator, weight)

    def A(self, x: Tensor, /) -> Tensor:
        """The weighted measurement of x."""
        return self.A_of(self.operator.A(x))

    def A_of(self, y: Tensor) -> Tensor:
        """The weighted y."""
        return self.weight * y


def main() -> None:
    parser = restoring_options(__doc__, 8, "nonlinear.json")
    parser.add_argument("--peak", type=float, default=30.0, help="photons of a white pixel")
    options = parser.parse_args()
    check_writable(options.out)
    sampler = Sampler.from_pretrained(options.model, device="cpu")
    x = held_out(options.data, sampler, options.model, range(options.first, options.first + options.digits))
    methods: dict[str, Method] = {"gibbs, by slices": sliced, "chain, tempered": chained}
    methods |= {f"DPS, same network, zeta {zeta:g}": guided(zeta) for zeta in ZETAS}
    rows = compared(options, sampler, x, problems(x, options.sigma, options.peak, options.seed), methods)
    write_rows(options.out, rows)
    Console(width=160).print(table(rows))


if __name__ == "__main__":
    main()
