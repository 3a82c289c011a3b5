"""Artefacts of several files, moved into place together or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from stmd_sdk.errors import OutputError

__all__ = ["staged"]


@contextmanager
def staged(out: Path) -> Generator[Path, None, None]:
    """Give an empty folder inside ``out``; if the block succeeds, its files move to ``out``, flushed to disk.

    The JSON files move last, so that a crash in between leaves none that vouches for a missing file.
    Any exception leaves ``out`` as it was.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".stmd-", dir=out))
    except OSError as error:
        raise OutputError(f"cannot write in {out}: {error.strerror or error}") from error
    try:
        yield folder
        files = sorted(folder.iterdir(), key=lambda file: (file.suffix == ".json", file.name))
        for file in files:
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        for file in files:
            file.replace(out / file.name)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write in {out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
