"""Draws of what held-out digits may have been: how good they are, at what cost, and the table of it.

What the benchmarks of restored digits share, whatever the measurement and whoever solves for it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from stmd_sdk import DataError, InferenceError, Noise, Sampler
from stmd_sdk.data.arrays import ArrayData
from stmd_sdk.data.load import load_data
from stmd_sdk.diffusion.posterior import PointPosterior, Posterior
from stmd_sdk.evaluation import JointDraws
from stmd_sdk.evaluation.calibration import crps, interval_coverage, lively, projected_ranks, ranks, spread_skill
from stmd_sdk.evaluation.statistics import mean_estimate
from stmd_sdk.files import written_whole

DRAWS, DIRECTIONS = 19, 8  # 19 draws make the 90 % interval from the smallest to the largest exact
Row = dict[str, Any]


@dataclass(frozen=True)
class Restored:
    """Draws [K, n, ...] of one method, what each cost, and what there is to say of the run."""

    draws: Tensor
    evaluations: int
    notes: Row


def flow_steps(sampler: Sampler) -> int:
    """M, the network's evaluations a draw."""
    return sampler.spec.flow_steps(None)


def mean_of(sampler: Sampler) -> Posterior:
    """E[x_0 | x_t] of the model, whatever the key."""
    return PointPosterior(sampler.denoiser, sampler.spec.schedule, bound=None)


def scores(x: Tensor, draws: Tensor, seed: int) -> Row:
    """How calibrated and how near the draws are, ± a standard error over the truths x [n, *d].

    Coverage of 90 % intervals, spread-skill ratio, CRPS, and the peak signal-to-noise ratio of the draws' mean in dB,
    whose peak is the 2 from black to white.
    """
    noise = Noise.of(seed, len(x)).fold(9)
    joint = JointDraws(x, x, 0.0, draws)
    pixels = ranks(x.flatten(1), draws.flatten(2), noise.fold(0))
    along = projected_ranks(joint, DIRECTIONS, noise.fold(1))
    found = {
        "pixel_coverage90": interval_coverage(pixels, DRAWS, mask=lively(joint, 1.0).flatten(1)),
        "projection_coverage90": interval_coverage(along, DRAWS),
        "spread_skill": spread_skill(joint),
        "crps": crps(joint),
        "psnr_of_mean": mean_estimate(10 * (4 / (draws.mean(dim=0) - x).square().flatten(1).mean(dim=1)).log10()),
    }
    row: Row = {name: one.value for name, one in found.items()}
    return {**row, **{f"{name}_error": one.error for name, one in found.items()}}


def scored(row: Row, x: Tensor, method: Callable[[], Restored], seed: int) -> Row:
    """A row with what a method costs and how good its draws are, or why there are none."""
    begun = time.process_time()
    try:
        restored = method()
    except InferenceError as error:
        return {**row, "failed": str(error)}
    cost = {"evaluations": restored.evaluations, "cpu_seconds": time.process_time() - begun}
    return {**row, **cost, **scores(x, restored.draws, seed), **restored.notes}


def held_out(data: Path, sampler: Sampler, model: str, digits: range) -> Tensor:
    """These rows of the test set, which must be what the model draws."""
    images = load_data(data, split="test")
    if not isinstance(images, ArrayData) or images.shape != sampler.spec.shape:
        raise DataError(f"{data}: holds no images of {list(sampler.spec.shape)}, which {model} draws")
    return images[torch.tensor(digits)]


def _several(text: str) -> int:
    """As many as there are directions, which each have a share of the digits."""
    if (number := int(text)) < DIRECTIONS:
        raise argparse.ArgumentTypeError(f"must be {DIRECTIONS} or more, got {number}")
    return number


def digit_options(description: str | None, digits: int, out: str, *, required: bool = True) -> argparse.ArgumentParser:
    """The options of a benchmark on held-out digits."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=required, help="a folder of MNIST's files: measure digits")
    parser.add_argument("--model", default="mnist", help="a model of digits")
    parser.add_argument("--digits", type=_several, default=digits, help=f"held-out digits, {DIRECTIONS} or more")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, default=0, help="of measurements and draws of digits")
    parser.add_argument("--out", type=Path, default=Path(out))
    return parser


def restoring_options(
    description: str | None, digits: int, out: str, *, required: bool = True
) -> argparse.ArgumentParser:
    """Those, and the options of a benchmark that restores them."""
    parser = digit_options(description, digits, out, required=required)
    parser.add_argument("--methods", nargs="+", default=[""], help="those whose names begin so, as gibbs or DPS")
    parser.add_argument("--problems", nargs="+", default=[""], help="those whose names begin so, as box")
    parser.add_argument("--sigma", type=float, default=0.1, help="deviation of Gaussian noise on digits")
    return parser


def compared(
    options: argparse.Namespace,
    sampler: Sampler,
    x: Tensor,
    problems: Sequence[Any],
    methods: Mapping[str, Callable[[Sampler, Any, int], Restored]],
    **facts: str | float,
) -> list[Row]:
    """One row for each method on each problem, measurements of the truths x, whose names begin as the options say."""
    rows = list[Row]()
    for problem in problems:
        if not problem.name.startswith(tuple(options.problems)):
            continue
        for name, method in methods.items():
            if not name.startswith(tuple(options.methods)):
                continue
            row: Row = {"problem": problem.name, "posterior": options.model, "method": name, "seed": options.seed,
                        "first": options.first, "digits": len(x), "draws": DRAWS, **facts}  # fmt: skip
            rows.append(scored(row, x, partial(method, sampler, problem, options.seed), options.seed))
            print(rows[-1], flush=True)
    return rows


def write_rows(out: Path, rows: list[Row], **facts: str) -> None:
    """The JSON of a benchmark, whole or not at all."""
    if not rows:
        raise SystemExit("nothing was measured: no problem, or no method, has such a name")
    own = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": "cpu", **facts}
    with written_whole(out) as path:
        path.write_text(json.dumps({**own, "rows": rows}, indent=1) + "\n")


def table(rows: list[Row]) -> Table:
    """One line a row: its figures in words, or why there are none."""
    made = Table("problem", "posterior", "method", "figures")
    for row in rows:
        figures = (f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, int | float))
        words = str(row.get("failed") or ", ".join(figures))
        made.add_row(str(row["problem"]), str(row["posterior"]), str(row["method"]), words)
    return made
