"""How much of the randomness each objective keeps, on four problems whose posterior is known exactly.

    python benchmarks/fidelity.py --quick            two problems, the ablation's order, 3 to 4 minutes on two cores
    python benchmarks/fidelity.py --seeds 0 1 2      the whole table, resumable: a cell that is done is not run again

The ablation switches the residual target and the energy score on and off in the paper's recipe, with the same network,
batch and steps; `calibrated` is the recipe that the project ships. Beside it stand deterministic Mean Flow (trained
alike; N is its number of flow steps), DDPM's and DDIM's samplers with the exact score, which no training can better,
and the recipe that starts from local Gaussians, `local`, with what it starts from, `local, no network`.
A cell gives the kernel certificate's figures (M = 1) and, over N, the distance to the data divided by what two exact
samples of the same size show: 1 is perfect.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from fidelity_tables import STEPS, Row, markdown, plot
from jaxtyping import Float
from rich.console import Console
from solvers import ddim
from torch import Tensor

from stmd_sdk.diffusion.loop import reverse_sde, time_grid
from stmd_sdk.diffusion.network import Network
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.diffusion.posterior import Posterior
from stmd_sdk.diffusion.schedule import Schedule
from stmd_sdk.diffusion.vp import VPSchedule
from stmd_sdk.evaluation import GaussianMixture, energy_distance, kernel_certificate, mixture, sliced_w2
from stmd_sdk.files import written_whole
from stmd_sdk.models.checkpoint import save_model
from stmd_sdk.models.objective import STMD
from stmd_training.batches import batches_of
from stmd_training.fitting import measured_spec
from stmd_training.losses import Loss, STMDLoss
from stmd_training.recipe import Recipe, load_recipe
from stmd_training.steps import TrainState
from stmd_training.trainer import train

PROBLEMS = ("mixture2d", "mixture3", "mixture8", "mixture64")
TRAINED: dict[str, tuple[str, tuple[str, ...]]] = {  # the recipe's suffix, and what is set in it
    "paper": ("", ()),
    "+ residual": ("", ("target=residual",)),
    "+ energy score": ("", ("energy_score.weight=1",)),
    "both": ("", ("target=residual", "energy_score.weight=1")),
    "energy score alone": ("", ("target=residual", "energy_score.weight=1")),
    "calibrated": ("-calibrated", ()),
    "local": ("-local", ()),
    "Mean Flow": ("", ("objective=meanflow",)),
}
EXACT = ("DDPM, exact score", "DDIM, exact score")
FITTED = "local, no network"
METHODS = (*TRAINED, FITTED, *EXACT)


@dataclass(frozen=True)
class EnergyScoreLoss:
    """STMD's energy score without its flow loss."""

    whole: STMDLoss

    def __call__(self, network: Network, x_0: Float[Tensor, "b d"], noise: Noise, /) -> Float[Tensor, " b"]:
        return self.whole.score(network, x_0, self.whole.look(x_0, noise), noise.fold(4))


@dataclass(frozen=True)
class Cell:
    """One row of the table: a problem, a method, a seed, and how much is spent on it."""

    problem: str
    method: str
    seed: int
    share: float  # of the recipe's steps
    pairs: int

    def recipe(self) -> Recipe:
        suffix, settings = TRAINED[self.method]
        steps = max(1, round(load_recipe(self.problem + suffix).steps * self.share))
        return load_recipe(self.problem + suffix, (*settings, f"steps={steps}", f"seed={self.seed}"))


def run_cell(cell: Cell, out: Path) -> Row:
    """Train where there is something to train; measure; keep the row."""
    name = f"{cell.problem}-{cell.method}-{cell.seed}".replace(" ", "_").replace(",", "")
    saved = out / f"{name}.json"
    facts = {
        "problem": cell.problem,
        "method": cell.method,
        "seed": cell.seed,
        "share": cell.share,
        "pairs": cell.pairs,
    }
    if saved.exists() and (row := json.loads(saved.read_text())).items() >= facts.items():
        return row
    torch.set_num_threads(1)
    data, schedule = mixture(cell.problem), VPSchedule()
    row: Row = dict(facts)
    with torch.no_grad():
        if cell.method in EXACT:
            row["distance"] = {n: _distance(data, _exact(cell.method, data, schedule, n, cell), cell) for n in STEPS}
        elif cell.method == FITTED:
            row |= _fitted(cell, data, schedule)
        else:
            row |= _trained(cell, data, schedule, out / f"{name}.safetensors")
    with written_whole(saved) as path:
        path.write_text(json.dumps(row, indent=1) + "\n")
    return json.loads(saved.read_text())  # as a later run will read it


def _trained(cell: Cell, data: GaussianMixture, schedule: Schedule, path: Path) -> Row:
    recipe = cell.recipe()
    begun = time.process_time()
    spec = replace(
        measured_spec(recipe, data), training={"data": data.name, "steps": recipe.steps, "seed": recipe.seed}
    )
    state = TrainState.fresh(spec, recipe, torch.device("cpu"))
    loss: Loss = recipe.loss(spec, state.loss_weights)
    if cell.method == "energy score alone":
        assert isinstance(loss, STMDLoss)
        loss = EnergyScoreLoss(loss)
    with torch.enable_grad():
        for _ in train(state, loss, batches_of(data, recipe.batch_size, recipe.seed), recipe):
            pass
    row: Row = {"steps": recipe.steps, "cpu_seconds": time.process_time() - begun}
    state.network.load_state_dict(state.ema)
    save_model(path, spec, state.ema)
    if cell.method == "Mean Flow":
        draws = {n: spec.build_posterior(state.network, n) for n in STEPS}
        return row | {
            "distance": {n: _distance(data, _draw(p, data, schedule, 1, cell), cell) for n, p in draws.items()}
        }
    twice = _kernel(spec.build_posterior(state.network, 2), data, schedule, cell)
    return row | {"kernel M=2": twice} | _judged(spec.build_posterior(state.network, 1), data, schedule, cell)


