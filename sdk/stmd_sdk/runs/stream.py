"""Many samples to disk: drawn and encoded at the same time, resumed where they stopped, shared among processes.

A run is cut into shards of consecutive samples. A shard is written whole or not at all, so that the files
themselves say what is done, and no process need know of another: process ``rank`` of ``world`` draws the shards
rank, rank + world, ... Does not import PyTorch.
"""

from __future__ import annotations

import io
import json
import math
import os
import secrets
import shutil
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..checks import check_integer
from ..errors import InvalidArgumentError, OutputError
from ..files import check_writable, written_whole
from ..images import to_images
from ..progress import progress_bar

__all__ = ["Run", "open_output", "process", "run_seed", "stream"]

Array = NDArray[np.float32]
SHARD, SHARD_BYTES = 1000, 2**26
RECORD = "stmd-run.json"


@final
@dataclass(frozen=True)
class Run:
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


class AbstractOutput(ABC):
    """Where shards go."""

    @property
    @abstractmethod
    def record(self) -> Path:
        """The file that says what run the shards are of."""

    @abstractmethod
    def holds(self, number: int, shard: range) -> bool:
        """Whether the shard is there already."""

    @abstractmethod
    def write(self, number: int, shard: range, x: Array) -> None:
        """Write a shard's samples [len(shard), *shape]."""

    @abstractmethod
    def finish(self, shards: int) -> None:
        """Called once this process has written its last shard."""


@final
@dataclass(frozen=True)
class FolderOutput(AbstractOutput):
    """A file a sample, named by its index: PNG images, or .npy arrays of what is no image."""

    folder: Path

    @property
    def record(self) -> Path:
        """Inside the folder."""
        return self.folder / RECORD

    def holds(self, number: int, shard: range) -> bool:
        """Every sample's file is there."""
        return all(any((self.folder / _name(k, suffix)).exists() for suffix in (".png", ".npy")) for k in shard)

    def write(self, number: int, shard: range, x: Array) -> None:
        """One file after the other."""
        for k, (suffix, data) in zip(shard, _encoded(x), strict=True):
            with written_whole(self.folder / _name(k, suffix)) as path:
                path.write_bytes(data)

    def finish(self, shards: int) -> None:
        """Nothing is left to do."""


@final
@dataclass(frozen=True)
class TarOutput(AbstractOutput):
    """WebDataset shards: ``x.tar`` becomes x-000000.tar, x-000001.tar, ... of files named by sample index."""

    out: Path

    @property
    def record(self) -> Path:
        """Beside the shards."""
        return self.out.with_suffix(".json")

    def _shard(self, number: int) -> Path:
        return self.out.with_name(f"{self.out.stem}-{number:06d}.tar")

    def holds(self, number: int, shard: range) -> bool:
        """The shard's file is there."""
        return self._shard(number).exists()

    def write(self, number: int, shard: range, x: Array) -> None:
        """One tar file, without times and owners: the same samples are the same bytes."""
        with written_whole(self._shard(number)) as path, tarfile.open(path, "w") as tar:
            for k, (suffix, data) in zip(shard, _encoded(x), strict=True):
                member = tarfile.TarInfo(_name(k, suffix))
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))

    def finish(self, shards: int) -> None:
        """Nothing is left to do."""


@final
@dataclass(frozen=True)
class NpzOutput(AbstractOutput):
    """One .npz file with array x; until all shards are drawn they lie in a folder beside it."""

    out: Path

    @property
    def parts(self) -> Path:
        """The folder of unfinished runs."""
        return self.out.with_name(f".{self.out.name}.parts")

    @property
    def record(self) -> Path:
        """Among the parts."""
        return self.parts / RECORD

    def _part(self, number: int) -> Path:
        return self.parts / f"{number:06d}.npy"

    def holds(self, number: int, shard: range) -> bool:
        """The shard's part is there."""
        return self._part(number).exists()

    def write(self, number: int, shard: range, x: Array) -> None:
        """One part."""
        with written_whole(self._part(number)) as path:
            np.save(path, x, allow_pickle=False)

    def finish(self, shards: int) -> None:
        """Join the parts, one in memory at a time."""
        parts = [np.load(self._part(number), mmap_mode="r", allow_pickle=False) for number in range(shards)]
        shape = sum(len(part) for part in parts), *parts[0].shape[1:]
        header = {"descr": np.lib.format.dtype_to_descr(parts[0].dtype), "fortran_order": False, "shape": shape}
        with (
            written_whole(self.out) as path,
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("x.npy", "w", force_zip64=True) as file,
        ):
            np.lib.format.write_array_header_1_0(file, header)
            for part in parts:
                file.write(part.tobytes())
        shutil.rmtree(self.parts)


