"""Where the samples of a run go: a folder of files, WebDataset shards, or one .npz. Does not import PyTorch."""

from __future__ import annotations

import glob
import io
import shutil
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InvalidArgumentError, OutputError
from ..files import check_writable, is_folder, written_whole
from ..images import png_bytes, to_images
from ..locks import hidden_beside

__all__ = ["AbstractOutput", "FolderOutput", "NpzOutput", "TarOutput", "open_output"]

Array = NDArray[np.float32]
RECORD = "stmd-run.json"


class AbstractOutput(ABC):
    """Where shards go."""

    out: Path
    """As the user says it."""

    @property
    @abstractmethod
    def record(self) -> Path:
        """The file that says what run the shards are of."""

    @property
    @abstractmethod
    def lock(self) -> Path:
        """What the locks of the processes that write here lie beside."""

    @abstractmethod
    def holds(self, number: int, shard: range) -> bool:
        """Whether the shard is there already."""

    @abstractmethod
    def occupied(self) -> bool:
        """Whether there is something in the place of samples, of whatever run."""

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

    out: Path

    @property
    def record(self) -> Path:
        """Inside the folder."""
        return self.out / RECORD

    @property
    def lock(self) -> Path:
        """Inside the folder, as its parent may be another's."""
        return self.record

    def holds(self, number: int, shard: range) -> bool:
        """Every sample's file is there."""
        return all(any((self.out / _name(k, suffix)).exists() for suffix in (".png", ".npy")) for k in shard)

    def occupied(self) -> bool:
        """Anything at all that is not hidden: it may be a folder of somebody's pictures."""
        return is_folder(self.out, OutputError) and any(not path.name.startswith(".") for path in self.out.iterdir())

    def write(self, number: int, shard: range, x: Array) -> None:
        """One file after the other."""
        for k, (suffix, data) in zip(shard, _encoded(x), strict=True):
            with written_whole(self.out / _name(k, suffix)) as path:
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

    @property
    def lock(self) -> Path:
        """Beside the output."""
        return self.out

    def _shard(self, number: int) -> Path:
        return self.out.with_name(f"{self.out.stem}-{number:06d}.tar")

    def holds(self, number: int, shard: range) -> bool:
        """The shard's file is there."""
        return self._shard(number).exists()

    def occupied(self) -> bool:
        """Any shard."""
        return any(self.out.parent.glob(f"{glob.escape(self.out.stem)}-{'[0-9]' * 6}.tar"))

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

    @property
    def lock(self) -> Path:
        """Beside the output."""
        return self.out

    def _part(self, number: int) -> Path:
        return self.parts / f"{number:06d}.npy"

    def holds(self, number: int, shard: range) -> bool:
        """The shard's part is there."""
        return self._part(number).exists()

    def occupied(self) -> bool:
        """Any part."""
        return any(self.parts.glob("*.npy"))

    def write(self, number: int, shard: range, x: Array) -> None:
        """One part."""
        with written_whole(self._part(number)) as path:
            np.save(path, x, allow_pickle=False)

    def finish(self, shards: int) -> None:
        """Join the parts, one in memory at a time; then they go, all at once."""
        parts = [self._read(number) for number in range(shards)]
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
        stale = hidden_beside(self.out, ".stale")
        if stale.exists():  # of a process that was killed here
            shutil.rmtree(stale)
        self.parts.replace(stale)
        shutil.rmtree(stale)

    def _read(self, number: int) -> Array:
        path = self._part(number)
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError, TypeError) as error:
            raise OutputError(f"{path}: damaged; remove it, and give the same command again ({error})") from error


def _name(index: int, suffix: str) -> str:
    return f"{index:010d}{suffix}"


def _encoded(x: Array) -> Iterator[tuple[str, bytes]]:
    """(suffix, bytes) of each sample."""
    if x.ndim == 4 and x.shape[1] in (1, 3):
        for image in to_images(x):
            yield ".png", png_bytes(Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image))
        return
    for sample in x:
        buffer = io.BytesIO()
        np.save(buffer, sample, allow_pickle=False)
        yield ".npy", buffer.getvalue()


def open_output(out: Path, world: int) -> AbstractOutput:
    """Where ``out`` says: x.npz, x.tar (WebDataset shards), or else a folder. Refuses what cannot be written."""
    if is_folder(out, OutputError):  # whatever its name
        check_writable(FolderOutput(out).record)
        return FolderOutput(out)
    if out.suffix not in ("", ".npz", ".tar"):
        raise InvalidArgumentError(f"--out must end in .png, .npz or .tar, or be a folder, got {str(out)!r}")
    if out.suffix == ".npz" and world > 1:
        raise InvalidArgumentError("one .npz file takes one process; with several, --out must be a folder or a .tar")
    output = NpzOutput(out) if out.suffix == ".npz" else TarOutput(out) if out.suffix == ".tar" else FolderOutput(out)
    check_writable(output.record if out.suffix == "" else out)
    return output
