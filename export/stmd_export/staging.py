"""Artefacts of several files, moved into place together or not at all."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from stmd_sdk.errors import OutputError
from stmd_sdk.files import landing
from stmd_sdk.locks import hidden_beside

__all__ = ["staged"]


@contextmanager
def staged(file: Path) -> Generator[Path, None, None]:
    """Give an empty folder beside ``file``; if the block succeeds, its files move there, flushed to disk.

    The caller has ``file`` locked: the folder's name depends on it alone, so that the next attempt clears what a killed
    one left. Links are followed, permissions kept, devices and pipes refused. The JSON files that stand there go first
    and the new ones come last: a crash in between leaves none that vouches for another file. Any exception leaves
    what was there as it was. Raises :class:`OutputError`.
    """
    folder = hidden_beside(file, ".parts")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield folder
        parts = sorted(folder.iterdir(), key=lambda part: (_vouches(part), part.name))
        places = {part: landing(file.with_name(part.name)) for part in parts}
        for part, place in places.items():
            if place.exists():
                part.chmod(stat.S_IMODE(place.stat().st_mode))
            with part.open("r+b") as handle:  # Windows flushes no handle that may only read
                os.fsync(handle.fileno())
        for place in filter(_vouches, places.values()):
            place.unlink(missing_ok=True)
        for part, place in places.items():
            part.replace(place)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write in {file.parent}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _vouches(path: Path) -> bool:
    return path.suffix == ".json"