def _name(index: int, suffix: str) -> str:
    return f"{index:010d}{suffix}"


def _encoded(x: Array) -> Iterator[tuple[str, bytes]]:
    """(suffix, bytes) of each sample."""
    if x.ndim == 4 and x.shape[1] in (1, 3):
        for image in to_images(x):
            buffer = io.BytesIO()
            Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, "png")
            yield ".png", buffer.getvalue()
        return
    for sample in x:
        buffer = io.BytesIO()
        np.save(buffer, sample, allow_pickle=False)
        yield ".npy", buffer.getvalue()


def process() -> tuple[int, int]:
    """(rank, world) of this process, as torchrun and accelerate launch set them; (0, 1) without."""
    try:
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError as error:
        raise InvalidArgumentError("RANK and WORLD_SIZE in the environment must be integers") from error
    if not 0 <= rank < world:
        raise InvalidArgumentError(f"RANK in the environment must lie in [0, WORLD_SIZE = {world}), got {rank}")
    return rank, world


def open_output(out: Path, world: int) -> AbstractOutput:
    """Where ``out`` says: x.npz, x.tar (WebDataset shards), or else a folder. Refuses what cannot be written."""
    if out.suffix not in ("", ".npz", ".tar"):
        raise InvalidArgumentError(f"--out must end in .png, .npz or .tar, or be a folder, got {str(out)!r}")
    if out.suffix == ".npz" and world > 1:
        raise InvalidArgumentError("one .npz file takes one process; with several, --out must be a folder or a .tar")
    output = NpzOutput(out) if out.suffix == ".npz" else TarOutput(out) if out.suffix == ".tar" else FolderOutput(out)
    check_writable(output.record if out.suffix == "" else out)
    return output


def run_seed(output: AbstractOutput, world: int) -> int:
    """The seed of a run that was given none: that of the unfinished run there, or a fresh one."""
    seed = _read_record(output).get("seed")
    if isinstance(seed, int):
        return seed
    if world > 1:
        raise InvalidArgumentError(f"{world} processes must draw samples of one seed: give --seed")
    return secrets.randbelow(2**31)


def _read_record(output: AbstractOutput) -> dict[str, object]:
    try:
        return json.loads(output.record.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise OutputError(f"{output.record}: not the record of a run; remove it, or choose another --out") from error


def stream(draw: Callable[[int, int], Array], run: Run, output: AbstractOutput, *, show: bool = False) -> int:
    """Draw the shards of this process that are not there yet with ``draw(first, n)``; returns how many samples.

    One thread encodes and writes a shard while the next one is drawn. A run stopped at any moment goes on with
    the same call; another run's output is an error.
    """
    rank, world = process()
    record, expected = _read_record(output), json.loads(json.dumps(asdict(run)))
    if record and record != expected:
        odd = ", ".join(f"{key} {record.get(key)}" for key in expected if record.get(key) != expected[key])
        raise OutputError(f"{output.record} is of another run ({odd}); give its options again, or another --out")
    shards = run.shards()
    mine = [(number, shard) for number, shard in enumerate(shards) if number % world == rank]
    if not record and any(output.holds(number, shard) for number, shard in mine):
        raise OutputError(
            f"there are samples already, but no {output.record} to say of which run; choose another --out"
        )
    missing = [(number, shard) for number, shard in mine if not output.holds(number, shard)]
    with ThreadPoolExecutor(1) as writer, progress_bar("sampling", len(missing), "shard", show) as advance:
        written: Future[None] | None = None
        for number, shard in missing:
            x = draw(shard.start, len(shard))
            if written is None:  # not before the first draw: bad options leave nothing
                with written_whole(output.record) as path:
                    path.write_text(json.dumps(expected))
            else:
                written.result()
            written = writer.submit(output.write, number, shard, x)
            advance()
        if written is not None:
            written.result()
    output.finish(len(shards))
    return sum(len(shard) for _, shard in missing)
