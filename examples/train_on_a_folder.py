"""Train on a folder of images of your own: one recipe of a few lines, one command, one model file.

The folder holds PNG, JPEG or WebP files of one size, 8-bit grey or RGB. Without one, this script draws 400 discs
of 16x16 pixels, so that it runs as it is. The recipe changes a bundled one: the shape, the network, the length.
Interrupt it at any moment and start it again: it goes on where it stopped.

    python examples/train_on_a_folder.py            # seven minutes of a core; writes samples.png
    python examples/train_on_a_folder.py --steps 20 # to see that it works
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from PIL import Image, ImageDraw

from stmd_sdk import Sampler, grid

RECIPE = """\
base = "digits-calibrated"          # a residual target, an energy score, bounded draws
data = "discs"                      # the folder
shape = [1, 16, 16]                 # channels, height, width: 3 for RGB
network = { kind = "unet", channels = [16, 32], attention = [1], groups = 8, embedding_width = 64 }
batch_size = 32
steps = 600
"""


def draw_discs(folder: Path, count: int = 400) -> None:
    """Discs of two sizes on a lattice of places, four times as large as needed and reduced, for soft edges."""
    folder.mkdir(exist_ok=True)
    for i in range(count):
        x, y, radius = 16 + 32 * (i % 5) / 4, 16 + 32 * (i // 5 % 5) / 4, 8 if i % 2 else 14
        picture = Image.new("L", (64, 64), 0)
        ImageDraw.Draw(picture).ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        picture.resize((16, 16), Image.Resampling.BOX).save(folder / f"{i:03d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()

    draw_discs(Path("discs"))
    Path("discs.toml").write_text(RECIPE)
    # What you would type: stmd-train discs.toml --set steps=600
    command = ["discs.toml", "--set", f"steps={options.steps}", "--quiet"]
    subprocess.run([sys.executable, "-m", "stmd_training", *command], check=True)

    sampler = Sampler.from_pretrained("runs/discs/model.safetensors")
    samples = sampler.sample(64, inference_steps=4, seed=0)
    grid(samples).save("samples.png")
    print(f"{options.steps} steps; 64 samples between {float(samples.min()):.2f} and {float(samples.max()):.2f}")
    print("written to samples.png")


if __name__ == "__main__":
    main()
