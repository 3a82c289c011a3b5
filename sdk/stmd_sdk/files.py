"""Files are written whole or not at all, and read only where they are what they should be."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError, StmdError

__all__ = [
    "brief",
    "check_regular",
    "check_writable",
    "is_file",
    "is_folder",
    "read_bytes",
    "reading",
    "refuse_pointer",
    "written_whole",
]

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
SHOWN = 200
"""Characters of a foreign value or path that an error quotes."""


@contextmanager
def written_whole(path: Path) -> Generator[Path, None, None]:
    """Give a temporary path beside ``path``; move it there, flushed to disk, if the block succeeds.

    A crash, a full disk or an exception leaves whatever was at ``path`` as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Raise now if a file could not be written at ``path`` later, before any work is lost."""
    folder = path.parent
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder")
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {path}: no permission in {folder}")


def brief(text: str) -> str:
    """``text``, cut in its middle where it is too long for a message of one line."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 60]} … {text[-50:]}"


@contextmanager
def reading(path: Path, error: type[StmdError]) -> Generator[None, None, None]:
    """Turn whatever the system says while ``path`` is read (no permission, too long a name) into one ``error``."""
    try:
        yield
    except StmdError:
        raise
    except OSError as reason:
        raise error(f"{brief(str(path))}: cannot be read ({reason.strerror or reason})") from reason


def is_file(path: Path, error: type[StmdError]) -> bool:
    """Whether anything but a folder is at ``path``; ``error`` where that cannot be known.

    Path's own ``is_file`` raises bare errors of the system below a folder that one may not search.
    """
    found = _stat(path, error)
    return found is not None and not stat.S_ISDIR(found.st_mode)


def is_folder(path: Path, error: type[StmdError]) -> bool:
    """Whether a folder is at ``path``; ``error`` where that cannot be known."""
    found = _stat(path, error)
    return found is not None and stat.S_ISDIR(found.st_mode)


def check_regular(path: Path, error: type[StmdError]) -> None:
    """Raise ``error`` unless a regular file is at ``path``: a pipe or a device would be read for ever."""
    found = _stat(path, error)
    if found is None:
        raise error(f"{brief(str(path))}: no such file")
    _check_kind(path, found, error)


def read_bytes(path: Path, error: type[StmdError], most: int) -> bytes:
    """The content of a regular file of at most ``most`` bytes; ``error`` for anything else, before it is read."""
    check_regular(path, error)  # before it is opened: opening a device may already do something
    # Should a pipe take the file's place just now, opening it without blocking still returns.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with reading(path, error), os.fdopen(os.open(path, flags), "rb") as file:
        found = os.fstat(file.fileno())
        _check_kind(path, found, error)
        if found.st_size > most:
            raise error(f"{brief(str(path))}: has {found.st_size} bytes, more than the {most} that it may have")
        data = file.read(found.st_size)
    _check_whole(data, path, error)
    return data


def refuse_pointer(path: Path, error: type[StmdError]) -> None:
    """Raise ``error`` unless ``path`` is a regular file, and not what Git LFS leaves in a file's place."""
    check_regular(path, error)
    with reading(path, error), path.open("rb") as file:
        _check_whole(file.read(len(LFS_POINTER)), path, error)


def _check_whole(data: bytes, path: Path, error: type[StmdError]) -> None:
    if data.startswith(LFS_POINTER):
        raise error(f"{brief(str(path))}: is a Git LFS pointer, not the file itself; fetch it with: git lfs pull")


def _stat(path: Path, error: type[StmdError]) -> os.stat_result | None:
    try:
        with reading(path, error):
            return _stat_or_none(path)
    except ValueError as reason:  # a zero byte or a lone surrogate in the path
        if isinstance(reason, StmdError):
            raise
        raise error(f"{brief(repr(str(path)))}: cannot be read ({reason})") from reason


def _stat_or_none(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _check_kind(path: Path, found: os.stat_result, error: type[StmdError]) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise error(f"{brief(str(path))}: is a folder, not a file")
    if not stat.S_ISREG(found.st_mode):
        raise error(f"{brief(str(path))}: is no regular file but a pipe, a socket or a device")
