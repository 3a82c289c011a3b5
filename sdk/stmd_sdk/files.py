"""Files are written whole or not at all, and read only where they are what they should be."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import OutputError, StmdError
from .locks import held, hidden_beside, opened_alone

__all__ = [
    "brief",
    "bundled_name",
    "check_regular",
    "check_writable",
    "is_file",
    "is_folder",
    "landing",
    "read_bytes",
    "reading",
    "refuse_pointer",
    "sha256_of",
    "sha256_of_file",
    "written_whole",
]

LFS_POINTER = b"version https://git-lfs.github.com/spec/"

BUNDLED = "bundled:"
"""What a name begins with that is a bundled thing's whatever lies here."""
SHOWN = 200
"""Characters of a foreign value or path that an error quotes."""


def sha256_of(*parts: bytes | bytearray | memoryview) -> str:
    """The SHA-256 of bytes, one part after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; lets every OSError pass."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def written_whole(path: Path) -> Generator[Path, None, None]:
    """Give a temporary path beside ``path``; move it there, flushed to disk, if the block succeeds.

    A crash, a full disk or an exception leaves whatever was at ``path`` as it was, and its permissions are kept. A link
    is followed; a device or a pipe is refused. The temporary's name depends on the path's alone, so that the next
    attempt takes over what a killed one left behind. Raises :class:`OutputError`, also while another process is at it.
    """
    try:
        target = landing(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = hidden_beside(target, target.suffix)
        handle = opened_alone(temporary)
        if handle is None:
            raise OutputError(f"cannot write {path}: another process is writing it")
        with held(handle, temporary):
            os.ftruncate(handle, 0)
            mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
            if mode is not None:
                temporary.chmod(0o600)  # nobody reads the new content who may not read the old
            yield temporary
            os.fsync(handle)
            if mode is not None:
                temporary.chmod(mode)
            _moved(temporary, target, handle)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def check_writable(path: Path, *inputs: Path) -> None:
    """Raise now if a file could not be written at ``path`` later, or is one of ``inputs``: before any work is lost."""
    try:
        target = landing(path)
        folder = target.parent
        while not folder.exists():
            folder = folder.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"cannot write {path}: no permission in {folder}")
        if target.exists() and any(one.exists() and one.samefile(target) for one in inputs):
            raise OutputError(f"cannot write {path}: it is read as well; name another file")
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def landing(path: Path) -> Path:
    """Where what is written at ``path`` lands, links followed; raises :class:`OutputError` unless a regular file or
    nothing yet is there."""
    target = Path(os.path.realpath(path))
    try:
        mode = target.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return target
    if stat.S_ISDIR(mode):
        raise OutputError(f"cannot write {path}: it is a folder")
    if not stat.S_ISREG(mode):
        raise OutputError(f"cannot write {path}: what is there is no regular file")
    return target


def _moved(temporary: Path, target: Path, handle: int) -> None:
    """Move the temporary to its place, and make that last."""
    if sys.platform == "win32":  # where an open file cannot be moved, and a folder has no handle
        os.close(handle)
        temporary.replace(target)
        return
    temporary.replace(target)
    with suppress(OSError):  # not every file system knows it
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def cache_folder(kind: str) -> Path:
    """Where what can be made again is kept: below ``$STMD_CACHE``, or ``stmd`` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("STMD_CACHE") or Path(home) / "stmd") / kind


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


def bundled_name(source: str | Path, known: Collection[str], error: type[StmdError]) -> str | None:
    """Which of the ``known`` bundled things ``source`` names, ``bundled:NAME`` or the bare NAME; None if none.

    A bare name that is a file or a folder here as well is in doubt, and an ``error``.
    """
    name = str(source)
    if name.startswith(BUNDLED):
        if name.removeprefix(BUNDLED) not in known:
            raise error(f"{brief(name)}: nothing of that name is bundled, only {', '.join(known)}")
        return name.removeprefix(BUNDLED)
    if name not in known:
        return None
    if os.path.lexists(name):
        raise error(f"{name} is bundled, and there is one here too: say ./{name} or {BUNDLED}{name}")
    return name
