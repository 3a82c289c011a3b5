"""Spread over skill of a model's draws of p(x_0 | x_t) by bands of frequency, on held-out digits.

    python benchmarks/bands.py --data MNIST_DIR [--model MODEL] [--first 100] [--digits 128] [--out bands.json]

1 in every band is right. Below 1 draws are too narrow at that scale, which the sum over all scales can hide.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from rich.console import Console
from rich.table import Table
from scoring import DRAWS, Row, digit_options, held_out, write_rows
from torch import Tensor

from stmd_sdk import Noise, Sampler
from stmd_sdk.files import check_writable

TIMES = 0.03, 0.06, 0.12, 0.3, 0.5, 0.8
EDGES = 0.0, 0.06, 0.12, 0.18, 0.25, 0.35, 0.71  # cycles a pixel


def spread_skill(draws: Tensor, x: Tensor) -> list[float]:
    """√(mean variance of the draws (1 + 1/n) / mean square error of their mean), band by band, of [n, b, c, h, w]."""
    rows, columns = (torch.fft.fftfreq(side) for side in x.shape[-2:])
    radius, n = (rows[:, None].square() + columns.square()).sqrt(), len(draws)
    waves = torch.fft.fft2(draws)
    mean = waves.mean(dim=0)
    variance = (waves - mean).abs().square().sum(dim=0).mean(dim=(0, 1)) / (n - 1)
    error = (mean - torch.fft.fft2(x)).abs().square().mean(dim=(0, 1))
    bands = [(radius >= low) & (radius < high) for low, high in pairwise(EDGES)]
    return [float(((1 + 1 / n) * variance[band].mean() / error[band].mean()).sqrt()) for band in bands]


def main() -> None:
    options = digit_options(__doc__, 128, "bands.json").parse_args()
    check_writable(options.out)
    sampler = Sampler.from_pretrained(options.model, device="cpu")
    x = held_out(options.data, sampler, options.model, range(options.first, options.first + options.digits))
    key, rows = Noise.of(options.seed, len(x)), list[Row]()
    shown = Table("t", *(f"{low:g} to {high:g}" for low, high in pairwise(EDGES)))
    for k, t in enumerate(TIMES):
        x_t = sampler.spec.schedule.marginal(x, torch.full((len(x),), t), key.fold(2 * k).normal(*x.shape[1:]))
        draws = sampler.posterior(x_t, t, draws=DRAWS, seed=key.fold(2 * k + 1))
        found = spread_skill(draws, x)
        rows.append({"model": options.model, "t": t, "digits": len(x), "draws": DRAWS, "seed": options.seed,
                     "cycles_a_pixel": list(EDGES), "spread_skill": found})  # fmt: skip
        shown.add_row(f"{t:g}", *(f"{value:.2f}" for value in found))
    write_rows(options.out, rows)
    Console(width=120).print(shown)


if __name__ == "__main__":
    main()
