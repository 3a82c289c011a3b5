"""What the library adds: `sample` over bare network calls, and training steps over plain flow matching.

    python benchmarks/overhead.py [--threads 2] [--out overhead.json]

Ratios of medians, the two sides in turn so that a drifting clock hits both. Floors: N x M bare evaluations of the
network for sampling; one forward and backward pass of the same batch for training.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from stmd_sdk.backends.torch import TorchNetwork
from stmd_sdk.noise import Noise
from stmd_sdk.sampler import Sampler
from stmd_training.losses import FlowLoss, STMDLoss
from stmd_training.recipe import load_recipe
from stmd_training.times import TimeSampler

CPU = torch.device("cpu")


def interleaved(runs: int, *sides: Callable[[], object]) -> list[list[float]]:
    """Seconds of each side over ``runs`` rounds, after one round of warm-up."""
    seconds: list[list[float]] = [[] for _ in sides]
    for round_ in range(runs + 1):
        for side, function in enumerate(sides):
            started = time.perf_counter()
            function()
            if round_ > 0:
                seconds[side].append(time.perf_counter() - started)
    return seconds


def sampling(preset: str, batch: int, steps: int, runs: int) -> dict[str, object]:
    """Overhead of ``Sampler.sample`` over its network evaluations."""
    spec = load_recipe("mnist", (f"network={preset}",)).model_spec(1.0, {})
    network = TorchNetwork(spec.build_network().eval(), CPU, torch.float32)
    sampler = Sampler(network, spec, CPU)
    x, times = torch.randn(batch, spec.in_channels, *spec.shape[1:]), torch.rand(batch, spec.times)

    def bare() -> None:
        for _ in range(steps):
            network(x, times)

    whole, floor = interleaved(runs, lambda: sampler.sample(batch, inference_steps=steps, seed=0), bare)
    overhead = [a / b - 1 for a, b in zip(whole, floor, strict=True)]
    return {
        "what": "sample over bare evaluations",
        "network": preset,
        "batch": batch,
        "N": steps,
        "M": 1,
        "seconds": statistics.median(whole),
        "overhead": statistics.median(whole) / statistics.median(floor) - 1,
        "overhead_min_max": [min(overhead), max(overhead)],
    }


def training(preset: str, share: float, batch: int, runs: int) -> dict[str, object]:
    """A step of the STMD loss over a plain flow-matching step (no row has r < τ) of the same network."""
    spec = load_recipe("mnist", (f"network={preset}",)).model_spec(1.0, {})
    module = spec.build_network()
    x_0, noise = torch.randn(batch, *spec.shape).clamp(-1, 1), Noise.of(0, batch)

    def step(moving_share: float) -> None:
        flow = FlowLoss(TimeSampler(moving_share=moving_share))
        module.zero_grad()
        STMDLoss(spec.schedule, flow=flow)(module, x_0, noise).mean().backward()

    stmd, plain = interleaved(runs, lambda: step(share), lambda: step(0.0))
    ratios = [a / b for a, b in zip(stmd, plain, strict=True)]
    return {
        "what": "training step over plain flow matching",
        "network": preset,
        "batch": batch,
        "share": share,
        "seconds": statistics.median(stmd),
        "ratio": statistics.median(stmd) / statistics.median(plain),
        "ratio_min_max": [min(ratios), max(ratios)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--networks", nargs="+", default=["unet-compact", "unet-mnist"])
    parser.add_argument("--out", type=Path, default=Path("overhead.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"CPU, {options.threads} threads, torch {torch.__version__}, float32, {options.runs} rounds")
    rows: list[dict[str, object]] = []
    for preset in options.networks:
        for batch in (16, 64):
            rows.append(sampling(preset, batch, 4, options.runs))
            print(json.dumps(rows[-1]), flush=True)
        for share in (0.25, 0.75):
            rows.append(training(preset, share, 64, options.runs))
            print(json.dumps(rows[-1]), flush=True)
    facts = {"threads": options.threads, "torch": torch.__version__, "machine": platform.machine(), "rows": rows}
    options.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
