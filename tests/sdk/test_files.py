"""Files are written whole or not at all."""

import os
import stat

import pytest

from stmd_sdk import OutputError
from stmd_sdk.files import check_writable, written_whole


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
