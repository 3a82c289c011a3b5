"""What a training step costs over plain flow matching of the same network and batch.

    python benchmarks/training.py [--threads 2] [--networks unet-mnist] [--out training.json]

Ratios of medians, the sides in turn so that a drifting clock hits them alike, and of the memory that a step needs at
its peak. ``energy_score`` 0 is the paper's loss, above it the calibrated one. The batch of plain flow
matching is whole, that of STMD in ``microbatches``. What a sample costs is in latency.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
from functools import partial
from pathlib import Path

import torch
from measuring import environment, interleaved, measured_machine, peak_memory, ratio_clock

from stmd_sdk.diffusion.noise import Noise
from stmd_training.losses import FlowLoss, STMDLoss
from stmd_training.processes import ALONE
from stmd_training.recipe import load_recipe
from stmd_training.scores import EnergyScore
from stmd_training.times import TimeSampler

CPU = torch.device("cpu")


def training(
    preset: str, share: float, energy_score: float, microbatches: int, batch: int, runs: int
) -> dict[str, object]:
    """A step of the STMD loss over a plain flow-matching step (no row has r < τ) of the same network."""
    spec = load_recipe("mnist", (f"network={preset}",)).model_spec(1.0, {})
    module = spec.build_network()
    x_0, noise = torch.randn(batch, *spec.shape).clamp(-1, 1), Noise.of(0, batch)

    def step(share: float, energy_score: float, microbatches: int) -> None:
        flow, score = FlowLoss(TimeSampler(moving_share=share)), EnergyScore(energy_score)
        loss = STMDLoss(spec.schedule, flow=flow, energy_score=score)
        module.zero_grad()
        for rows in ALONE.shares(microbatches):
            loss(module, x_0[rows], noise[rows]).mean().backward()

    sides = [partial(step, share, energy_score, microbatches), partial(step, 0.0, 0.0, 1)]
    _, taken = interleaved(sides, CPU, runs)
    stmd, plain = ([times[ratio_clock(CPU)] for times in side] for side in taken)
    ratios = [a / b for a, b in zip(stmd, plain, strict=True)]
    needed, floor = (peak_memory(side, CPU) for side in sides)
    return {
        "network": preset,
        "batch": batch,
        "share": share,
        "energy_score": energy_score,
        "microbatches": microbatches,
        "seconds": statistics.median(stmd),
        "ratio": statistics.median(stmd) / statistics.median(plain),
        "ratio_min_max": [min(ratios), max(ratios)],
        "memory_ratio": needed / floor if needed and floor else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--networks", nargs="+", default=["unet-compact", "unet-mnist"])
    parser.add_argument("--out", type=Path, default=Path("training.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"CPU, {options.threads} threads, torch {torch.__version__}, float32, {options.runs} rounds")
    rows: list[dict[str, object]] = []
    for preset in options.networks:
        for share, energy_score in ((0.25, 0.0), (0.75, 0.0), (0.25, 0.3)):
            for microbatches in (1, 4):
                rows.append(training(preset, share, energy_score, microbatches, 64, options.runs))
                print(json.dumps(rows[-1]), flush=True)
    facts = environment(measured_machine(CPU))
    options.out.write_text(json.dumps({"environment": facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
