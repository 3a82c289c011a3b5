"""Certify a sampler that is not ours: is its p(x_0 | x_t) the right one?

To the certificate a sampler is a function (x_t, t, noise) -> x_0, whatever is inside: a network of another library,
a closed form, or here an old idea, the *bootstrap*: keep n data points and draw one of them by its likelihood
N(x_t; α_t x_i, σ_t² I). Its draws are random and lie in the right places, and even with 64 points their spread is right
to 3 %. The certificate is not deceived: the energy distance between its draws and exact ones sees that it gives back
the same few points, and the other measures tell 1,024 points from the truth too.

The one rule: all randomness comes from ``noise``, a key that gives the same numbers each time. A generator of a
sampler's own would be refused.

    python examples/certify_any_sampler.py    # half a minute
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from stmd_sdk import Noise, VPSchedule
from stmd_sdk.data import load_data
from stmd_sdk.evaluation import GaussianMixture, MixturePosterior, kernel_certificate

TIMES = (0.1, 0.3, 0.5, 1.0)

Sampler = Callable[[torch.Tensor, torch.Tensor, Noise], torch.Tensor]


def bootstrap(points: torch.Tensor, schedule: VPSchedule) -> Sampler:
    """The exact posterior of the data set ``points`` [n, d]."""

    def draw(x_t: torch.Tensor, t: torch.Tensor, noise: Noise, /) -> torch.Tensor:
        alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
        log_weights = -0.5 * (torch.cdist(x_t / alpha, points) * alpha / sigma).square()
        chosen = (log_weights.softmax(dim=1).cumsum(dim=1) < noise.uniform(1)).sum(dim=1)
        return points[chosen.clamp(max=len(points) - 1)]

    return draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4096)
    options = parser.parse_args()

    schedule, data = VPSchedule(), load_data("mixture2d")
    assert isinstance(data, GaussianMixture)
    samplers: dict[str, Sampler] = {
        f"bootstrap of {n} points": bootstrap(data.sample(Noise.of(1, n)), schedule) for n in (64, 1024)
    }
    samplers["the exact posterior"] = MixturePosterior(data, schedule)
    for name, sampler in samplers.items():
        certificate = kernel_certificate(sampler, data, schedule, pairs=options.pairs, times=TIMES)
        print(f"{name}, at t = {', '.join(f'{t:g}' for t in TIMES)}:")
        for measure in ("variance ratio", "energy distance"):  # 1 and 0 for exact draws
            values = [one.estimate.value for one in certificate.findings if one.measure == measure]
            print(f"   {measure}: {', '.join(f'{value:.3f}' for value in values)}")
        off = certificate.rejected()  # at an overall level of 0.05
        worst = f", first of all {off[0].measure} at t = {off[0].t:g}" if off else ""
        print(f"   {len(off)} of {len(certificate.tests)} tests tell its draws from exact ones{worst}")


if __name__ == "__main__":
    main()
