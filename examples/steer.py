"""Steer samples by a reward, without training, and check the answer against the exact one.

``Sampler.steer`` draws p(x_0) exp(reward(x_0)) by sequential Monte Carlo: particles are drawn step by step and those
with more reward survive. Any function of samples will do, also one without a gradient. It estimates
log E[exp(reward)] too, which for the bundled mixture2d (eight modes on a circle) is known in closed form:

    log (1/8) Σ_j exp(2 m_j + 2 s²)   for the reward 2 x_1, modes at m_j, deviation s

    python examples/steer.py    # writes steered.png
"""

from __future__ import annotations

import argparse
import math

import torch

from stmd_sdk import Sampler, grid
from stmd_sdk.data import load_data
from stmd_sdk.evaluation import GaussianMixture


def reward(x: torch.Tensor) -> torch.Tensor:
    """Samples [n, 2] to one number each, [n]: more to the right is better."""
    return 2 * x[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=4096)
    options = parser.parse_args()

    sampler = Sampler.from_pretrained("mixture2d")
    before = sampler.sample(options.particles, inference_steps=8, seed=0)
    steered = sampler.steer(reward, options.particles, inference_steps=8, seed=0)
    after = steered.resampled(seed=0)  # equally weighted draws

    data = load_data("mixture2d")
    assert isinstance(data, GaussianMixture)
    variance = data.covariances[:, 0, 0]
    exact = float((data.weights.log() + 2 * data.means[:, 0] + 2 * variance).logsumexp(dim=0))
    print(f"log E[exp(reward)]: {steered.log_evidence:.3f}, exact {exact:.3f}")
    error = 1 / math.sqrt(steered.ess)
    print(f"{steered.ess:.0f} of {options.particles} particles are effective: a standard error of about {error:.3f}")
    shares = [float((x[:, 0] > 0).float().mean()) for x in (before, after)]
    print(f"samples on the right: {shares[0]:.0%} before, {shares[1]:.0%} after")

    beside = torch.tensor([2.2, 0.0])  # on one picture, and so at one scale
    picture = grid(torch.cat([before - beside, after + beside]))
    picture.crop((0, picture.height // 4, picture.width, 3 * picture.height // 4)).save("steered.png")
    print("written to steered.png: before on the left, after on the right")


if __name__ == "__main__":
    main()
