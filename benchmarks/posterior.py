"""Posterior sampling: on problems whose answer is known, beside DPS with the exact score, and on held-out digits.

    python benchmarks/posterior.py [--quick] [--mixture3 MODEL] [--mixture64 MODEL] [--out posterior.json]
    python benchmarks/posterior.py --data MNIST_DIR [--model MODEL] [--digits 16] [--dps-steps 100 1000]

Without a model the posterior p(x_0 | x_t) is the mixture's own: then what is measured is the method, with one the
method and the model. An evaluation is one draw or one score for each chain; DPS's are differentiated too. With
``--data`` the digits alone are measured.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time

import torch
from restoration import class_tilt, opened, problems, restorers
from rich.console import Console
from scoring import DIRECTIONS, compared, held_out, restoring_options, table, write_rows
from solvers import dps
from torch import Tensor

from stmd_sdk import GibbsDraws, Noise, Sampler, VPSchedule
from stmd_sdk.diffusion.loop import time_grid
from stmd_sdk.diffusion.posterior import Posterior
from stmd_sdk.evaluation import (
    GaussianMixture,
    MixturePosterior,
    conditioned,
    energy_distance,
    mixture,
    sliced_w2,
)
from stmd_sdk.evaluation.controls import MeanPosterior
from stmd_sdk.files import check_writable
from stmd_sdk.inference.chain import FreeNoising, RangeNoising, metropolis
from stmd_sdk.inference.coupling import coupling_for
from stmd_sdk.inference.draws import ChainDraws
from stmd_sdk.inference.gibbs import FREE, resampled_gibbs
from stmd_sdk.inference.running import run_chains, run_gibbs, run_particles
from stmd_sdk.inference.steering import steered_sde
from stmd_sdk.inference.summary import posterior_summary
from stmd_sdk.operators import GaussianNoise, Matrix, Measurement, gaussian_projections
from stmd_sdk.runs.chunks import chunked

SCHEDULE = VPSchedule()
SLANT, Y = torch.tensor([[1.2, -0.8]]), torch.tensor([-1.0])
LEVELS = (1.0, 0.6, 0.4, 0.3, 0.2)


def posterior_of(law: GaussianMixture, model: str | None) -> tuple[Posterior, str]:
    """The exact posterior, or that of a trained model."""
    if model is None:
        return MixturePosterior(law, SCHEDULE), "exact"
    sampler = Sampler.from_pretrained(model, device="cpu")
    return chunked(sampler.spec.build_posterior(sampler.network)), model


def chains(posterior: Posterior, shape: tuple[int, ...], measured: Measurement, n: int, evaluations: int) -> ChainDraws:
    """Tempered chains: one evaluation for the start, the others for steps."""
    key = Noise.of(2, n)
    start = posterior(key.fold(0).normal(*shape), torch.ones(n), key.fold(1))
    noising = FreeNoising(SCHEDULE, LEVELS)
    if shape[0] > 2 and isinstance(measured.operator, Matrix) and isinstance(measured.noise, GaussianNoise):
        noising = RangeNoising(SCHEDULE, measured.operator, measured.y, measured.noise.sigma)
    walk = metropolis(posterior, measured, start, noising, key.fold(2), tempering=0.9)
    return run_chains(walk, evaluations - 1, lambda x: x, True)


def gibbs(
    posterior: Posterior, law: GaussianMixture, start: Tensor, measured: Measurement, key: Noise, evaluations: int
) -> tuple[GibbsDraws, int]:
    """Resampled split Gibbs sampling from ``start``, which cost one evaluation, ten moves at the end; and the levels.

    Fewer moves where the evaluations do not reach.
    """
    coupling = coupling_for(measured, itself, law.shape, law.shape, SCHEDULE, law.root_mean_square(), start.device)
    walk = resampled_gibbs(posterior, SCHEDULE, coupling, FREE * law.root_mean_square(), start, key)
    draws = run_gibbs(walk, coupling, evaluations - 1, (1, 1), itself, True, moves=10)
    return draws, sum(rho > coupling.last for rho in draws.levels) + 1


def itself(x: Tensor) -> Tensor:
    """Vectors are their own samples."""
    return x


def mixture3(model: str | None, n: int) -> list[dict[str, object]]:
    """Sliced W2 and mode weights, against evaluations."""
    law, sigma = mixture("mixture3"), 0.2
    measured = Measurement(Matrix(SLANT, (2,)), Y[None], GaussianNoise(sigma))
    exact, log_evidence = conditioned(law, SLANT, Y, sigma)
    truth, again, directions = exact.sample(Noise.of(0, n)), exact.sample(Noise.of(1, n)), Noise.of(5, 256)
    posterior, what = posterior_of(law, model)

    def row(method: str, evaluations: int, x: Tensor, seconds: float, **more: object) -> dict[str, object]:
        masses = torch.bincount(torch.cdist(x.double(), law.means).argmin(1), minlength=3) / len(x)
        error = float((masses - exact.weights).abs().max())
        w2 = sliced_w2(x, truth, directions)
        return {"problem": "mixture3", "posterior": what, "method": method, "evaluations": evaluations, "n": n,
                "sliced_w2": w2, "mode_error": error, "seconds": seconds, **more}  # fmt: skip

    rows = [row("exact draws (floor)", 0, again, 0.0)]
    for evaluations in (11, 26, 51):
        begun = time.perf_counter()
        draws = chains(posterior, (2,), measured, n, evaluations)
        more = {"acceptance": draws.acceptance, "evidence_error": (draws.log_evidence or 0) - log_evidence}
        rows.append(row("chain", evaluations, draws.samples, time.perf_counter() - begun, **more))
    for seed in range(4):
        begun, key = time.perf_counter(), Noise.of(seed, n).fold(40)
        start = posterior(key.fold(0).normal(2), torch.ones(n), key.fold(1))
        draws, levels = gibbs(posterior, law, start, measured, key.fold(2), 51)
        more = {"seed": seed, "levels": levels, "evidence_error": (draws.log_evidence or 0) - log_evidence}
        rows.append(row("gibbs", draws.evaluations, draws.samples, time.perf_counter() - begun, **more))
    errors: list[float] = []
    for seed in range(10):
        walk = steered_sde(posterior, SCHEDULE, time_grid(20), (2,), measured, Noise.of(seed, 4096))
        errors.append(run_particles(walk, 20, lambda x: x).log_evidence - log_evidence)
    rms = math.sqrt(statistics.mean(error**2 for error in errors))
    rows.append({"problem": "mixture3", "posterior": what, "method": "steer, 4096 particles",
                 "seeds": 10, "evaluations": 20,
                 "evidence_error_rms": rms, "evidence_error_max": max(map(abs, errors))})  # fmt: skip
    if model is None:
        few = min(n, 8192)
        truth, mean = truth[:few], MeanPosterior(law, SCHEDULE)
        for zeta in (0.01, 0.02, 0.05):
            begun = time.perf_counter()
            x = dps(mean, SCHEDULE, time_grid(500), (2,), Noise.of(4, few), measured.operator, measured.y, zeta)
            rows.append(row(f"DPS, exact score, zeta {zeta}", 500, x, time.perf_counter() - begun))
    return rows


def mixture64(model: str | None, n: int, problems: int) -> list[dict[str, object]]:
    """Energy distance over its floor and coverage of 90 % intervals, over several measurements."""
    law, operator = mixture("mixture64"), gaussian_projections((64,), 16, 123)
    posterior, what = posterior_of(law, model)
    return [_mixture64(law, posterior, what, method, operator, n, problems) for method in ("chain", "gibbs")]


def _mixture64(
    law: GaussianMixture, posterior: Posterior, what: str, method: str, operator: Matrix, n: int, problems: int
) -> dict[str, object]:
    ratios, covered, evidence, spent = list[float](), list[float](), list[float](), list[int]()
    begun = time.perf_counter()
    for seed in range(problems):
        x = law.sample(Noise.of(seed, 1).fold(9))
        measured = Measurement.of(operator, x, GaussianNoise(0.1), Noise.of(seed, 1).fold(8))
        exact, log_evidence = conditioned(law, operator.matrix, measured.y[0], 0.1)
        if method == "gibbs":
            key = Noise.of(seed, n).fold(40)
            start = posterior(key.fold(0).normal(64), torch.ones(n), key.fold(1))
            draws, _ = gibbs(posterior, law, start, measured, key.fold(2), 100)
        else:
            draws = chains(posterior, (64,), measured, n, 100)
        truth, others = exact.sample(Noise.of(0, n)), [exact.sample(Noise.of(k, n)) for k in (1, 2, 3)]
        floor = statistics.mean(energy_distance(other, truth, unbiased=False) for other in others)
        ratios.append(energy_distance(draws.samples, truth, unbiased=False) / floor)
        covered.append(float(posterior_summary(draws.samples).covers(x[0]).float().mean()))
        evidence.append((draws.log_evidence or 0) - log_evidence)
        spent.append(draws.evaluations if isinstance(draws, GibbsDraws) else 100)
    seconds = time.perf_counter() - begun
    return {"problem": "mixture64", "posterior": what, "method": method, "evaluations": statistics.median(spent),
            "n": n, "problems": problems, "energy_over_floor_median": statistics.median(ratios),
            "energy_over_floor": ratios, "coverage90": statistics.mean(covered),
            "coverage90_error": statistics.stdev(covered) / math.sqrt(problems),
            "evidence_error_rms": math.sqrt(statistics.mean(one**2 for one in evidence)),
            "seconds": seconds}  # fmt: skip


def mixtures(options: argparse.Namespace) -> list[dict[str, object]]:
    """Both mixtures, with their own posterior and with the models that are given."""
    rows = list[dict[str, object]]()
    for model in dict.fromkeys((None, options.mixture3)):
        rows += mixture3(model, 8192 if options.quick else 65_536)
    for model in dict.fromkeys((None, options.mixture64)):
        rows += mixture64(model, 512 if options.quick else 2048, 4 if options.quick else 24)
    return rows


def digits(options: argparse.Namespace) -> list[dict[str, object]]:
    """Restored digits, and digits steered to other proportions."""
    count, steps = (DIRECTIONS, [20]) if options.quick else (options.digits, options.dps_steps)
    sampler, model = opened(options.model, options.glass), f"{options.model}{', GLASS' if options.glass else ''}"
    x = held_out(options.data, sampler, options.model, range(options.first, options.first + count))
    found, methods = problems(x, options.sigma, options.seed), restorers(steps, options.zeta)
    rows = compared(options, sampler, x, found, methods, posterior=model, sigma=options.sigma)
    if "steer".startswith(tuple(options.methods)):
        rows.append(class_tilt(sampler, model, 256 if options.quick else 2048, 8, options.seed))
    return rows


def main() -> None:
    parser = restoring_options(__doc__, 16, "posterior.json", required=False)
    parser.add_argument("--quick", action="store_true", help="fewer chains, measurements and digits")
    parser.add_argument("--mixture3", help="a model trained on mixture3")
    parser.add_argument("--mixture64", help="a model trained on mixture64, as the bundled one")
    parser.add_argument(
        "--glass", action="store_true", help="draw by the exact flow of the model's denoiser, in 16 evaluations"
    )
    parser.add_argument("--dps-steps", type=int, nargs="*", default=[100], help="DPS's numbers of steps")
    parser.add_argument("--zeta", type=float, default=1.0, help="DPS's step length")
    options = parser.parse_args()
    check_writable(options.out)
    rows = mixtures(options) if options.data is None else digits(options)
    write_rows(options.out, rows)
    Console(width=160).print(table(rows))


if __name__ == "__main__":
    main()
