"""Whether two checkouts draw the same bits: what a change of structure must not move.

    python benchmarks/same_samples.py OTHER_CHECKOUT

Draws with every bundled model in both checkouts, one thread each, and compares the results bit for bit.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from stmd_sdk import Noise, Sampler
from stmd_sdk.operators import GaussianNoise, Mask, Measurement

ROOT = Path(__file__).parents[1]
MODELS = "digits", "mixture2d", "mixture64", "mnist"


def draws(model: str) -> dict[str, np.ndarray]:
    """What one model draws of each kind, by the public interface alone."""
    torch.set_num_threads(1)
    sampler = Sampler.from_pretrained(model, device="cpu")
    if getattr(sampler.spec, "one_flow_step", ""):  # which refuses M = 2, and older checkouts do not know
        sampler = replace(sampler, spec=replace(sampler.spec, one_flow_step=""))
    shape = sampler.spec.shape
    x_t = Noise.of(11, 4).normal(*shape)
    found = {
        "N = 1": sampler.sample(4, inference_steps=1, seed=0),
        "default N": sampler.sample(4, seed=3, first=5),
        "M = 2, a grid": sampler.sample(3, inference_steps=[1.0, 0.6, 0.2, 0.0], mean_flow_steps=2, seed=1),
        "batch invariant": sampler.sample(5, inference_steps=2, seed=2, first=14, batch_invariant=True),
        "posterior": sampler.posterior(x_t, 0.5, draws=3, seed=4),
        "posterior at times": sampler.posterior(x_t, torch.tensor([0.03, 0.3, 0.7, 1.0]), mean_flow_steps=2, seed=4),
        "transition": sampler.transition(x_t, 0.8, 0.4, seed=5),
        "trajectory": torch.stack([x_s for _, x_s, _ in sampler.trajectory(2, inference_steps=3, seed=6)]),
    }
    mask = Mask((torch.arange(shape[-1]) < shape[-1] / 2).expand(shape).float())
    clean = sampler.posterior(x_t[:1], 0.5, seed=8)[0]
    y = mask.A(clean)
    for sigma in (0.0, 0.1):
        given = sampler.condition(mask, y, sigma=sigma)
        found[f"condition, sigma {sigma}"] = given.sample(3, inference_steps=3, seed=9)
    if len(shape) == 1:
        likelihood = Measurement(mask, y, GaussianNoise(1.0))
        found["chain"] = sampler.chain(likelihood, 16, steps=40, seed=10).samples
        found["steer"] = sampler.steer(lambda x: -x.square().sum(dim=1), 32, seed=12).samples
    return {kind: values.numpy() for kind, values in found.items()}


def drawn_by(checkout: Path, folder: Path) -> None:
    """Draw in a process of its own, from the packages of ``checkout``."""
    for model in MODELS:
        program = f"import numpy, same_samples; numpy.savez({str(folder / model)!r}, **same_samples.draws({model!r}))"
        path = os.pathsep.join([str(checkout / "sdk"), str(Path(__file__).parent)])
        subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": path})


def _arrays(folder: str, model: str) -> np.lib.npyio.NpzFile:
    return np.load(Path(folder, f"{model}.npz"), allow_pickle=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the root of another checkout of this project")
    options = parser.parse_args()
    moved = 0
    with tempfile.TemporaryDirectory() as here, tempfile.TemporaryDirectory() as there:
        drawn_by(ROOT, Path(here))
        drawn_by(options.other, Path(there))
        for model in MODELS:
            with _arrays(here, model) as a, _arrays(there, model) as b:
                differing = [kind for kind in a.files if a[kind].tobytes() != b[kind].tobytes()]
                print(f"{model}: {len(a.files) - len(differing)} of {len(a.files)} equal bit for bit", *differing)
                moved += len(differing)
    sys.exit(moved > 0)


if __name__ == "__main__":
    main()
