"""Files are written whole or not at all, and read only where they are what they should be."""

import os
import socket
import stat

import pytest

from stmd_sdk import DataError, OutputError
from stmd_sdk.files import (
    brief,
    bundled_name,
    check_regular,
    check_writable,
    is_file,
    is_folder,
    read_bytes,
    reading,
    written_whole,
)
from stmd_sdk.locks import locked


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def _write(path, error=None):
    """Write half a file and fail with ``error``, or a whole one."""
    with written_whole(path) as temporary:
        temporary.write_text("half")
        if error is not None:
            raise error
        temporary.write_text("whole")


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_what_was_there(tmp_path, old, error):
    path = tmp_path / "file.txt"
    if old is not None:
        path.write_text(old)
    before = _names(tmp_path)
    with pytest.raises(error):
        _write(path, error())
    assert _names(tmp_path) == before
    assert old is None or path.read_text() == old


def test_a_block_that_succeeds_replaces_the_file_at_its_end_alone(tmp_path):
    path = tmp_path / "deep" / "er" / "file.txt"
    with written_whole(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        # On the same file system, so that the move is atomic; with the suffix that some writers look at.
        assert (temporary.parent, temporary.suffix) == (path.parent, ".txt")
    assert path.read_text() == "new"
    assert _names(path.parent) == ["file.txt"]


def test_permissions_are_those_of_any_new_file(tmp_path):
    with written_whole(tmp_path / "ours") as temporary:
        temporary.touch()
    (tmp_path / "plain").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "plain")]
    assert modes[0] == modes[1]
    umask = os.umask(0o022)
    os.umask(umask)
    assert modes[0] == 0o666 & ~umask


def test_an_error_of_the_system_says_which_file_once(tmp_path):
    full = OSError(28, "No space left on device")
    with pytest.raises(OutputError, match=r"^cannot write .*file: No space left on device$"):
        _write(tmp_path / "file", full)
    with pytest.raises(OutputError, match=r"^cannot write inner: full$"):
        _write(tmp_path / "file", OutputError("cannot write inner: full"))
    assert _names(tmp_path) == []


def test_what_is_writable_is_known_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for name, possible in {
        "new": True,
        "file": True,
        "deep/er/new": True,
        "folder": False,
        "file/below": False,
        "file/far/below": False,
    }.items():
        path = tmp_path / name
        if possible:
            check_writable(path)
            _write(path)
            assert path.read_text() == "whole"
        else:
            with pytest.raises(OutputError, match="cannot write"):
                check_writable(path)
            with pytest.raises(OutputError, match="cannot write"):
                _write(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission_is_known_before_the_work(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="no permission"):
        check_writable(tmp_path / "file")
    with pytest.raises(OutputError, match="Permission denied"):
        _write(tmp_path / "file")


def test_a_regular_file_is_read_up_to_its_bound_and_through_links(tmp_path):
    (tmp_path / "file").write_bytes(b"four")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        assert read_bytes(tmp_path / name, DataError, most=4) == b"four"
    with pytest.raises(DataError, match=r"^\S*file: has 4 bytes, more than the 3 that it may have$"):
        read_bytes(tmp_path / "file", DataError, most=3)


def test_ten_gigabytes_are_refused_unread(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10 << 30)
    with pytest.raises(DataError, match="10737418240 bytes"):
        read_bytes(tmp_path / "sparse", DataError, most=1 << 30)


# Of each: what it is called by every reader, and whether it counts as a file or as a folder.
@pytest.mark.parametrize(
    ("name", "says", "kinds"),
    [
        ("folder", "is a folder, not a file", (False, True)),
        ("pipe", "no regular file but a pipe", (True, False)),
        ("zero", "no regular file but a pipe", (True, False)),
        ("socket", "no regular file but a pipe", (True, False)),
        ("absent", "no such file", (False, False)),
        ("nowhere", "no such file", (False, False)),
        ("file/below", "no such file", (False, False)),
        ("loop", "cannot be read", None),
        ("a" * 5000, "cannot be read", None),
        ("zero\0byte", "cannot be read", None),
        ("half\ud800", "no such file|cannot be read", None),
    ],
)
def test_what_is_no_regular_file_is_one_line_of_the_caller_s_error(tmp_path, monkeypatch, name, says, kinds):
    monkeypatch.chdir(tmp_path)  # a socket's path may have a hundred characters
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "nowhere").symlink_to("absent")
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        for read in (check_regular, lambda path, error: read_bytes(path, error, most=1 << 20)):
            with pytest.raises(DataError, match=says) as caught:
                read(tmp_path / name, DataError)
            assert len(str(caught.value)) < 500
    for ask, answer in zip((is_file, is_folder), kinds or (), strict=False):
        assert ask(tmp_path / name, DataError) is answer


