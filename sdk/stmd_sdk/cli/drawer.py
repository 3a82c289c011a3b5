"""Models opened for drawing by the shell: a network and its sampling loop, or a whole sampler in one file.

Needs no PyTorch for the latter.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from ..diffusion.philox import fresh_seed
from ..errors import CheckpointError, InvalidArgumentError
from ..files import check_regular, check_writable, reading, sha256_of_file, written_whole
from ..images import grid
from ..runs.exported import ExportedRun, is_whole_sampler
from ..runs.outputs import open_output
from ..runs.stream import StreamedRun, process, run_seed, stream
from .options import parse_steps

__all__ = ["Drawer", "DrawnRun", "draw_picture", "draw_stream", "model_digest", "unchanged_digest"]

PICTURED = 1_000_000  # samples of a picture, which are all in memory


@final
@dataclass(frozen=True)
class Drawer:
    """A model opened for drawing: ``draw(seed, first, n)``, and what the command says of it."""

    draw: Callable[[int, int, int], NDArray[np.float32]]
    name: str
    shape: tuple[int, ...]
    facts: str
    device: str
    digest: str


@final
@dataclass(frozen=True)
class DrawnRun:
    """What ``stmd sample`` was asked for."""

    model: str
    steps: str | None
    mean_flow_steps: int
    device: str | None
    batch_size: int | None
    seed: int | None
    first: int
    n: int

    def open(self, *, progress: bool) -> Drawer:
        """The model, bundled or a file; a whole sampler holds its own steps."""
        path = Path(self.model)
        if path.suffix != ".onnx" or not is_whole_sampler(path):
            from .sampling import sampler_drawer  # noqa: PLC0415  a whole sampler needs no PyTorch

            steps = parse_steps(self.steps)
            return sampler_drawer(self.model, steps, self.mean_flow_steps, self.device, self.batch_size, progress)
        if self.steps is not None or self.mean_flow_steps != 1 or self.device is not None:
            raise InvalidArgumentError(
                f"{self.model} holds its steps and runs on the CPU: leave out what says otherwise"
            )
        return _whole_drawer(path, self.batch_size)

    def told(self, drawer: Drawer, seed: int, drawn: int, seconds: float, out: Path) -> str:
        """What was done, for the user."""
        there = "" if drawn == self.n else f" ({drawn} now)"
        return (
            f"{self.n} samples of {drawer.name}{there}: {drawer.facts}, seed {seed}, "
            f"samples {self.first} to {self.first + self.n - 1}\n"
            f"{seconds:.2f} s on {drawer.device}, {drawn / seconds:.1f} samples a second, written to {out}"
        )


def draw_picture(run: DrawnRun, out: Path) -> str:
    """Draw the samples into one picture."""
    check_writable(out)
    if process()[1] > 1:
        raise InvalidArgumentError("a picture takes one process; with several, --out must be a folder or a .tar")
    if run.n > PICTURED:
        raise InvalidArgumentError(f"a picture shows at most {PICTURED} samples: name an .npz or a folder")
    drawer, seed = run.open(progress=True), fresh_seed() if run.seed is None else run.seed
    started = time.perf_counter()
    picture = grid(drawer.draw(seed, run.first, run.n))
    with written_whole(out) as path:
        picture.save(path)
    return run.told(drawer, seed, run.n, time.perf_counter() - started, out)


def draw_stream(run: DrawnRun, out: Path) -> str:
    """Draw the samples into a folder, an .npz or shards, written while they are drawn."""
    output = open_output(out, process()[1])
    drawer = run.open(progress=False)
    seed = run_seed(output, process()[1]) if run.seed is None else run.seed
    asked = StreamedRun(drawer.digest, drawer.shape, drawer.facts, seed, run.first, run.n)
    started = time.perf_counter()
    drawn = stream(lambda start, count: drawer.draw(seed, start, count), asked, output, show=True)
    return run.told(drawer, seed, drawn, time.perf_counter() - started, out)


def model_digest(path: Path) -> str:
    """The SHA-256 of a model's file."""
    check_regular(path, CheckpointError)
    with reading(path, CheckpointError):
        return sha256_of_file(path)


def unchanged_digest(path: Path, before: str) -> str:
    """The digest of a model that has been opened: which file the samples are of is what a run's record says."""
    if model_digest(path) != before:
        raise CheckpointError(f"{path}: was replaced while it was loaded; give the same command again")
    return before


def _whole_drawer(path: Path, batch_size: int | None) -> Drawer:
    before = model_digest(path)
    sampler = ExportedRun.open(path)

    def draw(seed: int, first: int, n: int) -> NDArray[np.float32]:
        return sampler.sample(n, seed=seed, first=first, batch_size=batch_size)

    facts = f"{sampler.inference_steps} inference steps"
    return Drawer(draw, sampler.name, sampler.shape, facts, "the CPU", unchanged_digest(path, before))
