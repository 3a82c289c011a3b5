"""What to measure on a GPU, in one command that keeps to a time: card, tests, latency, a training, its judgement.

    python benchmarks/gpu.py --minutes 10 --data MNIST_DIR --out gpu
    python benchmarks/gpu.py --minutes 1 --data MNIST_DIR --out gpu --device cpu     # the same path, small

Each part is a process of its own with a limit in time, so that none stops the next, forked from one that has imported
what all of them import; report.md, beside what the parts write, is written anew after each. The training's ``steps``
are as many as fit: a step is timed first, and the schedule ends in time. It needs a checkout: the tests and the other
benchmarks.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import runpy
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from typing import final

from stmd_sdk.files import check_writable, written_whole

ROOT = Path(__file__).parents[1]
# Shares of the time: what is left after these and the judgement is the training's.
TESTS, LATENCY, STEP = 0.12, 0.25, 0.25
MOST_STEP = 90.0  # seconds that measuring a training step is given at most
TIMED = 0.9  # of the time that a training is given, what its steps are planned to take
# Its own process, which never asks for a GPU: what has asked for one cannot be forked from.
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["diffusers.models.unets.unet_2d", "diffusers.pipelines.pipeline_utils"])
# Of pytest: no checking of every call's types, which must come before any import of the project, and no error where a
# plugin is of what has been imported before it.
IMPORTED = "-o", "addopts=--import-mode=importlib", "-W", "ignore::pytest.PytestAssertRewriteWarning"


@final
@dataclass(frozen=True)
class Size:
    """How much of each part is run: options of the commands, and what is left for what follows them."""

    latency: str
    step: str
    training: tuple[str, ...]
    starting: float  # seconds of a training before its first step
    distances: str
    certificate: str
    judgement: float  # the share of the time of the last two


WHOLE = Size(
    latency="--models unet-mnist unet-cifar10 --batches 1 16 64 256 --steps 4 1 --budget 2 --rounds 15 "
    "--backends eager captured ddim loop",
    step="--steps 25",
    training=(),
    starting=15,
    distances="--steps 1,4 --n 10000",
    certificate="",
    judgement=0.2,
)
# To try the path on a CPU, which would be busy for minutes with the paper's network.
SMALL = Size(
    latency="--quick --batches 1 --budget 0.5 --rounds 3 --backends eager ddim",
    step="--steps 5",
    training=(
        "batch_size=16",
        'network={kind = "unet", channels = [32], attention = [0], groups = 8, patch_size = 4, embedding_width = 64}',
    ),
    starting=5,
    distances="--steps 1 --n 200",
    certificate="--pairs 100",
    judgement=0.35,
)


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


def run_part(command: Sequence[str], log: Path) -> None:
    """Be a Python that was started as ``python -m command``, with its output in ``log``."""
    with log.open("w") as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[reportAttributeAccessIssue]  a part may be killed
    os.chdir(ROOT)
    sys.argv = [*command]
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


def limited(command: Sequence[str | int | Path], seconds: float, log: Path) -> str:
    """Run a module and its arguments for at most ``seconds``, its output in ``log``; how it went, in words."""
    if seconds < 1:
        log.write_text("")
        return "not begun: no time was left for it, give more --minutes"
    part = FORKED.Process(target=run_part, args=([*map(str, command)], log))
    part.start()
    part.join(seconds)
    if part.is_alive():
        part.kill()
        part.join()
        return f"stopped after its {seconds:.0f} s; what it wrote by then is kept"
    return "done" if part.exitcode == 0 else f"ended with exit status {part.exitcode}: {log.name}"


def ending(log: Path, lines: int) -> str:
    """The last lines of a log, as a block of code."""
    return "```\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) + "\n```"


def settings(*pairs: str) -> list[str]:
    """Settings of a recipe, as options."""
    return [word for pair in pairs for word in ("--set", pair)]


def measured_step(options: argparse.Namespace, size: Size, seconds: float) -> tuple[str, float | None]:
    """Milliseconds a step of the recipe takes, from captured_training.py within ``seconds``."""
    out: Path = options.out / "steps.json"
    command = ["captured_training", "--recipes", options.recipe, "--precisions", "float32", "--device", options.device]
    command += ["--out", str(out), *size.step.split(), *settings(*size.training)]
    outcome = limited(command, seconds, options.out / "steps.txt")
    if not out.exists():
        return outcome, None
    return outcome, json.loads(out.read_text())["rows"][0]["milliseconds"]


def parts(options: argparse.Namespace, started: float) -> Iterator[tuple[str, str, str]]:
    """Run the parts in order; (name, outcome, what the page shows of it)."""
    out, size, whole = options.out, SMALL if options.device == "cpu" else WHOLE, 60.0 * options.minutes

    def left() -> float:
        return whole - (time.monotonic() - started)

    yield "Card", limited(["stmd_sdk", "doctor"], 60, out / "doctor.txt"), ending(out / "doctor.txt", 30)
    marked = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    outcome = limited(["pytest", "-q", "-m", "gpu", *IMPORTED, *marked], TESTS * whole, out / "tests.txt")
    yield "Tests marked gpu", outcome, ending(out / "tests.txt", 8)
    command = ["latency", "--device", options.device, "--out", out / "latency.json", "--plot", out / "latency.png"]
    outcome = limited([*command, *size.latency.split()], LATENCY * whole, out / "latency.txt")
    yield "Latency", outcome, ending(out / "latency.txt", 30)
    outcome, milliseconds = measured_step(options, size, min(MOST_STEP, STEP * whole))
    yield "A training step", outcome, ending(out / "steps.txt", 4)
    model = out / "run" / "model.safetensors"
    if milliseconds is not None:
        seconds = left() - size.judgement * whole
        steps = max(1, int(TIMED * 1e3 * (seconds - size.starting) / milliseconds))
        command = ["stmd_training", options.recipe, "--data", options.data, "--out", model.parent, "--quiet"]
        every = f"checkpoint_every={max(steps // 4, 1)}"
        chosen = settings(f"steps={steps}", "decay=cosine", "precision=float32", every, *size.training)
        outcome = limited([*command, "--device", options.device, *chosen], seconds, out / "train.txt")
        yield f"{steps} steps of {options.recipe}", outcome, ending(out / "train.txt", 4)
    if model.exists():
        command = ["stmd_sdk", "evaluate", model, "--data", options.data, "--out", out / "quality.json"]
        outcome = limited([*command, *size.distances.split()], left() / 2, out / "quality.txt")
        yield "Distances", outcome, ending(out / "quality.txt", 16)
        command = ["stmd_sdk", "certify", model, "--data", options.data, "--out", out / "certificate.json"]
        outcome = limited([*command, *size.certificate.split()], left(), out / "certificate.txt")
        yield "Certificate", outcome, ending(out / "certificate.txt", 40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--data", required=True, help="MNIST's folder of IDX files")
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    parser.add_argument("--recipe", default="mnist-calibrated")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the path")
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    page = options.out / "report.md"
    if page.exists():
        raise SystemExit(f"{page} is of an earlier run: give another --out")
    check_writable(page)
    started = before = time.monotonic()
    forkserver.ensure_running()
    import torch  # noqa: PLC0415  while the other process imports it too

    if options.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here: --device cpu tries the same path, small")
    options.data = str(Path(options.data).resolve())
    name = torch.cuda.get_device_name(options.device) if options.device != "cpu" else "CPU, to try the path"
    report = Report(options.out, f"{name}, PyTorch {torch.__version__}")
    for part, outcome, shown in parts(options, started):
        report.add(part, outcome, time.monotonic() - before, shown)
        before = time.monotonic()


if __name__ == "__main__":
    main()
