"""Outputs that one process at a time writes, and hidden files beside them that nobody reads as data."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from .errors import OutputError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["held", "hidden_beside", "locked", "opened_alone"]

UNFINISHED = ".stmd-"  # what every temporary and lock is named by: readers skip dotfiles
PATIENCE = 0.5  # seconds for another process to let go of a file that it only looks at


@contextmanager
def locked(path: Path, output: Path | None = None, *, patience: float = PATIENCE) -> Generator[None, None, None]:
    """Keep other processes from ``output``, by default ``path``, until the block ends or this process does.

    Raises :class:`OutputError` that says who has it, after ``patience`` seconds. The lock is a hidden file beside
    ``path``; what killed processes left there is swept. Folders are made, and unmade where nothing was put into them.
    """
    lock, output = hidden_beside(path, ".lock"), output or path
    try:
        made = [folder for folder in lock.parents if not folder.exists()]
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = opened_alone(lock, patience)
        if handle is None:
            raise OutputError(f"{output} is being written by {_holder(lock)}: wait for it, or choose another --out")
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write {output}: {error.strerror or error}") from error
    try:
        with held(handle, lock):
            with suppress(OSError):  # a full disk is said by what needs the room
                os.ftruncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()} since {time.ctime()}".encode())
            _swept(lock.parent)
            yield
    finally:
        with suppress(OSError):  # of the first folder that is not empty
            for folder in made:
                folder.rmdir()


def _swept(folder: Path) -> None:
    """Remove the temporaries and locks in ``folder`` whose processes are gone."""
    for path in folder.glob(f"{UNFINISHED}*"):
        with suppress(OSError):
            handle = opened_alone(path, 0.0)
            if handle is not None:
                with held(handle, path):
                    pass


@contextmanager
def held(handle: int, path: Path) -> Generator[None, None, None]:
    """Remove the locked ``path`` at the end, if it is still there, and only then let others have the name."""
    try:
        yield
    finally:
        with suppress(OSError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                path.unlink()
        with suppress(OSError):  # closed already where it had to be
            os.close(handle)


def hidden_beside(path: Path, suffix: str) -> Path:
    """The hidden name that belongs to ``path``: short, as a name may be as long as the file system admits."""
    return path.with_name(f"{UNFINISHED}{sha256(os.fsencode(path.name)).hexdigest()[:16]}{suffix}")


def opened_alone(path: Path, patience: float = PATIENCE) -> int | None:
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


if sys.platform == "win32":

    def _lock(handle: int) -> bool:
        """Lock an open file until it is closed: one byte far behind the end, for Windows' locks are mandatory."""
        os.lseek(handle, 2**30, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
        return True

else:

    def _lock(handle: int) -> bool:
        """Lock an open file until it is closed; a file system without locks gives them to everybody."""
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
