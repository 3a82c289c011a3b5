"""What a training step takes on a GPU: one CUDA graph replayed, beside the same step launched kernel by kernel.

    python benchmarks/captured_training.py [--recipes mnist-calibrated] [--batches 64 256] [--out captured.json]

Milliseconds a step over ``--steps`` steps between two reads, the data on the device; the capture is not in them and
stands beside. On a CPU (``--device cpu``) nothing is captured, and the same path runs small.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from measuring import environment, measured_machine

from stmd_sdk.data.arrays import ArrayData
from stmd_sdk.diffusion.noise import Noise
from stmd_sdk.files import written_whole
from stmd_sdk.runs.captured import CudaGraphs
from stmd_training.batches import batches_of, resident
from stmd_training.device_steps import Record, uncaptured
from stmd_training.recipe import Recipe, load_recipe
from stmd_training.steps import TrainState
from stmd_training.trainer import train

ROWS = 4096  # of synthetic data: a step does not ask what they show


@dataclass(frozen=True)
class Row:
    """The steps of one recipe, one way."""

    recipe: str
    precision: str
    batch: int
    way: str
    parameters: int
    first_seconds: float
    milliseconds: float
    loss: float


def synthetic(recipe: Recipe) -> ArrayData:
    """Images of noise."""
    values = (Noise.of(0, ROWS).uniform(*recipe.shape) * 255).to(torch.uint8)
    labels = torch.arange(ROWS) % recipe.classes if recipe.classes else None
    return ArrayData("noise", values, recipe.codec, labels)


def timed(recipe: Recipe, way: str, steps: int, device: torch.device) -> Row:
    """Time ``steps`` steps after as many that are not counted."""
    spec = recipe.model_spec(1.0, {})
    state = TrainState.fresh(spec, recipe, device)
    batches = batches_of(resident(synthetic(recipe), device), recipe.batch_size, recipe.seed)
    record: Record | None = None
    if device.type == "cuda":
        record = CudaGraphs(device).record if way == "captured" else uncaptured
    run = replace(recipe, steps=2 * steps + 1, log_every=steps, sample_every=10**9, checkpoint_every=10**9)
    started = time.perf_counter()
    found = train(state, recipe.loss(spec, state.loss_weights), batches, run, record=record)
    times = [(step, time.perf_counter() - started) for step in found if step.step % steps == 0]
    (_, first), (last, second) = times[:2]
    parameters = sum(parameter.numel() for parameter in state.network.parameters())
    taken = (second - first) / steps
    return Row(recipe.name, recipe.precision, recipe.batch_size, way, parameters, first, 1e3 * taken, last.loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["mnist-compact-classes", "mnist-calibrated"])
    parser.add_argument("--batches", nargs="+", type=int, default=[64])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as stmd-train takes it")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("captured.json"))
    options = parser.parse_args()
    device = torch.device(options.device)
    facts = environment(measured_machine(device))
    print(f"{device.type.upper()}: {facts['device']}, torch {torch.__version__}", flush=True)
    rows: list[Row] = []
    for name in options.recipes:
        for precision in options.precisions:
            for batch in options.batches:
                settings = (f"precision={precision}", f"batch_size={batch}", *options.set)
                for way in ("captured", "eager") if device.type == "cuda" else ("eager",):
                    rows.append(timed(load_recipe(name, settings), way, options.steps, device))
                    print(json.dumps(asdict(rows[-1])), flush=True)
                with written_whole(options.out) as path:  # after each: what is measured is not lost
                    path.write_text(json.dumps({"environment": facts, "rows": [*map(asdict, rows)]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
