"""Export a whole sampler, noise in and digits out, and run it with ONNX Runtime and NumPy alone.

The file holds the time grid, the network, the bridge draws and the decoder. Where it runs nothing of PyTorch is
needed, nor this SDK: ``noise`` is any standard normal array [2N, n, c, h, w]. (``stmd sample --model FILE`` runs
it as well, without PyTorch too, and makes the noise of a seed, so that sample k is the sample k of
``Sampler.sample``.)

    python examples/export_and_run.py    # writes exported/ and exported.png
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import numpy as np
import onnxruntime
from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits", help="a bundled name, or a .safetensors file")
    parser.add_argument("--rows", type=int, default=4, help="rows of 16 digits")
    options = parser.parse_args()

    # What you would type, once, where PyTorch is installed.
    command = ["--ckpt", options.model, "--whole", "--inference-steps", "2", "--onnx", "--out", "exported"]
    subprocess.run(["stmd-export", *command], check=True)

    # From here on: what runs in production.
    session = onnxruntime.InferenceSession(f"exported/{options.model}-sampler-n2-m1.onnx")
    draws, _, *shape = session.get_inputs()[0].shape  # 2N, a free batch, the shape of a sample
    n = 16 * options.rows
    noise = np.random.default_rng(0).standard_normal((draws, n, *shape), np.float32)
    started = time.perf_counter()
    samples = np.asarray(session.run(["samples"], {"noise": noise})[0])
    print(f"{n} samples {list(samples.shape[1:])} in {time.perf_counter() - started:.2f} s")
    print(f"between {samples.min():.2f} and {samples.max():.2f}; PyTorch imported: {'torch' in sys.modules}")

    pixels = ((samples[:, 0].clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)
    picture = Image.fromarray(np.vstack([np.hstack(list(row)) for row in np.split(pixels, options.rows)]))
    picture.resize((4 * picture.width, 4 * picture.height), Image.Resampling.NEAREST).save("exported.png")
    print("written to exported.png")


if __name__ == "__main__":
    main()
