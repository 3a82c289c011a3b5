"""Held-out digits, damaged and restored: calibration of the draws beside DPS with the same network.

DPS and its like want E[x_0 | x_t], which is the model's denoiser: an evaluation of theirs is one of it, which of a
one-step model takes two of its network.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import peers
import torch
from scoring import DRAWS, Restored, Row, flow_steps, mean_of
from solvers import dps
from torch import Tensor

from stmd_sdk import GibbsDraws, InferenceWarning, Noise, Sampler
from stmd_sdk.diffusion.loop import time_grid
from stmd_sdk.diffusion.schedule import expand
from stmd_sdk.evaluation import load_classifier
from stmd_sdk.operators import Blur, GaussianNoise, LinearOperator, Mask, Measurement, average_pool
from stmd_sdk.operators.masks import box_mask, random_mask

FIRST = 100.0  # the first level of the peers
CLASS_WEIGHTS = (0, 1, 0, 1, 0, 2, 0, 2, 0, 4)


@dataclass(frozen=True)
class Problem:
    """Truths [n, 1, h, w] and one noisy measurement of each."""

    name: str
    operator: LinearOperator
    sigma: float
    x: Tensor
    y: Tensor


Method = Callable[[Sampler, Problem, int], Restored]


def problems(x: Tensor, sigma: float, seed: int) -> list[Problem]:
    """A hidden box, four pixels of five hidden, means of 4 x 4 pixels, two blurs; all with noise."""
    shape, noise = tuple(x.shape[1:]), Noise.of(seed, len(x)).fold(7)
    operators: dict[str, LinearOperator] = {
        "box of 12 x 12 hidden": Mask(box_mask(shape, 12)),
        "80 % of the pixels hidden": Mask(random_mask(shape, 0.2, seed)),
        "super-resolution x4": average_pool(shape, 4),
        "motion blur of 9 pixels": Blur.motion(9, 30.0),
        "Gaussian blur, deviation 1.5": Blur.gaussian(1.5),
    }
    model, found = GaussianNoise(sigma), list[Problem]()
    for name, operator in operators.items():
        # What a mask hides carries no noise either.
        y = operator.A(operator.A_dagger(model.draw(operator.A(x), noise)))
        found.append(Problem(name, operator, sigma, x, y))
    return found


def conditioned_draws(steps: int) -> Method:
    """Range-null space guidance in N = ``steps``."""

    def run(sampler: Sampler, problem: Problem, seed: int) -> Restored:
        given = [
            sampler.condition(problem.operator, y, sigma=problem.sigma).sample(DRAWS, inference_steps=steps, seed=key)
            for key, y in zip(_keys(seed, problem), problem.y, strict=True)
        ]
        return Restored(torch.stack(given, dim=1), steps * flow_steps(sampler), {})

    return run


def chained_draws(steps: int, moves: int) -> Method:
    """Independent Metropolis chains of ``moves`` steps, each from a guided draw of N = ``steps``."""

    def run(sampler: Sampler, problem: Problem, seed: int) -> Restored:
        starts = conditioned_draws(steps)(sampler, problem, seed).draws
        accepted, mixing, last = list[float](), list[float](), list[Tensor]()
        for i, key in enumerate(_keys(seed, problem)):
            measured = Measurement(problem.operator, problem.y[i : i + 1], GaussianNoise(problem.sigma))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", InferenceWarning)  # R̂ is in the notes
                draws = sampler.chain(
                    measured, DRAWS, steps=moves, tempering=None, start=starts[:, i], seed=key.fold(3)
                )
            accepted.append(statistics.mean(draws.acceptance.values()))
            mixing.append(draws.r_hat or 0.0)
            last.append(draws.samples)
        notes: Row = {"acceptance": statistics.mean(accepted), "r_hat_median": statistics.median(mixing)}
        return Restored(torch.stack(last, dim=1), (steps + moves) * flow_steps(sampler), notes)

    return run


def gibbs_draws(steps: int) -> Method:
    """Annealed split Gibbs sampling over ``steps`` levels, draws by themselves."""

    def run(sampler: Sampler, problem: Problem, seed: int) -> Restored:
        parts = [
            sampler.gibbs(measured, DRAWS, steps=steps, seed=key).samples
            for key, measured in zip(_keys(seed, problem), _measurements(problem), strict=True)
        ]
        return Restored(torch.stack(parts, dim=1), steps * flow_steps(sampler), {})

    return run


def resampled_draws(particles: int) -> Method:
    """Split Gibbs sampling with resampling, ``particles`` of them, of which 19 are looked at."""

    def run(sampler: Sampler, problem: Problem, seed: int) -> Restored:
        runs = list[GibbsDraws]()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InferenceWarning)  # the roots are in the notes
            for i, measured in enumerate(_measurements(problem)):
                key = Noise.of(seed, particles).fold(100 + i)
                runs.append(sampler.gibbs(measured, particles, resample=True, seed=key))
        # Copies of one particle lie side by side: every 13th or so are as good as any.
        rows = torch.linspace(0, particles - 1, DRAWS).long()
        notes: Row = {
            "particles": particles,
            "levels_median": statistics.median(len(one.levels) for one in runs),
            "roots_median": statistics.median(one.roots or 0.0 for one in runs),
        }
        evaluations = round(statistics.mean(one.evaluations for one in runs)) * flow_steps(sampler)
        return Restored(torch.stack([one.samples[rows] for one in runs], dim=1), evaluations, notes)

    return run


def _measurements(problem: Problem) -> list[Measurement]:
    return [Measurement(problem.operator, y[None], GaussianNoise(problem.sigma)) for y in problem.y]


def dps_draws(steps: int, zeta: float) -> Method:
    """DPS (Chung et al., 2022): ancestral steps of E[x_0 | x_t] less zeta ∇‖y - A E[x_0 | x_t]‖; a gradient each."""

    def run(sampler: Sampler, problem: Problem, seed: int) -> Restored:
        spec, times, mean = sampler.spec, time_grid(steps), mean_of(sampler)
        parts = [
            dps(mean, spec.schedule, times, spec.shape, key, problem.operator, y, zeta)
            for key, y in zip(_keys(seed, problem), problem.y, strict=True)
        ]
        return Restored(spec.codec.decode(torch.stack(parts, dim=1)), steps, {"zeta": zeta})

    return run


PEERS: dict[str, tuple[Callable[..., Tensor], float, int, int]] = {
    "DDRM": (peers.ddrm, 0.02, 100, 1),
    "DiffPIR": (peers.diffpir, 0.02, 100, 1),
    "DAPS": (peers.daps, 0.02, 20, 5),
    "PnP-DM": (peers.pnp_dm, 0.1, 10, 10),
}
"""Each with its last level, how many levels, and evaluations a level: 100 in all."""


def peer_draws(name: str) -> Method:
    """Another's method with the same network, which gives E[x_0 | x_t] in one evaluation."""
    method, last, levels, inner = PEERS[name]

    def run(sampler: Sampler, problem: Problem, seed: int) -> Restored:
        spec, basis = sampler.spec, peers.basis_of(problem.operator, sampler.spec.shape)
        mean, path = mean_of(sampler), peers.falling(FIRST, last, levels)
        more = {"inner": inner} if inner > 1 else {}

        def denoise(x: Tensor, sigma: float) -> Tensor:
            t = spec.schedule.time(torch.tensor(sigma)).expand(len(x))
            x_t = expand(spec.schedule.alpha(t), x) * x
            with torch.inference_mode():
                return mean(x_t.reshape(-1, *spec.shape), t, Noise.of(0, len(x))).flatten(1)

        parts = [
            method(denoise, peers.Problem.of(basis, y, problem.sigma), path, key, **more).reshape(-1, *spec.shape)
            for key, y in zip(_keys(seed, problem), problem.y, strict=True)
        ]
        return Restored(spec.codec.decode(torch.stack(parts, dim=1)), levels * inner, {})

    return run