def _fitted(cell: Cell, data: GaussianMixture, schedule: Schedule) -> Row:
    """What ``local`` starts from: y is noise."""
    recipe, begun = load_recipe(f"{cell.problem}-local", (f"seed={cell.seed}",)), time.process_time()
    spec = measured_spec(recipe, data)
    target = STMD("mixture", "correction").flow_target(spec.measured)
    row: Row = {"cpu_seconds": time.process_time() - begun}

    def posterior(x_t: Float[Tensor, "b d"], t: Float[Tensor, " b"], noise: Noise, /) -> Float[Tensor, "b d"]:
        return target.decode(noise.normal(*x_t.shape[1:]), x_t, t)

    return row | _judged(posterior, data, schedule, cell)


def _judged(posterior: Posterior, data: GaussianMixture, schedule: Schedule, cell: Cell) -> Row:
    """The certificate's figures, and the distance to the data over N."""
    distance = {n: _distance(data, _draw(posterior, data, schedule, n, cell), cell) for n in STEPS}
    return {"kernel M=1": _kernel(posterior, data, schedule, cell), "distance": distance}


def _kernel(posterior: Posterior, data: GaussianMixture, schedule: Schedule, cell: Cell) -> dict[str, Row]:
    figures: dict[str, Row] = {}
    for finding in kernel_certificate(posterior, data, schedule, pairs=cell.pairs).findings:
        figures.setdefault(finding.measure, {})[str(finding.t)] = finding.estimate.value
    return figures


def _size(data: GaussianMixture, cell: Cell) -> int:
    return (65536 if data.shape == (2,) else 10000) if cell.pairs >= 16384 else 10000


def _draw(posterior: Posterior, data: GaussianMixture, schedule: Schedule, n: int, cell: Cell) -> Tensor:
    noise, chunks = Noise.of(1000 + cell.seed, _size(data, cell)), list[Tensor]()
    for start in range(0, len(noise), 4096):
        *_, (_, x_0, _) = reverse_sde(posterior, schedule, time_grid(n), data.shape, noise[start : start + 4096])
        chunks.append(x_0)
    return torch.cat(chunks)


def _exact(method: str, data: GaussianMixture, schedule: Schedule, n: int, cell: Cell) -> Tensor:
    """The samplers that know the posterior's mean alone, and know it exactly."""

    def mean(x_t: Tensor, t: Tensor, _noise: Noise) -> Tensor:
        return data.posterior_mean(x_t, t, schedule)

    if method == "DDPM, exact score":
        return _draw(mean, data, schedule, n, cell)
    return ddim(mean, schedule, time_grid(n), data.shape, Noise.of(1000 + cell.seed, _size(data, cell)))


def to_exact(samples: Tensor, exact: Tensor, directions: Noise) -> float:
    """The distance of samples to exact ones: sliced W2 in the plane, the energy distance elsewhere."""
    if samples.shape[1] == 2:
        return sliced_w2(samples, exact, directions)
    return energy_distance(samples, exact, unbiased=False)


def _distance(data: GaussianMixture, samples: Tensor, cell: Cell) -> dict[str, float]:
    """To exact samples, beside what exact samples show."""
    key, n = Noise.of(2000 + cell.seed, len(samples)), len(samples)
    others, exact = data.sample(key.fold(0)), data.sample(key.fold(1))
    value, floor = (to_exact(x, others, Noise.of(3000, 256)) for x in (samples, exact))
    return {"value": value, "floor": floor, "n": n}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="mixture2d and mixture8, short training, 2,048 pairs")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=PROBLEMS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--share", type=float, default=0.3, help="of each recipe's steps; 0.3 is about three minutes")
    parser.add_argument("--pairs", type=int, default=16384, help="of the kernel certificate")
    parser.add_argument("--workers", type=int, default=2, help="processes, one thread each")
    parser.add_argument(
        "--out", type=Path, default=Path("fidelity"), help="folder of cells, and fidelity.json, .md, .png"
    )
    options = parser.parse_args()
    if options.quick:
        options.problems, options.share, options.pairs = ("mixture2d", "mixture8"), 0.025, 2048
    options.out.mkdir(parents=True, exist_ok=True)
    cells = [
        Cell(problem, method, seed, options.share, options.pairs)
        for problem in options.problems
        for method in options.methods
        for seed in (options.seeds if method not in EXACT else options.seeds[:1])
    ]
    console, rows = Console(), dict[Cell, Row]()
    with ProcessPoolExecutor(options.workers) as pool:
        waiting: dict[Future[Row], Cell] = {pool.submit(run_cell, c, options.out): c for c in cells}
        for done in as_completed(waiting):
            cell = waiting[done]
            rows[cell] = done.result()
            console.print(f"{len(rows)}/{len(cells)} {cell.problem}, {cell.method}, seed {cell.seed}", style="dim")
    ordered = [rows[cell] for cell in cells]
    facts = {"torch": torch.__version__, "machine": platform.machine(), "threads a cell": 1, "rows": ordered}
    with written_whole(options.out / "fidelity.json") as path:
        path.write_text(json.dumps(facts, indent=1) + "\n")
    plot(ordered, options.out / "fidelity.png")
    table = markdown(ordered)
    with written_whole(options.out / "fidelity.md") as path:
        path.write_text(table)
    print(table)
    console.print(f"CPU, torch {torch.__version__}, float32, M = 1; N columns: distance over that of exact samples")


if __name__ == "__main__":
    main()
