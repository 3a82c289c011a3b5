"""Restore a damaged image, with a map of what the damage left open.

A seven whose lower part is hidden may have been a seven, a nine, a two. Each draw of p(x_0 | y) is one answer that
meets the measurement exactly; the deviation over draws is large where the answers differ. An average of answers
would be a blur that no digit looks like.

    python examples/restore_with_uncertainty.py    # writes restored.png
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from stmd_sdk import Sampler, grid, posterior_summary
from stmd_sdk.operators import Mask


def seven() -> torch.Tensor:
    """A drawing of a seven, [1, 28, 28] in [-1, 1]; yours would come from a file."""
    drawing = Image.new("L", (112, 112), 0)
    ImageDraw.Draw(drawing).line([(34, 34), (78, 34), (52, 88)], fill=255, width=9, joint="curve")
    small = drawing.filter(ImageFilter.GaussianBlur(2)).resize((28, 28), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(small, np.float32))[None] / 127.5 - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=39)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()

    mask = torch.ones(1, 28, 28)
    mask[:, 12:] = 0  # 1 keeps a pixel, 0 hides it
    damage = Mask(mask)
    y = damage.A(seven()[None])  # [1, 1, 28, 28]

    sampler = Sampler.from_pretrained("mnist").condition(damage, y)
    draws = sampler.sample(options.draws, inference_steps=options.steps, seed=0)
    summary = posterior_summary(draws)  # mean, deviation, median, 90 % intervals of each pixel

    met = float((damage.A(draws) - y).abs().max())
    hidden, shown = summary.deviation[mask == 0].mean(), summary.deviation[mask == 1].mean()
    print(f"the measurement is met to {met:.1e}; deviation {hidden:.2f} where hidden, {shown:.2f} where shown")
    top = torch.stack([y[0], summary.mean, 2 * summary.deviation - 1])
    grid(torch.cat([top, draws]), columns=7).save("restored.png")
    print("written to restored.png: the measurement, the mean, the deviation, and then the draws")


if __name__ == "__main__":
    main()
