"""How many evaluations a draw of p(x_0 | x_t) takes by the exact flow of a denoiser: a multistep rule against Euler.

    python benchmarks/glass.py [--pairs 1000 2000 400] [--json docs/glass.json] [--plot docs/images/glass.png]

The denoisers are those of the analytic mixtures, so that all error is the rule's. At each t, of K = 8 draws for each of
the pairs (x_0, x_t): the variance over the exact one (1 is right), and the energy distance to exact draws over theirs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl
import torch
from rich.console import Console
from rich.table import Table

from stmd_sdk import Noise, VPSchedule
from stmd_sdk.diffusion.glass import GlassVelocity
from stmd_sdk.diffusion.integrator import Integrator, average_steps, multistep
from stmd_sdk.diffusion.posterior import FlowPosterior
from stmd_sdk.diffusion.target import ResidualTarget
from stmd_sdk.evaluation import mixture
from stmd_sdk.evaluation.kernel import conditional_energy
from stmd_sdk.evaluation.oracle import oracle_pairs
from stmd_sdk.mixtures.law import GaussianMixture

mpl.use("Agg")
import matplotlib.pyplot as plt

SCHEDULE, DRAWS = VPSchedule(), 8
PROBLEMS = "mixture2d", "mixture8", "mixture64"
TIMES = 0.1, 0.3, 0.5, 1.0
STEPS = 1, 2, 4, 8, 16, 32
RULES: dict[str, Integrator] = {"Euler": average_steps, "multistep": multistep}


def measured(data: GaussianMixture, t: float, pairs: int, steps: int, rule: Integrator) -> tuple[float, float]:
    """(variance ratio, energy distance) of one rule at one t."""
    exact = oracle_pairs(data, SCHEDULE, t, Noise.of(0, pairs))
    target = ResidualTarget(SCHEDULE, data.root_mean_square())
    posterior = FlowPosterior(GlassVelocity(data.denoise, SCHEDULE, target), target, steps, integrate=rule)
    x_t = exact.x_t.repeat(DRAWS, 1)
    drawn = posterior(x_t, torch.full((len(x_t),), t), Noise.of(1, len(x_t))).reshape(DRAWS, pairs, -1)
    ratio = drawn.var(dim=0).sum(dim=1).double().mean() / exact.trace.mean()
    distance, scale = conditional_energy(drawn, exact.oracle)
    return float(ratio), float(distance.mean() / scale.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs=len(PROBLEMS), default=[1000, 2000, 400], help="of each mixture")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, str | int | float]] = []
    for name, pairs in zip(PROBLEMS, options.pairs, strict=True):
        table = Table("rule", "M", *(f"t = {t:g}" for t in TIMES), title=f"{name}, {pairs} pairs")
        for rule, integrate in RULES.items():
            for steps in STEPS:
                found = [measured(mixture(name), t, pairs, steps, integrate) for t in TIMES]
                table.add_row(rule, str(steps), *(f"{ratio:.3f} / {distance:.4f}" for ratio, distance in found))
                rows += [
                    {
                        "data": name,
                        "rule": rule,
                        "M": steps,
                        "t": t,
                        "variance ratio": ratio,
                        "energy distance": distance,
                    }
                    for t, (ratio, distance) in zip(TIMES, found, strict=True)
                ]
        Console(width=120).print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    if options.plot:
        plot(rows, options.plot)


def plot(rows: list[dict[str, str | int | float]], path: Path) -> None:
    """The variance ratio over M, worst t of each mixture."""
    figure, axes = plt.subplots(1, len(PROBLEMS), figsize=(9, 2.8), sharey=True, layout="constrained")
    for axis, name in zip(axes, PROBLEMS, strict=True):
        for rule, colour in zip(RULES, ("tab:gray", "tab:blue"), strict=True):
            for t in TIMES:
                of = [row for row in rows if (row["data"], row["rule"], row["t"]) == (name, rule, t)]
                label = rule if t == TIMES[0] else None
                axis.plot([row["M"] for row in of], [row["variance ratio"] for row in of], color=colour, label=label)
        axis.axhline(1, color="black", linewidth=0.5)
        axis.set(xscale="log", xticks=STEPS, xticklabels=STEPS, title=name, xlabel="M", ylim=(0, 1.25))
        axis.minorticks_off()
    axes[0].set_ylabel("variance / exact variance")
    axes[0].legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
