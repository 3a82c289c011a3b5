"""Bulk restoration on Ray against one process: is it the same, how much faster, and what a kill and a restart leave.

    python benchmarks/bulk.py [--images 2000] [--draws 16] [--levels 20] [--folder bulk] [--out bulk.json]

Digits of the bundled data, enlarged to what the model draws, are restored from a mask by one process, then by Ray's
workers on this machine's cores; then by Ray once more, killed when a third is there, and started again. The files must
be the same, byte for byte: pictures and draws. An image done twice would show by its time of writing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from measuring import environment, measured_machine
from PIL import Image

from stmd_sdk.data.load import load_data
from stmd_sdk.files import sha256_of_file
from stmd_sdk.images import to_images
from stmd_sdk.models.checkpoint import read_spec, resolve_model


def pictures(folder: Path, model: str, images: int) -> list[str]:
    """Write digits, and a mask that hides their right half; the arguments of ``stmd restore`` for them."""
    side = read_spec(resolve_model(model)).shape[-1]
    digits = load_data("digits")
    rows = to_images(digits[torch.arange(images) % len(digits)])  # type: ignore[reportIndexIssue]  no mixture
    (folder / "in").mkdir(parents=True)
    for k in range(images):
        Image.fromarray(rows[k].squeeze(-1)).resize((side, side), Image.Resampling.BILINEAR).save(
            folder / "in" / f"{k:06d}.png"
        )
    mask = Image.new("L", (side, side), 255)
    mask.paste(0, (side // 2, 0, side, side))
    mask.save(folder / "mask.png")
    return [sys.executable, "-m", "stmd_sdk", "restore", str(folder / "in"), "-m", model, "--seed", "0",
            "--operator", f"mask:{folder / 'mask.png'}"]  # fmt: skip


def places(folder: Path, name: str) -> list[str]:
    """Where a run puts its pictures and draws."""
    return ["-o", str(folder / name), "--save-draws", str(folder / f"{name}-draws")]


def content(folder: Path, name: str) -> dict[str, str]:
    """The digests of a run's files."""
    found = [*(folder / name).glob("*.png"), *(folder / f"{name}-draws").glob("*.npz")]
    return {path.name: sha256_of_file(path) for path in found}


def timed(command: list[str]) -> float:
    """Seconds of a command, which must succeed."""
    began = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - began


def killed(command: list[str], made: Path, enough: int) -> dict[str, int]:
    """Kill a run and its processes when ``enough`` files are there; when each was written."""
    run = subprocess.Popen(command, start_new_session=True)
    while len(list(made.glob("*.png"))) < enough:
        if run.poll() is not None:
            raise SystemExit("the run ended before it could be killed")
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    return {path.name: path.stat().st_mtime_ns for path in made.glob("*.png")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--levels", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=Path("bulk"))
    parser.add_argument("--out", type=Path, default=Path("bulk.json"))
    options = parser.parse_args()
    folder: Path = options.folder
    command = pictures(folder, options.model, options.images)
    command += ["--draws", str(options.draws), "--steps", str(options.levels)]
    ray = ["--ray", "local"]
    alone = timed([*command, *places(folder, "alone")])
    spread = timed([*command, *places(folder, "spread"), *ray])
    before = killed([*command, *places(folder, "killed"), *ray], folder / "killed", options.images // 3)
    rest = timed([*command, *places(folder, "killed"), *ray])
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "killed").glob("*.png")}
    expected = content(folder, "alone")
    row = {
        "images": options.images,
        "draws": options.draws,
        "levels": options.levels,
        "files": len(expected),
        "alone_seconds": alone,
        "spread_seconds": spread,
        "speedup": alone / spread,
        "spread_equal": content(folder, "spread") == expected,
        "killed_at": len(before),
        "rest_seconds": rest,
        "killed_equal": content(folder, "killed") == expected,
        "done_twice": sum(after[name] != moment for name, moment in before.items()),
    }
    print(json.dumps(row, indent=1))
    facts = environment(measured_machine(torch.device("cpu")))
    options.out.write_text(json.dumps({"environment": facts, "row": row}, indent=1) + "\n")


if __name__ == "__main__":
    main()
