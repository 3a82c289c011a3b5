"""Many samples to disk: drawn and encoded at the same time, resumed where they stopped, shared among processes.

A run is cut into shards of consecutive samples. A shard is written whole or not at all, so that the files
themselves say what is done, and no process need know of another: process ``rank`` of ``world`` draws the shards
rank, rank + world, ... Does not import PyTorch.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import cast, final

from ..checks import check_integer
from ..config import read_json
from ..diffusion.philox import fresh_seed
from ..errors import InvalidArgumentError, OutputError
from ..files import is_file, read_bytes, written_whole
from ..locks import locked
from ..progress import progress_bar
from .cluster import Every, one_by_one
from .outputs import AbstractOutput, Array

__all__ = ["StreamedRun", "claimed", "process", "run_seed", "stream"]

SHARD, SHARD_BYTES = 1000, 2**26
RECORD_BYTES, RECORD_PATIENCE = 2**20, 60.0  # of a record; seconds that another process may take to write it


@final
@dataclass(frozen=True)
class StreamedRun:
    """What samples a run draws: those that decide them all. ``model`` is the SHA-256 of the model's file."""

    model: str
    shape: tuple[int, ...]
    steps: str
    seed: int
    first: int
    n: int

    def __post_init__(self) -> None:
        check_integer("n", self.n, 1)
        check_integer("first", self.first, 0)

    def shards(self) -> list[range]:
        """The shards' sample indices; their size depends on the shape of a sample alone."""
        size = max(1, min(SHARD, SHARD_BYTES // (4 * math.prod(self.shape))))
        end = self.first + self.n
        return [range(start, min(start + size, end)) for start in range(self.first, end, size)]


def process() -> tuple[int, int]:
    """(rank, world) of this process, as torchrun and accelerate launch set them; (0, 1) without."""
    try:
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError as error:
        raise InvalidArgumentError("RANK and WORLD_SIZE in the environment must be integers") from error
    if not 0 <= rank < world:
        raise InvalidArgumentError(f"RANK in the environment must lie in [0, WORLD_SIZE = {world}), got {rank}")
    return rank, world


def run_seed(output: AbstractOutput, world: int) -> int:
    """The seed of a run that was given none: that of the unfinished run there, or a fresh one."""
    seed = _read_record(output).get("seed")
    if isinstance(seed, int):
        return seed
    if world > 1:
        raise InvalidArgumentError(f"{world} processes must draw samples of one seed: give --seed")
    return fresh_seed()


def _read_record(output: AbstractOutput) -> dict[str, object]:
    if not is_file(output.record, OutputError):
        return {}
    source = f"{output.record}: not the record of a run; remove it, or choose another --out"
    record: object = read_json(read_bytes(output.record, OutputError, RECORD_BYTES), source, OutputError)
    if not isinstance(record, dict):
        raise OutputError(source)
    return cast(dict[str, object], record)


def _check_record(output: AbstractOutput, expected: dict[str, object]) -> bool:
    """Whether there is a record, which must be that of the run."""
    record = _read_record(output)
    if record and record != expected:
        odd = ", ".join(f"{key} {record.get(key)}" for key in expected if record.get(key) != expected[key])
        raise OutputError(f"{output.record} is of another run ({odd}); give its options again, or another --out")
    return bool(record)


def stream(
    draw: Callable[[int, int], Array],
    run: StreamedRun,
    output: AbstractOutput,
    *,
    every: Every = one_by_one,
    show: bool = False,
) -> int:
    """Draw the shards of this process that are not there yet with ``draw(first, n)``; returns how many samples.

    One thread encodes and writes a shard while the next one is drawn; ``every`` may have them drawn elsewhere. A run
    stopped at any moment goes on with the same call; another run's output is an error, and so is one that another
    process of this rank is writing.
    """
    rank, world = process()
    with claimed(output, asdict(run)) as begin:
        shards = run.shards()
        mine = [(number, shard) for number, shard in enumerate(shards) if number % world == rank]
        missing = [(number, shard) for number, shard in mine if not output.holds(number, shard)]
        _write_missing(draw, missing, output, begin, every, show)
        output.finish(len(shards))
    return sum(len(shard) for _, shard in missing)


@contextmanager
def claimed(output: AbstractOutput, facts: dict[str, object]) -> Generator[Callable[[], None], None, None]:
    """Keep ``output`` for this process's part of the run that ``facts`` describe, which may have begun before.

    The value writes the run's record: to be called when there is a first result, so that bad options leave nothing.
    Raises :class:`OutputError` where there is another run's output, or one of this rank is at work.
    """
    expected: dict[str, object] = json.loads(json.dumps(facts))
    with locked(output.lock.with_name(f"{output.lock.name}.{process()[0]}"), output.out):
        occupied = output.occupied()  # before the record is looked for, which is there before results are
        if not _check_record(output, expected) and occupied:
            raise OutputError(
                f"{output.out} is not empty, and no {output.record} says of which run it is; choose another --out"
            )
        yield lambda: _write_record(output, expected)


def _write_missing(
    draw: Callable[[int, int], Array],
    missing: list[tuple[int, range]],
    output: AbstractOutput,
    begin: Callable[[], None],
    every: Every,
    show: bool,
) -> None:
    pieces = [(shard.start, len(shard)) for _, shard in missing]
    with ThreadPoolExecutor(1) as writer, progress_bar("sampling", len(missing), "shard", show) as advance:
        written: Future[None] | None = None
        for piece, x in every(draw, pieces):
            number, shard = missing[piece]
            if written is None:
                begin()
            else:
                written.result()
            written = writer.submit(output.write, number, shard, x)
            advance()
        if written is not None:
            written.result()


def _write_record(output: AbstractOutput, expected: dict[str, object]) -> None:
    """Write the record unless a process beside this one has; one of another run may have come first."""
    with locked(output.record, output.out, patience=RECORD_PATIENCE):
        if not _check_record(output, expected):
            with written_whole(output.record) as path:
                path.write_text(json.dumps(expected))
