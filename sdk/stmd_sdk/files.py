"""Files are written whole or not at all, by one process at a time."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import OutputError

__all__ = ["check_writable", "locked", "sha256_of", "sha256_of_file", "swept", "written_whole"]

UNFINISHED = ".stmd-"  # what every temporary and lock is named by: readers skip dotfiles
PATIENCE = 0.5  # seconds for another process to let go of a file that it only looks at


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
        target = _target(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(target, target.suffix)
        handle = _opened_alone(temporary, PATIENCE)
        if handle is None:
            raise OutputError(f"cannot write {path}: another process is writing it")
        with _held(handle, temporary):
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
        target = _target(path)
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


@contextmanager
def locked(path: Path, output: Path | None = None, *, patience: float = PATIENCE) -> Generator[None, None, None]:
    """Keep other processes from ``output``, by default ``path``, until the block ends or this process does.

    Raises :class:`OutputError` that says who has it, after ``patience`` seconds. The lock is a hidden file beside
    ``path``; what killed processes left there is swept. Folders are made, and unmade where nothing was put into them.
    """
    lock, output = _beside(path, ".lock"), output or path
    try:
        made = [folder for folder in lock.parents if not folder.exists()]
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = _opened_alone(lock, patience)
        if handle is None:
            raise OutputError(f"{output} is being written by {_holder(lock)}: wait for it, or choose another --out")
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write {output}: {error.strerror or error}") from error
    try:
        with _held(handle, lock):
            with suppress(OSError):  # a full disk is said by what needs the room
                os.ftruncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()} since {time.ctime()}".encode())
            swept(lock.parent)
            yield
    finally:
        with suppress(OSError):  # of the first folder that is not empty
            for folder in made:
                folder.rmdir()


def swept(folder: Path) -> None:
    """Remove the temporaries and locks in ``folder`` whose processes are gone."""
    for path in folder.glob(f"{UNFINISHED}*"):
        with suppress(OSError):
            handle = _opened_alone(path, 0.0)
            if handle is not None:
                with _held(handle, path):
                    pass


@contextmanager
def _held(handle: int, path: Path) -> Generator[None, None, None]:
    """Remove the locked ``path`` at the end, if it is still there, and only then let others have the name."""
    try:
        yield
    finally:
        with suppress(OSError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                path.unlink()
        with suppress(OSError):  # closed already where it had to be
            os.close(handle)


def _target(path: Path) -> Path:
    """Where ``path`` leads; raises unless that is a regular file, or nothing yet."""
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


def _beside(path: Path, suffix: str) -> Path:
    """The hidden name that belongs to ``path``: short, as a name may be as long as the file system admits."""
    return path.with_name(f"{UNFINISHED}{sha256_of(os.fsencode(path.name))[:16]}{suffix}")


def _opened_alone(path: Path, patience: float) -> int | None:
    """A descriptor of ``path``, locked; None if another holds it still after ``patience`` seconds."""
    end = time.monotonic() + patience
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            # Behind the lock the name may be gone, or another's: its holder moves or removes it first.
            if _lock(handle) and path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if time.monotonic() >= end:
            return None
        time.sleep(0.01)


def _lock(handle: int) -> bool:
    """Lock an open file until it is closed; a file system without locks gives them to everybody."""
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415

        # Windows' locks are mandatory: one byte far behind the end, which nobody reads or writes.
        os.lseek(handle, 2**30, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
        return True
    import fcntl  # noqa: PLC0415

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _holder(lock: Path) -> str:
    with suppress(OSError):
        return lock.read_text().strip() or "another process"
    return "another process"


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
