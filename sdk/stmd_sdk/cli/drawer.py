"""Models opened for drawing by the shell: a network and its sampling loop, or a whole sampler in one file.

Needs no PyTorch for the latter.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from ..diffusion.classes import RANDOM, Classes, PlainLabels, parsed_label
from ..diffusion.philox import fresh_seed
from ..errors import CheckpointError, InvalidArgumentError
from ..files import check_regular, check_writable, reading, sha256_of_file, written_whole
from ..images import grid
from ..runs.cluster import workers_at
from ..runs.exported import ExportedRun, is_whole_sampler
from ..runs.outputs import open_output
from ..runs.stream import StreamedRun, process, run_seed, stream
from .options import parse_steps

__all__ = [
    "Drawer",
    "DrawnRun",
    "asked_class",
    "draw_picture",
    "draw_stream",
    "model_digest",
    "placed",
    "unchanged_digest",
]

PICTURED = 1_000_000  # samples of a picture, which are all in memory
SAMPLES, OF_EACH = 64, 8  # where the user gives no number
EACH = "each"


@final
@dataclass(frozen=True)
class Drawer:
    """A model opened for drawing: ``draw(seed, first, n, labels)``, and what the command says of it."""

    draw: Callable[[int, int, int, PlainLabels], NDArray[np.float32]]
    name: str
    shape: tuple[int, ...]
    facts: str
    device: str
    digest: str
    classes: Classes | None


@final
@dataclass(frozen=True)
class _Wanted:
    """``n`` samples: all of one class or of classes at random, or ``of_each`` as many, one class after the other."""

    n: int
    label: int | str | None = None
    of_each: int = 0
    words: str = ""

    def labels(self, start: int, count: int) -> PlainLabels:
        """The labels of ``count`` samples from number ``start`` of the run on."""
        return [k // self.of_each for k in range(start, start + count)] if self.of_each else self.label


def asked_class(text: str, classes: Classes | None, model: str) -> tuple[int | str, str]:
    """The class that ``--label`` asks of a model for, or ``RANDOM``; and what to say of it."""
    if classes is None:
        raise InvalidArgumentError(f"--label {text}: {model} has no classes to choose from")
    if classes.at_random(text):
        return RANDOM, ", classes at random"
    label = classes.number(parsed_label(text, classes))
    return label, f", class {classes.name(label)}"


@final
@dataclass(frozen=True)
class DrawnRun:
    """What ``stmd sample`` was asked for."""

    model: str
    steps: str | None
    mean_flow_steps: int | None
    device: str | None
    batch_size: int | None
    seed: int | None
    first: int
    n: int | None
    label: str | None = None
    guidance: float = 1.0
    batch_invariant: bool = False

    def wanted(self, drawer: Drawer) -> _Wanted:
        """How many samples of which classes of the model's."""
        if self.label is None:
            return _Wanted(SAMPLES if self.n is None else self.n)
        if self.label == EACH and drawer.classes is not None:
            count = drawer.classes.count
            n = OF_EACH * count if self.n is None else self.n
            if n < 1 or n % count:
                raise InvalidArgumentError(f"--label each draws as many of each of {count} classes, not --n {n} in all")
            return _Wanted(n, of_each=n // count, words=", each class in its turn")
        label, words = asked_class(self.label, drawer.classes, drawer.name)
        return _Wanted(SAMPLES if self.n is None else self.n, label, words=words)

    def open(self, *, progress: bool) -> Drawer:
        """The model, bundled or a file; a whole sampler holds its own steps."""
        path = Path(self.model)
        if not is_whole_sampler(path):
            from .sampling import sampler_drawer  # noqa: PLC0415  a whole sampler needs no PyTorch

            steps = parse_steps(self.steps)
            how = self.guidance, self.device, self.batch_size, self.batch_invariant
            return sampler_drawer(self.model, steps, self.mean_flow_steps, *how, progress)
        asked = self.steps, self.mean_flow_steps, self.guidance, self.device, self.batch_invariant
        if asked != (None, None, 1, None, False):
            raise InvalidArgumentError(
                f"{self.model} holds its steps and runs on the CPU: leave out what says otherwise"
            )
        return _whole_drawer(path, self.batch_size)

    def told(self, drawer: Drawer, wanted: _Wanted, seed: int, drawn: int, seconds: float, out: Path) -> str:
        """What was done, for the user."""
        there = "" if drawn == wanted.n else f" ({drawn} now)"
        return (
            f"{wanted.n} samples of {drawer.name}{there}: {drawer.facts}{wanted.words}, seed {seed}, "
            f"samples {self.first} to {self.first + wanted.n - 1}\n"
            f"{seconds:.2f} s on {drawer.device}, {drawn / seconds:.1f} samples a second, written to {out}"
        )


@final
@dataclass(frozen=True)
class RemoteDraw:
    """``draw(first, n)`` of a run as a value, for whichever process; each opens the model once."""

    run: DrawnRun
    digest: str
    seed: int

    def __call__(self, first: int, n: int) -> NDArray[np.float32]:
        """Samples ``first`` on. Raises :class:`CheckpointError` where the model is another one there."""
        drawer = _opened(self.run)
        if drawer.digest != self.digest:
            raise CheckpointError(f"{self.run.model}: is another file on a worker than here")
        return drawer.draw(self.seed, first, n, self.run.wanted(drawer).labels(first - self.run.first, n))


@lru_cache(1)
def _opened(run: DrawnRun) -> Drawer:
    return run.open(progress=False)


def draw_picture(run: DrawnRun, out: Path) -> str:
    """Draw the samples into one picture."""
    check_writable(out)
    if process()[1] > 1:
        raise InvalidArgumentError("a picture takes one process; with several, --out must be a folder or a .tar")
    if run.n is not None and run.n > PICTURED:
        raise InvalidArgumentError(f"a picture shows at most {PICTURED} samples: name an .npz or a folder")
    drawer, seed = run.open(progress=True), fresh_seed() if run.seed is None else run.seed
    wanted, started = run.wanted(drawer), time.perf_counter()
    picture = grid(drawer.draw(seed, run.first, wanted.n, wanted.labels(0, wanted.n)), columns=wanted.of_each or None)
    with written_whole(out) as path:
        picture.save(path)
    return run.told(drawer, wanted, seed, wanted.n, time.perf_counter() - started, out)


def draw_stream(run: DrawnRun, out: Path, ray: str | None = None) -> str:
    """Draw the samples into a folder, an .npz or shards, written while they are drawn; ``ray`` is a cluster to draw."""
    output = open_output(out, process()[1])
    drawer = run.open(progress=False)
    wanted = run.wanted(drawer)
    seed = run_seed(output, process()[1]) if run.seed is None else run.seed
    # What is said of the labels too decides the samples: a run that goes on must say the same.
    asked = StreamedRun(drawer.digest, drawer.shape, drawer.facts + wanted.words, seed, run.first, wanted.n)
    started = time.perf_counter()

    def draw(start: int, count: int) -> NDArray[np.float32]:
        return drawer.draw(seed, start, count, wanted.labels(start - run.first, count))

    remote = RemoteDraw(replace(run, model=placed(run.model)), drawer.digest, seed)
    with workers_at(ray, run.device) as every:
        drawn = stream(draw if ray is None else remote, asked, output, every=every, show=True)
    return run.told(drawer, wanted, seed, drawn, time.perf_counter() - started, out)


def placed(model: str) -> str:
    """A model as other processes find it: a path without what it is relative to."""
    return str(Path(model).absolute()) if Path(model).exists() else model


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

    def draw(seed: int, first: int, n: int, labels: PlainLabels) -> NDArray[np.float32]:
        return sampler.sample(n, labels=labels, seed=seed, first=first, batch_size=batch_size)

    facts, held = f"{sampler.inference_steps} inference steps", sampler.artefact
    facts += "" if held.label is None else f", class {held.label}"
    facts += "" if held.guidance == 1 else f", guidance {held.guidance:g}"
    return Drawer(draw, sampler.name, sampler.shape, facts, "the CPU", unchanged_digest(path, before), sampler.classes)
