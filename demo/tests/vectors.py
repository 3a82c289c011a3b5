"""Writes vectors.json, by which the page's TypeScript is held to the SDK: python demo/tests/vectors.py.

The network is a formula, the same on both sides: x_0 = 0.5 z - 0.4 t x_t + 0.02 label.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stmd_sdk import Noise, Sampler
from stmd_sdk.inference.gibbs import WIDE, coupling_levels
from stmd_sdk.models.checkpoint import read_spec, resolve_model
from stmd_sdk.operators import GaussianNoise, Mask, Measurement, strokes_mask

FILE = Path(__file__).with_name("vectors.json")
SPEC = read_spec(resolve_model("mnist"))
SIGMA, LEVELS = 0.1, 5


def network(x: Tensor, times: Tensor) -> Tensor:
    """The formula."""
    t, label = (times[:, k, None, None, None] for k in (2, 3))
    return 0.5 * x[:, :1] - 0.4 * t * x[:, 1:] + 0.02 * label


def told(x: Tensor) -> list[list[float]]:
    """Nine pixels of each picture, spread over it, and its mean."""
    rows = x.flatten(1)
    return torch.cat([rows[:, ::97], rows.mean(dim=1, keepdim=True)], dim=1).tolist()


def normals() -> list[dict[str, Any]]:
    """Normals of keys: the last seed is the largest that JavaScript counts exactly, the last index that of a key."""
    cases = [(0, (), 0, 2, 7), (5, (3,), 11, 3, 4), (2**53 - 1, (12, 1, 2), 2**32 - 2, 2, 6)]
    found: list[dict[str, Any]] = []
    for seed, path, first, rows, count in cases:
        noise = Noise.of(seed, rows, first=first)
        for i in path:
            noise = noise.fold(i)
        drawn = {"words": noise.words(count).tolist(), "normals": noise.normal(count).tolist()}
        found.append({"seed": seed, "path": path, "first": first, "rows": rows, "count": count, **drawn})
    return found


def schedule() -> dict[str, Any]:
    """Times of noise levels, and bridges, in float64."""
    ratios, pairs = [0.01, 0.1, 1.0, 2.9, 200.0], [(1.0, 0.75), (0.5, 0.25), (0.25, 0.125)]
    one = torch.tensor(1.0, dtype=torch.float64)
    bridges: list[list[float]] = []
    for t, s in pairs:
        at, left = (torch.tensor([value], dtype=torch.float64) for value in (t, s))
        units = [one.new_tensor([[float(i == k)] for k in range(3)]) for i in range(3)]
        bridges.append([float(SPEC.schedule.bridge(*(u[i : i + 1] for u in units[:2]), at, left, units[2][i : i + 1]))
                        for i in range(3)])  # fmt: skip
    return {
        "times": [[ratio, float(SPEC.schedule.time(ratio * one))] for ratio in ratios],
        "alphas": [[t, float(SPEC.schedule.alpha(t * one))] for t in (0.001, 0.5, 1.0)],
        "bridges": [[*pair, *weights] for pair, weights in zip(pairs, bridges, strict=True)],
    }


def vectors() -> dict[str, Any]:
    """All of it."""
    sampler, labels = Sampler(network, SPEC, torch.device("cpu")), [3, 0, 9]
    mask = strokes_mask(SPEC.shape, 3, 0, 4.0)
    y = mask * network(Noise.of(9, 1).normal(2, 28, 28), torch.tensor([[1.0, 1.0, 0.2, 5.0]])).clamp(-1, 1)
    measured = Measurement(Mask(mask), y, GaussianNoise(SIGMA))
    given = {"steps": LEVELS, "seed": Noise.of(7, 3, first=2)}
    restored = {str(label): told(sampler.gibbs(measured, 3, labels=label, **given).samples) for label in (None, 4)}
    facts = json.loads(SPEC.to_json())
    return {
        "spec": {key: facts[key] for key in ("name", "objective", "shape", "schedule", "sigma_data", "classes")},
        "normals": normals(),
        "schedule": schedule(),
        "couplings": coupling_levels(WIDE * SPEC.sigma_data, SIGMA, LEVELS),
        "samples": {
            str(n): told(sampler.sample(3, inference_steps=n, labels=labels, seed=7, first=2)) for n in (1, 3, 8)
        },
        "unlabelled": told(sampler.sample(3, inference_steps=2, seed=7, first=2)),
        "measurement": {"sigma": SIGMA, "levels": LEVELS, "mask": mask.flatten().tolist(), "y": y.flatten().tolist()},
        "restored": restored,
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), separators=(",", ":")) + "\n", encoding="utf-8")
