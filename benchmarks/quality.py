"""How near each method's samples are to the data, over network evaluations: the paper's figures 3 and 4.

    python benchmarks/quality.py --data MNIST_DIR --stmd runs/mnist/model.safetensors \
        --calibrated runs/mnist-calibrated/model.safetensors --meanflow runs/mnist-meanflow/model.safetensors \
        --ddpm runs/mnist-ddpm/model.safetensors --seeds 0 1 2

Writes OUT.json, OUT.png (Fréchet distance against evaluations) and a grid of samples over N for each method. DDIM and
DPM-Solver++ draw from DDPM's network. Beside each number stands the paper's where one is known, with its status: ours,
the paper's text, or second-hand. The paper's classifier is not published, so its numbers are orientation.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table
from solvers import ddim, dpm_solver
from torch import Tensor

from stmd_sdk.diffusion.loop import time_grid
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.errors import InvalidArgumentError
from stmd_sdk.evaluation import Quality, Reference, reference
from stmd_sdk.evaluation.statistics import spread
from stmd_sdk.files import check_writable, written_whole
from stmd_sdk.images import grid
from stmd_sdk.sampler import Sampler

BATCH = 500
COLUMNS = 10
OBJECTIVES = {"STMD": "stmd", "STMD calibrated": "stmd", "Mean Flow": "meanflow", "DDPM": "ddpm"}
Draw = Callable[[int, int, int], Tensor]
"""Samples of (how many, N, seed)."""


@dataclass(frozen=True)
class Claim:
    """A number of the paper, and where this project has it from."""

    method: str
    evaluations: int
    value: float
    status: str


CLAIMS: dict[tuple[int, ...], tuple[Claim, ...]] = {
    (1, 28, 28): (
        Claim("STMD", 1, 24, "second-hand"),
        Claim("STMD", 8, 18, "second-hand"),
        Claim("Mean Flow", 1, 28, "second-hand"),
        Claim("DDPM", 100, 16, "second-hand"),
    ),
}


@dataclass(frozen=True)
class Row:
    """One set of samples of one method."""

    method: str
    model: str
    evaluations: int
    quality: Quality
    training: dict[str, Any]


def draws_of(sampler: Sampler) -> dict[str, Draw]:
    """The ways to draw from a model: its own, and for DDPM's network DDIM and DPM-Solver++ too."""

    def own(count: int, n: int, seed: int) -> Tensor:
        return sampler.sample(count, inference_steps=n, seed=seed, batch_size=BATCH)

    def flow(count: int, n: int, seed: int) -> Tensor:
        return sampler.sample(count, inference_steps=1, mean_flow_steps=n, seed=seed, batch_size=BATCH)

    def solved(solver: Callable[..., Tensor]) -> Draw:
        spec = sampler.spec
        posterior = spec.build_posterior(sampler.network)

        def draw(count: int, n: int, seed: int) -> Tensor:
            noise, chunks = Noise.of(seed, count, device=sampler.device), list[Tensor]()
            for start in range(0, count, BATCH):
                rows = noise[start : start + BATCH]
                chunks.append(spec.codec.decode(solver(posterior, spec.schedule, time_grid(n), spec.shape, rows)))
            return torch.cat(chunks)

        return draw

    match sampler.spec.objective.kind:
        case "stmd":
            return {"STMD": own}
        case "meanflow":
            return {"Mean Flow": flow}
        case "pretrained":
            return {"GLASS": own}
        case "ddpm":
            return {"DDPM": own, "DDIM": solved(ddim), "DPM-Solver++": solved(dpm_solver)}


def measure(
    label: str, sampler: Sampler, against: Reference, steps: Sequence[int], seeds: Sequence[int], out: Path
) -> list[Row]:
    """All figures of one model, and its grids of samples: a row for each N."""
    rows: list[Row] = []
    for own_name, draw in draws_of(sampler).items():
        method = label if own_name == "STMD" else own_name
        pictures: list[Tensor] = []
        for n in steps:
            for seed in seeds:
                counts = (1, n) if method == "Mean Flow" else (n, 1)
                quality = against.measure(lambda k, n=n, seed=seed, draw=draw: draw(k, n, seed), *counts, seed)
                rows.append(Row(method, sampler.spec.name, n, quality, dict(sampler.spec.training)))
            pictures.append(draw(COLUMNS, n, seeds[0]))
        if len(against.shape) == 3:
            with written_whole(out.with_name(f"{out.name}-{method.lower().replace(' ', '-')}.png")) as path:
                grid(torch.cat(pictures), columns=COLUMNS).save(path)
    return rows


def claim_for(shape: tuple[int, ...], method: str, evaluations: int) -> Claim | None:
    """The paper's number for a method at a count of evaluations."""
    claims = CLAIMS.get(shape, ())
    return next((one for one in claims if (one.method, one.evaluations) == (method, evaluations)), None)


