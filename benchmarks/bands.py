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

from stmd_sdk import Noise, Sampler
from stmd_sdk.evaluation import JointDraws, joint_draws
from stmd_sdk.evaluation.calibration import spread_skill
from stmd_sdk.evaluation.statistics import Estimate
from stmd_sdk.files import check_writable

TIMES = 0.03, 0.06, 0.12, 0.3, 0.5, 0.8
EDGES = 0.0, 0.06, 0.12, 0.18, 0.25, 0.35, 0.71  # cycles a pixel


def by_bands(joint: JointDraws) -> list[Estimate]:
    """Spread over skill of the Fourier coefficients in each band, of images."""
    rows, columns = (torch.fft.fftfreq(side) for side in joint.x_0.shape[-2:])
    radius = (rows[:, None].square() + columns.square()).sqrt()

    def within(low: float, high: float) -> JointDraws:
        band = (radius >= low) & (radius < high)
        x_0, x_t, draws = (
            torch.view_as_real(torch.fft.fft2(x)[..., band]) for x in (joint.x_0, joint.x_t, joint.draws)
        )
        return JointDraws(x_0, x_t, joint.t, draws)

    return [spread_skill(within(*band)) for band in pairwise(EDGES)]


def main() -> None:
    options = digit_options(__doc__, 128, "bands.json").parse_args()
    check_writable(options.out)
    sampler = Sampler.from_pretrained(options.model, device="cpu")
    x = held_out(options.data, sampler, options.model, range(options.first, options.first + options.digits))
    posterior, key = sampler.spec.build_posterior(sampler.network), Noise.of(options.seed, len(x))
    rows, shown = list[Row](), Table("t", *(f"{low:g} to {high:g}" for low, high in pairwise(EDGES)))
    for k, t in enumerate(TIMES):
        found = by_bands(joint_draws(posterior, sampler.spec.schedule, x, t, DRAWS, key.fold(k)))
        rows.append({"model": options.model, "t": t, "digits": len(x), "draws": DRAWS, "seed": options.seed,
                     "cycles_a_pixel": list(EDGES), "spread_skill": [one.value for one in found],
                     "spread_skill_error": [one.error for one in found]})  # fmt: skip
        shown.add_row(f"{t:g}", *(f"{one.value:.2f} ± {one.error:.2f}" for one in found))
    write_rows(options.out, rows)
    Console(width=120).print(shown)


if __name__ == "__main__":
    main()
