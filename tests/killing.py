"""Killing a work at each of its calls that change files: in a child, which sends SIGKILL to itself."""

import contextlib
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path

CHANGING = "replace", "rename", "unlink", "remove", "mkdir", "rmdir", "fsync", "ftruncate", "chmod", "write"
ALL = bool(os.environ.get("STMD_ALL_KILLS"))
"""Whether to kill at every call, which takes minutes, and not at some of them."""


def _in_child(work, kill_at=None):
    """Run ``work`` in a child that dies before its call number ``kill_at``; (how it ended, how many calls it made)."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of threads, which the child does not use
        child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            calls = [0]

            def counted(call):
                def counting(*arguments, **options):
                    if calls[0] == kill_at:
                        os.kill(os.getpid(), signal.SIGKILL)
                    calls[0] += 1
                    return call(*arguments, **options)

                return counting

            write = os.write
            for name in CHANGING:
                setattr(os, name, counted(getattr(os, name)))
            work()
            write(writer, str(calls[0]).encode())
            status = 0
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    return os.waitpid(child, 0)[1], int(said or 0)


def kill_everywhere(tmp_path, work, content, some=8, before=lambda folder: None, killed=lambda folder: None):
    """``work(folder)`` killed at each call (or at ``some``) and then done again gives the same ``content(folder)``.

    Nothing hidden is left behind. ``before(folder)`` makes what stands there first, ``killed(folder)`` looks at what a
    kill left. Returns at how many calls it was killed.
    """
    for name in ("whole", "counted"):
        before(tmp_path / name)
    work(tmp_path / "whole")  # in this process, so that no child has to import what it takes
    ended, calls = _in_child(lambda: work(tmp_path / "counted"))
    assert ended == 0
    assert calls > some
    expected = content(tmp_path / "whole")
    moments = range(calls) if ALL else [k * calls // some for k in range(some)]
    for k in moments:
        folder = tmp_path / f"killed-{k}"
        before(folder)
        ended, _ = _in_child(lambda folder=folder: work(folder), k)
        assert os.WTERMSIG(ended) == signal.SIGKILL, k
        killed(folder)
        ended, _ = _in_child(lambda folder=folder: work(folder))
        assert ended == 0, k
        assert content(folder) == expected, k
        assert hidden(folder) == [], k
    return len(moments)


def hidden(folder):
    return [path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.name.startswith(".")]


@contextlib.contextmanager
def full_disk(size):
    """Files may not grow beyond ``size`` bytes: what a full disk does, but for its error's number."""
    import resource

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)