def table(rows: list[Row], against: Reference) -> Table:
    """Means over seeds, with the paper's numbers beside them."""
    made = Table(title=f"Fréchet distance to {len(against.vectors)} of {against.data}; {against.features.name}")
    for heading in ("method", "NFE", "FD (ours)", "precision", "recall", "the paper's", "its status", "steps", "on"):
        made.add_column(heading, justify="left" if heading in ("method", "its status", "on") else "right")
    for method, n in dict.fromkeys((row.method, row.evaluations) for row in rows):
        group = [row for row in rows if (row.method, row.evaluations) == (method, n)]
        found = [row.quality.frechet for row in group]
        near = [row.quality.neighbourhood for row in group]
        means = (statistics.mean(one.precision for one in near), statistics.mean(one.recall for one in near))
        claim, facts = claim_for(against.shape, method, n), group[0].training
        made.add_row(
            method,
            str(n),
            spread(found, 2),
            *(f"{mean:.3f}" for mean in means),
            "" if claim is None else f"{claim.value:g}",
            "" if claim is None else claim.status,
            str(facts.get("steps", "?")),
            str(facts.get("hardware", "?")),
        )
    return made


def plot(rows: list[Row], against: Reference, path: Path) -> None:
    """Fréchet distance over evaluations; the paper's numbers hollow."""
    mpl.use("agg")
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    for i, method in enumerate(dict.fromkeys(row.method for row in rows)):
        of_method = [row for row in rows if row.method == method]
        counts = list(dict.fromkeys(row.evaluations for row in of_method))
        found = [[row.quality.frechet for row in of_method if row.evaluations == n] for n in counts]
        bars = [statistics.stdev(values) if len(values) > 1 else 0 for values in found]
        means = [statistics.mean(values) for values in found]
        axes.errorbar(counts, means, bars, marker="o", color=f"C{i}", label=f"{method} (ours)")
        claims = [one for one in CLAIMS.get(against.shape, ()) if one.method == method]
        if claims:
            x, y = [one.evaluations for one in claims], [one.value for one in claims]
            axes.plot(x, y, "o", color=f"C{i}", markerfacecolor="none", label=f"{method} (paper, {claims[0].status})")
    if against.floor is not None:
        axes.axhline(against.floor, color="0.5", linestyle=":", label="training images")
    axes.set(xscale="log", yscale="log", xlabel="network evaluations a sample", ylabel="Fréchet distance")
    axes.legend(fontsize=8)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder, as stmd evaluate takes it")
    for option in ("stmd", "calibrated", "meanflow", "ddpm"):
        parser.add_argument(f"--{option}", help="a model's name or file")
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--many", nargs="*", type=int, default=[16, 32, 100], help="further steps, for DDPM's network")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--n", type=int, help="samples a set; by default 10,000 against 10,000")
    parser.add_argument("--features", help="as in stmd evaluate; by default those of the bundled classifier")
    parser.add_argument("--out", type=Path, default=Path("quality"))
    options = parser.parse_args()
    labels = {"STMD": options.stmd, "STMD calibrated": options.calibrated, "Mean Flow": options.meanflow}
    given = {label: name for label, name in {**labels, "DDPM": options.ddpm}.items() if name}
    if not given:
        parser.error("give at least one of --stmd, --calibrated, --meanflow, --ddpm")
    check_writable(options.out.with_suffix(".json"))
    samplers = {label: Sampler.from_pretrained(name) for label, name in given.items()}
    against = reference(options.data, n=options.n, features=options.features)
    for label, sampler in samplers.items():
        if sampler.spec.codec.decoded_shape(sampler.spec.shape) != against.shape:
            raise InvalidArgumentError(f"{label}: {sampler.spec.name} draws no samples of shape {list(against.shape)}")
        if sampler.spec.objective.kind != OBJECTIVES[label]:
            raise InvalidArgumentError(f"{label}: {sampler.spec.name} has objective {sampler.spec.objective.kind!r}")
    rows: list[Row] = []
    for label, sampler in samplers.items():
        steps = [*options.steps, *options.many] if sampler.spec.objective.kind == "ddpm" else options.steps
        rows += measure(label, sampler, against, steps, options.seeds, options.out)
    facts = {
        "data": against.data,
        "features": against.features.name,
        "samples": len(against.vectors),
        "floor": against.floor,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "rows": [{**asdict(row), "status": "ours"} for row in rows],
        "paper": [asdict(claim) for claim in CLAIMS.get(against.shape, ())],
    }
    with written_whole(options.out.with_suffix(".json")) as path:
        path.write_text(json.dumps(facts, indent=1) + "\n")
    plot(rows, against, options.out.with_suffix(".png"))
    Console(width=160).print(table(rows, against))


if __name__ == "__main__":
    main()