@pytest.mark.skipif(os.geteuid() == 0, reason="root searches every folder")
def test_a_folder_that_one_may_not_search_is_one_line(tmp_path):
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0)
    for ask in (check_regular, is_file, is_folder, lambda path, error: read_bytes(path, error, most=1)):
        with pytest.raises(DataError, match="Permission denied"):
            ask(tmp_path / "closed" / "file", DataError)


def test_only_the_system_s_errors_change_while_reading(tmp_path):
    def fail(error):
        with reading(tmp_path / "x", DataError):
            raise error

    with pytest.raises(DataError, match=r"x: cannot be read \(Stale file handle\)$"):
        fail(OSError(116, "Stale file handle"))
    for kept in (OutputError("an OSError, and our own"), ZeroDivisionError("a mistake")):
        with pytest.raises(type(kept)):
            fail(kept)


def test_long_texts_are_cut_and_short_ones_kept():
    assert brief("x" * 200) == "x" * 200
    assert len(brief("x" * 70_000)) < 250


def test_a_link_is_followed_and_permissions_are_kept(tmp_path):
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "report.json", tmp_path / "link.json"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to("real/report.json")
    check_writable(link)
    _write(link)
    assert link.is_symlink()
    assert target.read_text() == "whole"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    link.unlink()
    link.symlink_to("real/new.json")
    _write(link)
    assert (tmp_path / "real" / "new.json").read_text() == "whole"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a pipe has a name on POSIX")
def test_what_is_no_regular_file_is_refused_and_left_alone(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "null").symlink_to(os.devnull)
    for name in ("pipe", "loop", "null"):
        for attempt in (check_writable, _write):
            with pytest.raises(OutputError, match=f"cannot write .*{name}"):
                attempt(tmp_path / name)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    assert _names(tmp_path) == ["loop", "null", "pipe"]


def test_the_input_is_no_output(tmp_path):
    (tmp_path / "x.png").touch()
    (tmp_path / "link.png").symlink_to("x.png")
    check_writable(tmp_path / "y.png", tmp_path / "x.png", tmp_path / "absent.png")
    for name in ("x.png", "link.png"):
        with pytest.raises(OutputError, match="it is read as well"):
            check_writable(tmp_path / name, tmp_path / "x.png")


def test_the_longest_name_that_there_is_can_be_written(tmp_path):
    path = tmp_path / ("a" * 251 + ".txt")
    _write(path)
    assert _names(tmp_path) == [path.name]
    for attempt in (check_writable, _write):
        with pytest.raises(OutputError, match="File name too long"):
            attempt(tmp_path / ("a" * 252 + ".txt"))


def test_one_writer_at_a_time_and_a_killed_ones_temporary_is_taken_over(tmp_path):
    path = tmp_path / "file.txt"
    with written_whole(path) as temporary:
        temporary.write_text("first")
        with pytest.raises(OutputError, match="another process is writing it"):
            _write(path)
    assert path.read_text() == "first"
    temporary.write_text("of a killed process, and longer than what follows")
    _write(path)
    assert path.read_text() == "whole"
    assert _names(tmp_path) == ["file.txt"]


def test_a_file_is_flushed_through_a_handle_that_may_write(tmp_path, monkeypatch):
    """Windows refuses the others."""
    import fcntl

    flush, flushed = os.fsync, []

    def strict(handle):
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        flushed.append(flush(handle))

    monkeypatch.setattr(os, "fsync", strict)
    _write(tmp_path / "file")
    assert len(flushed) == 1


def test_a_lock_says_who_has_it_sweeps_what_is_dead_and_leaves_nothing(tmp_path):
    folder = tmp_path / "new" / "run"
    with locked(folder / "state", folder):
        (folder / ".stmd-dead.png").touch()
        (folder / ".mine").touch()
        with (
            pytest.raises(OutputError, match=rf"run is being written by process {os.getpid()} on .*: wait for it"),
            locked(folder / "state", folder, patience=0.0),
        ):
            pass
        with locked(folder / "other", folder):
            pass
        assert (folder / ".mine").exists()
        assert not (folder / ".stmd-dead.png").exists()
        (folder / ".mine").unlink()
    assert _names(tmp_path) == []


def test_a_bundled_name_is_in_doubt_where_something_of_that_name_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bundled_name("a", ("a", "b"), DataError) == bundled_name("bundled:a", ("a", "b"), DataError) == "a"
    assert bundled_name("c", ("a", "b"), DataError) is None
    (tmp_path / "a").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"say \./a or bundled:a"):
        bundled_name("a", ("a", "b"), DataError)
    assert bundled_name("./a", ("a", "b"), DataError) is None
    with pytest.raises(DataError, match="nothing of that name is bundled, only a, b"):
        bundled_name("bundled:c", ("a", "b"), DataError)
