"""What a teacher saves: steps and CPU seconds to the same kernel energy distance, distilled and from scratch.

    python benchmarks/distill.py [--recipe mixture64-calibrated] [--steps 3000] [--every 200] [--out distill]
    python benchmarks/distill.py --recipe mnist-compact-calibrated --teacher DDPM --data MNIST_DIR [--steps 600]

The teacher is the mixture's exact denoiser, or that of a model; its evaluations are in the seconds. Both runs have the
recipe's seed, data and losses, a constant learning rate, and differ in the flow loss's velocity alone; the curves are
of the one-step draws of their averaged weights: their distance to exact ones, or on data the CRPS of held-out images,
the mean over the certificate's times. Writes OUT.json and OUT.png. With --gradients it measures instead how far the
gradients of batches scatter, with and without the teacher, on a mixture.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from measuring import environment, measured_machine
from torch import Tensor

from stmd_sdk import ModelSpec, Noise, Sampler
from stmd_sdk.data.arrays import ArrayData
from stmd_sdk.data.load import load_data
from stmd_sdk.diffusion.denoiser import Denoiser
from stmd_sdk.diffusion.posterior import Posterior
from stmd_sdk.evaluation import Certificate, heldout_certificate, kernel_certificate
from stmd_sdk.mixtures.problems import mixture
from stmd_training.batches import TrainingData, batches_of
from stmd_training.distill import teacher_of
from stmd_training.fitting import measured_spec
from stmd_training.losses import Loss
from stmd_training.recipe import Recipe, load_recipe
from stmd_training.steps import TrainState
from stmd_training.trainer import train

MEASURES = "energy distance", "variance ratio", "CRPS", "projection coverage", "spread-skill"
ARMS = {"distilled": True, "from scratch": False}


@dataclass(frozen=True)
class Problem:
    """Data to train on, who knows its denoiser, and how a posterior is judged."""

    data: TrainingData
    teacher: Callable[[Noise], Denoiser]
    certify: Callable[[Posterior, ModelSpec], Certificate]
    judged_by: str


def mixture_problem(recipe: Recipe, pairs: int) -> Problem:
    """The recipe's mixture, its exact denoiser, and the kernel certificate."""
    law = mixture(recipe.data)

    def certify(posterior: Posterior, spec: ModelSpec) -> Certificate:
        return kernel_certificate(posterior, law, spec.schedule, seed=1, pairs=pairs)

    return Problem(law, lambda _: law.denoise, certify, "energy distance")


def model_problem(recipe: Recipe, model: str, folder: str, pairs: int) -> Problem:
    """Images of a folder, the denoiser of a model, and the certificate of held-out images."""
    sampler = Sampler.from_pretrained(model, device="cpu")
    found = [load_data(folder, split=split) for split in ("train", "test")]
    data, held_out = (one for one in found if isinstance(one, ArrayData) and one.shape == recipe.shape)
    x_0 = held_out[torch.arange(pairs)]

    def certify(posterior: Posterior, spec: ModelSpec) -> Certificate:
        return heldout_certificate(posterior, x_0, spec.schedule, spec.sigma_data, seed=1)

    return Problem(data, teacher_of(sampler).denoiser, certify, "CRPS")


def curve(recipe: Recipe, problem: Problem, taught: bool, every: int) -> list[dict[str, float]]:
    """A training run's measures, the CPU seconds of its steps alone, and the rows that its teacher saw."""
    spec, seen = measured_spec(recipe, problem.data), 0
    state = TrainState.fresh(spec, recipe, torch.device("cpu"))

    def teacher(noise: Noise) -> Denoiser:
        nonlocal seen
        seen += len(noise)
        return problem.teacher(noise)

    loss = recipe.loss(spec, state.loss_weights, teacher if taught else None)
    batches = batches_of(problem.data, recipe.batch_size, recipe.seed)
    points, spent, begun = list[dict[str, float]](), 0.0, time.process_time()
    for step in train(state, loss, batches, recipe):
        if step.step % every and step.step != recipe.steps:
            continue
        spent += time.process_time() - begun
        network = spec.build_network()
        network.load_state_dict(state.ema)
        posterior = spec.build_posterior(network.eval().requires_grad_(False))
        values: dict[str, list[float]] = defaultdict(list)
        for one in problem.certify(posterior, spec).findings:
            values[one.measure].append(one.estimate.value)
        found = {measure: statistics.mean(values[measure]) for measure in MEASURES if measure in values}
        points.append({"step": step.step, "cpu_seconds": round(spent, 2), "teacher_rows": seen, **found})
        print(json.dumps({"taught": taught, **points[-1]}), flush=True)
        begun = time.process_time()
    return points


