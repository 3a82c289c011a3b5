"""Draw digits in one step each, and see what a seed means.

A sample is a function of the seed and its index: sample 7 is the same digit alone or among 64, and drawing in
pieces or on several machines changes nothing. More inference steps are more draws of p(x_0 | x_t), not a finer grid
of an ODE: the same seed gives another digit, a little sharper.

    python examples/draw.py    # writes digits.png
"""

from __future__ import annotations

import argparse

import torch

from stmd_sdk import Sampler, grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mnist", help="a bundled name, or a model file")
    parser.add_argument("-n", type=int, default=32)
    options = parser.parse_args()

    sampler = Sampler.from_pretrained(options.model)
    one = sampler.sample(options.n, inference_steps=1, seed=0)  # [n, 1, 28, 28] in [-1, 1], one evaluation each
    four = sampler.sample(options.n, inference_steps=4, seed=0)
    grid(torch.cat([one, four]), columns=16).save("digits.png")

    alone = sampler.sample(1, inference_steps=1, seed=0, first=7)
    print(f"sample 7 alone differs from sample 7 of {options.n} by {float((alone[0] - one[7]).abs().max()):.1e}")

    # The randomness that other few-step models lack: many x_0 for one noisy x_t.
    t = 0.5
    epsilon = torch.zeros_like(one)
    x_t = sampler.spec.schedule.marginal(one, one.new_full((len(one),), t), epsilon)
    draws = sampler.posterior(x_t, t, draws=16, seed=0)  # [16, n, 1, 28, 28]
    print(f"16 draws of p(x_0 | x_t) at t = {t}: deviation {float(draws.std(dim=0).mean()):.3f} a pixel")
    print("written to digits.png: above N = 1, below N = 4")


if __name__ == "__main__":
    main()