def _keys(seed: int, problem: Problem) -> list[Noise]:
    """The keys of the draws for each truth."""
    return [Noise.of(seed, DRAWS).fold(100 + i) for i in range(len(problem.x))]


def opened(model: str, glass: bool) -> Sampler:
    """The model's sampler; with ``glass`` it draws by the exact flow of the model's denoiser instead."""
    sampler = Sampler.from_pretrained(model, device="cpu")
    if not glass:
        return sampler
    shape, codec, sigma_data = sampler.spec.shape, sampler.spec.codec, sampler.spec.sigma_data
    return Sampler.from_denoiser(sampler.denoiser, shape=shape, codec=codec, sigma_data=sigma_data, device="cpu")


def restorers(dps_steps: list[int], zeta: float) -> dict[str, Method]:
    """Every method by its name; DPS in these numbers of steps."""
    methods: dict[str, Method] = {f"condition, N = {n}": conditioned_draws(n) for n in (10, 20)}
    methods |= {f"gibbs, {n} levels": gibbs_draws(n) for n in (20, 40)}
    methods |= {f"gibbs, resampled, {n} particles": resampled_draws(n) for n in (64, 256)}
    methods["chain from condition, N = 10 + 40"] = chained_draws(10, 40)
    methods |= {f"DPS, same network, {n} steps": dps_draws(n, zeta) for n in dps_steps}
    return methods | {f"{name}, same network": peer_draws(name) for name in PEERS}


def class_tilt(sampler: Sampler, model: str, particles: int, steps: int, seed: int) -> Row:
    """Steering towards digits in the proportions p_c w_c, p_c the model's own by the bundled classifier."""
    _, classifier = load_classifier("mnist")
    weights = torch.tensor(CLASS_WEIGHTS, dtype=torch.float32)

    def classes(x: Tensor) -> Tensor:
        with torch.inference_mode():
            return classifier(x).argmax(dim=1)

    own = torch.bincount(classes(sampler.sample(particles, inference_steps=steps, seed=seed + 1)), minlength=10).float()
    target = own * weights / (own * weights).sum()
    begun = time.process_time()
    steered = sampler.steer(lambda x: weights.log()[classes(x)], particles, inference_steps=steps, seed=seed)
    seconds = time.process_time() - begun
    shares = torch.zeros(10).index_add(0, classes(steered.samples), steered.log_weights.softmax(dim=0))
    return {"problem": "class-tilted digits", "posterior": model, "method": f"steer, {particles} particles",
            "seed": seed, "evaluations": steps, "ess": steered.ess, "proportions": shares.tolist(),
            "target": target.tolist(), "l2_to_target": float((shares - target).norm()),
            "l2_to_weights": float((shares - weights / weights.sum()).norm()), "cpu_seconds": seconds}  # fmt: skip
