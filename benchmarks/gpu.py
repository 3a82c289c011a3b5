"""What to measure on a GPU, in one command that keeps to a time: card, tests, latency, a training, its judgement.

    python benchmarks/gpu.py --minutes 10 --data MNIST_DIR --out gpu
    python benchmarks/gpu.py --minutes 2 --data MNIST_DIR --out gpu --device cpu     # the same path, small

Each part is a command of its own with a limit in time, so that none stops the next; report.md, beside what the parts
write, is written anew after each. The training's ``steps`` are as many as fit: a step is timed first, and the schedule
ends in time. It needs a checkout: the tests and the other benchmarks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import torch

from stmd_sdk.files import check_writable, written_whole

ROOT = Path(__file__).parents[1]
BENCHMARKS = Path(__file__).parent
# Shares of the time: what is left after these is the training's.
TESTS, LATENCY, STEP, JUDGEMENT = 0.12, 0.25, 0.25, 0.2
MOST_STEP = 90.0  # seconds that measuring a training step is given at most
SMALL = 8  # the batch of the path that is tried on a CPU
TIMED, STARTING = 0.9, 15.0  # of the time that a training is given, what its steps are planned to take; seconds before


@final
@dataclass
class Report:
    """What came of each part, as a page."""

    folder: Path
    title: str
    lines: list[str] = field(default_factory=list[str])

    def add(self, part: str, outcome: str, seconds: float, shown: str = "") -> None:
        """Add a part, and write the page."""
        self.lines += [f"## {part}", f"{outcome}, {seconds:.0f} s", *([shown] if shown else [])]
        print(f"{part}: {outcome}, {seconds:.0f} s", flush=True)
        with written_whole(self.folder / "report.md") as path:
            path.write_text("\n\n".join([f"# {self.title}", *self.lines]) + "\n")


def limited(command: Sequence[str | Path], seconds: float, log: Path) -> str:
    """Run a command of this Python for at most ``seconds``, its output in ``log``; how it went, in words."""
    if seconds < 1:
        log.write_text("")
        return "not begun: no time was left for it, give more --minutes"
    with log.open("w") as output:
        try:
            done = subprocess.run(
                [sys.executable, *map(str, command)],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"stopped after its {seconds:.0f} s; what it wrote by then is kept"
    return "done" if done.returncode == 0 else f"failed with exit status {done.returncode}: {log.name}"


def ending(log: Path, lines: int) -> str:
    """The last lines of a log, as a block of code."""
    return "```\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) + "\n```"


def measured_step(options: argparse.Namespace, cuda: bool, seconds: float) -> tuple[str, float | None]:
    """Milliseconds a step of the recipe takes, from captured_training.py within ``seconds``."""
    out: Path = options.out / "steps.json"
    command = [BENCHMARKS / "captured_training.py", "--recipes", options.recipe, "--precisions", "float32"]
    command += ["--device", options.device, "--out", out, "--steps", 25 if cuda else 3]
    command += [] if cuda else ["--batches", SMALL]
    outcome = limited([str(word) for word in command], seconds, options.out / "steps.txt")
    if not out.exists():
        return outcome, None
    return outcome, json.loads(out.read_text())["rows"][0]["milliseconds"]


def parts(options: argparse.Namespace, started: float) -> Iterator[tuple[str, str, str]]:
    """Run the parts in order; (name, outcome, what the page shows of it)."""
    out, cuda, whole = options.out, options.device != "cpu", 60.0 * options.minutes

    def left() -> float:
        return whole - (time.monotonic() - started)

    command = ["-c", "from stmd_sdk.cli.app import main; main()", "doctor"]
    yield "Card", limited(command, 60, out / "doctor.txt"), ending(out / "doctor.txt", 30)
    marked = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    outcome = limited(["-m", "pytest", "-q", "-m", "gpu", *marked], TESTS * whole, out / "tests.txt")
    yield "Tests marked gpu", outcome, ending(out / "tests.txt", 8)
    small = ["--models", "mnist", "--batches", "1", "--rounds", "3", "--backends", "eager", "ddim"]
    full = ["--models", "unet-mnist", "unet-cifar10", "--batches", "1", "16", "64", "256", "--steps", "4", "1"]
    command = [str(BENCHMARKS / "latency.py"), "--device", options.device, "--out", str(out / "latency.json")]
    command += ["--plot", str(out / "latency.png"), "--budget", "2" if cuda else "0.5"]
    command += [*full, "--rounds", "15", "--backends", "eager", "captured", "ddim", "loop"] if cuda else small
    yield "Latency", limited(command, LATENCY * whole, out / "latency.txt"), ending(out / "latency.txt", 30)
    outcome, milliseconds = measured_step(options, cuda, min(MOST_STEP, STEP * whole))
    yield "A training step", outcome, ending(out / "steps.txt", 4)
    model = out / "run" / "model.safetensors"
    if milliseconds is not None:
        seconds = left() - JUDGEMENT * whole
        steps = max(1, int(TIMED * 1e3 * (seconds - STARTING) / milliseconds))
        command = ["-m", "stmd_training", options.recipe, "--data", options.data, "--out", str(out / "run"), "--quiet"]
        command += ["--restart", "--device", options.device, "--set", f"steps={steps}", "--set", "decay=cosine"]
        command += ["--set", "precision=float32", "--set", f"checkpoint_every={max(steps // 4, 1)}"]
        command += [] if cuda else ["--set", f"batch_size={SMALL}"]
        outcome = limited(command, seconds, out / "train.txt")
        yield f"{steps} steps of {options.recipe}", outcome, ending(out / "train.txt", 4)
    if model.exists():
        sdk = ["-c", "from stmd_sdk.cli.app import main; main()"]
        command = [*sdk, "evaluate", str(model), "--data", options.data, "--steps", "1,4"]
        command += ["--n", "10000" if cuda else "200", "--out", str(out / "quality.json")]
        yield "Distances", limited(command, left() / 2, out / "quality.txt"), ending(out / "quality.txt", 16)
        command = [*sdk, "certify", str(model), "--data", options.data, "--out", str(out / "certificate.json")]
        command += [] if cuda else ["--pairs", "128"]
        yield "Certificate", limited(command, left(), out / "certificate.txt"), ending(out / "certificate.txt", 40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--data", required=True, help="MNIST's folder of IDX files")
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    parser.add_argument("--recipe", default="mnist-calibrated")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the path")
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here: --device cpu tries the same path, small")
    options.data = str(Path(options.data).resolve())
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    check_writable(options.out / "report.md")
    name = torch.cuda.get_device_name(options.device) if options.device != "cpu" else "CPU, to try the path"
    report, started = Report(options.out, f"{name}, PyTorch {torch.__version__}"), time.monotonic()
    before = started
    for part, outcome, shown in parts(options, started):
        report.add(part, outcome, time.monotonic() - before, shown)
        before = time.monotonic()


if __name__ == "__main__":
    main()
