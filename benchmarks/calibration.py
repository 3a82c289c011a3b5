"""Simulation-based calibration of posterior solvers on mixtures, whose kernel is exact: what fails is the solver.

    python benchmarks/calibration.py [--pairs 200] [--problems mixture2d mixture64] [--out calibration.json]

mixture2d with one projection and mixture64 with 16, noise 0.1. A row a solver: resampled and annealed split Gibbs
sampling, and the controls: the resampled draws a twentieth too narrow, range-null guidance (``condition``), DPS.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from posterior import SCHEDULE, gibbs, itself
from rich.console import Console
from rich.table import Table
from solvers import dps
from torch import Tensor

from stmd_sdk import Noise
from stmd_sdk.codecs.codec import VectorCodec
from stmd_sdk.diffusion.loop import reverse_sde, time_grid
from stmd_sdk.evaluation import GaussianMixture, MixturePosterior, SolvedPairs, Solver, mixture, solved_pairs
from stmd_sdk.evaluation.controls import MeanPosterior
from stmd_sdk.evaluation.solver import SOLVER_LEVEL
from stmd_sdk.files import check_writable, written_whole
from stmd_sdk.inference.coupling import coupling_for
from stmd_sdk.inference.gibbs import LEVELS, WIDE, annealed_gibbs, coupling_levels
from stmd_sdk.inference.guidance import range_null_guide
from stmd_sdk.inference.running import run_gibbs
from stmd_sdk.operators import GaussianNoise, Matrix, Measurement, gaussian_projections

SIGMA, THIN, GUIDED, DIFFUSED = 0.1, 8, 20, 100
ZETAS = {"mixture2d": 0.2, "mixture64": 0.4}  # of DPS: the nearest to exact draws by energy distance, of 0.01 to 0.4
OPERATORS = {
    "mixture2d": Matrix(torch.tensor([[0.6, 0.8]]), (2,)),
    "mixture64": gaussian_projections((64,), 16, 123),
}


def solvers(law: GaussianMixture, operator: Matrix, zeta: float) -> dict[str, Solver]:
    """Each with the exact kernel; ``zeta`` is DPS's step length."""
    posterior, codec, scale = MixturePosterior(law, SCHEDULE), VectorCodec(), law.root_mean_square()

    def resampled(y: Tensor, noise: Noise, draws: int, /) -> Tensor:
        wide = Noise(noise.seed, torch.arange(THIN * draws), noise.path)
        measured = Measurement(operator, y, GaussianNoise(SIGMA))
        found, _ = gibbs(posterior, law, law.sample(wide.fold(0)), measured, wide.fold(1), 100)
        return found.samples[::THIN]

    def annealed(y: Tensor, noise: Noise, draws: int, /) -> Tensor:
        measured, cpu = Measurement(operator, y, GaussianNoise(SIGMA)), torch.device("cpu")
        coupling = coupling_for(measured, itself, law.shape, law.shape, SCHEDULE, scale, cpu)
        levels = coupling_levels(WIDE * scale, coupling.last, LEVELS)
        walk = annealed_gibbs(posterior, SCHEDULE, coupling, levels, torch.zeros(draws, *law.shape), noise)
        return run_gibbs(walk, coupling, LEVELS, (0, 1), itself, False).samples

    def condition(y: Tensor, noise: Noise, draws: int, /) -> Tensor:
        guided = range_null_guide(operator, y, SIGMA, SCHEDULE, codec, law.shape, scale)(posterior)
        *_, (_, x_0, _) = reverse_sde(guided, SCHEDULE, time_grid(GUIDED), law.shape, noise)
        return x_0

    def diffusion_posterior(y: Tensor, noise: Noise, draws: int, /) -> Tensor:
        return dps(MeanPosterior(law, SCHEDULE), SCHEDULE, time_grid(DIFFUSED), law.shape, noise, operator, y[0], zeta)

    return {"gibbs, resampled": resampled, "gibbs, annealed": annealed, "condition": condition,
            "DPS": diffusion_posterior}  # fmt: skip


def row(problem: str, name: str, pairs: SolvedPairs) -> dict[str, object]:
    """p-values by measure, and which contradict exact draws."""
    found = pairs.certificate()
    return {"problem": problem, "solver": name, "pairs": found.pairs, "draws": found.draws,
            "seconds": round(found.seconds, 1), "values": {one.measure: one.estimate.value for one in found.findings},
            "p": {one.measure: one.p_value for one in found.findings},
            "rejected": [one.measure for one in found.rejected(SOLVER_LEVEL)]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--problems", nargs="*", choices=list(OPERATORS), default=list(OPERATORS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("calibration.json"))
    options = parser.parse_args()
    check_writable(options.out)
    rows, table = list[dict[str, object]](), Table("problem", "solver", "p", "rejected by", "s")
    for problem in options.problems:
        law, operator = mixture(problem), OPERATORS[problem]
        x = law.sample(Noise.of(options.seed + 1000, options.pairs))
        for name, solver in solvers(law, operator, ZETAS[problem]).items():
            pairs = solved_pairs(solver, x, operator, GaussianNoise(SIGMA), seed=options.seed)
            found = [row(problem, name, pairs)]
            if name == "gibbs, resampled":
                found.append(row(problem, "the same x 0.95", pairs.shrunk()))
            for one in found:
                print(json.dumps(one), flush=True)
            rows += found
    for one in rows:
        p, rejected = one["p"], one["rejected"]
        assert isinstance(p, dict)
        assert isinstance(rejected, list)
        values = ", ".join(f"{key} {value:.2g}" for key, value in p.items())
        table.add_row(str(one["problem"]), str(one["solver"]), values, ", ".join(rejected), str(one["seconds"]))
    with written_whole(options.out) as path:
        path.write_text(json.dumps({"seed": options.seed, "sigma": SIGMA, "rows": rows}, indent=1) + "\n")
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