def scatter(recipe: Recipe, batches: int = 24) -> dict[str, float]:
    """Of each loss, after a distillation: the variance of its batches' gradients over their mean's squared norm."""
    law = mixture(recipe.data)
    spec = measured_spec(recipe, law)
    state = TrainState.fresh(spec, recipe, torch.device("cpu"))
    losses: dict[str, Loss] = {}
    for kind, plan in {"flow": _unscored(recipe), "flow and score": recipe}.items():
        for who, teacher in {"distilled": lambda _: law.denoise, "from scratch": None}.items():
            losses[f"{kind}, {who}"] = plan.loss(spec, state.loss_weights, teacher)
    taught = losses["flow and score, distilled"]
    deque(train(state, taught, batches_of(law, recipe.batch_size, recipe.seed), recipe), maxlen=0)
    found: dict[str, float] = {}
    for name, loss in losses.items():
        rows: list[Tensor] = []
        for k in range(batches):
            key = Noise.of(recipe.seed + 5, recipe.batch_size).fold(k)
            value = loss(state.network, law.sample(key.fold(9)), key).mean()
            parts = torch.autograd.grad(value, list(state.network.parameters()))
            rows.append(torch.cat([part.flatten() for part in parts]))
        variance = torch.stack(rows).var(dim=0).sum()
        found[name] = float(variance / (torch.stack(rows).mean(dim=0).square().sum() - variance / batches))
    return found


def _unscored(recipe: Recipe) -> Recipe:
    return replace(recipe, energy_score=replace(recipe.energy_score, weight=0.0))


def savings(scratch: list[dict[str, float]], taught: list[dict[str, float]], judged_by: str) -> list[dict[str, float]]:
    """For each value that the run from scratch came to as its best so far: what either run had spent until then."""
    rows, best = list[dict[str, float]](), float("inf")
    for point in scratch:
        if point[judged_by] >= best:
            continue
        best = point[judged_by]
        first = next((one for one in taught if one[judged_by] <= best), None)
        if first is not None:
            shares = {f"{key}_share": first[key] / point[key] for key in ("step", "cpu_seconds")}
            rows.append({judged_by: best, "scratch_step": point["step"], **shares})
    return rows


def draw_curves(curves: dict[str, list[dict[str, float]]], judged_by: str, path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True, layout="constrained")
    for axis, key, label in zip(axes, ("step", "cpu_seconds"), ("step", "CPU seconds of training"), strict=True):
        for name, points in curves.items():
            axis.plot([one[key] for one in points], [one[judged_by] for one in points], marker=".", label=name)
        axis.set(xlabel=label, yscale="log")
    axes[0].set_ylabel(f"{judged_by} of one-step draws")
    axes[0].legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="mixture64-calibrated", help="a recipe, on a mixture without --teacher")
    parser.add_argument("--teacher", metavar="MODEL", help="a model that teaches, as a DDPM")
    parser.add_argument("--data", metavar="DIR", help="the images that it was trained on")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--every", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=2000, help="pairs or held-out images that judge")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes of the recipe")
    parser.add_argument(
        "--arms", nargs="+", default=list(ARMS), choices=list(ARMS), help="others stay as OUT.json has them"
    )
    parser.add_argument("--gradients", action="store_true", help="measure the scatter of gradients after --steps")
    parser.add_argument("--out", type=Path, default=Path("distill"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = replace(load_recipe(options.recipe, tuple(options.set)), steps=options.steps, decay="constant")
    report = options.out.with_suffix(".json")
    if (options.teacher is None) != (options.data is None):
        parser.error("--teacher and --data go together")
    if options.gradients:
        print(json.dumps(scatter(recipe), indent=1))
        return
    named = ("recipe", "teacher", "data", "steps", "pairs")
    asked = {name: getattr(options, name) for name in named} | {"settings": options.set}
    if options.teacher is None:
        problem = mixture_problem(recipe, options.pairs)
    else:
        problem = model_problem(recipe, options.teacher, options.data, options.pairs)
    result: dict[str, Any] = json.loads(report.read_text()) if report.exists() else {}
    curves = result.get("curves", {}) if asked == {key: result.get(key) for key in asked} else {}
    for name in options.arms:
        curves[name] = curve(recipe, problem, ARMS[name], options.every)
        both = curves.keys() == ARMS.keys()
        rows = savings(curves["from scratch"], curves["distilled"], problem.judged_by) if both else []
        facts = {"environment": environment(measured_machine(torch.device("cpu"))), "curves": curves, "savings": rows}
        report.write_text(json.dumps(asked | facts, indent=1) + "\n")
    draw_curves(curves, problem.judged_by, options.out.with_suffix(".png"))
    for row in json.loads(report.read_text())["savings"]:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
