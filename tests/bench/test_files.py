"""Files are whole or absent."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.errors import IncompleteError
from bench.files import locked, write_atomically


def test_write(tmp_path):
    """A file holds what was written, folders are made, a second write replaces the first, and nothing is left over."""
    path = tmp_path / "a" / "b" / "c.txt"
    for content in (b"one", b"two", b""):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["c.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EDQUOT, "disk is full"), (errno.EIO, "Input.output error")],
)
def test_a_disk_that_fails(tmp_path, monkeypatch, code, words):
    """Where the disk is full the old file stays whole, nothing is left over, and the error says so (exit 4)."""

    def fails(handle):
        raise OSError(code, os.strerror(code))

    write_atomically(tmp_path / "x", b"old")
    monkeypatch.setattr("bench.files.os.fsync", fails)
    with pytest.raises(IncompleteError, match=words) as caught:
        write_atomically(tmp_path / "x", b"new")
    assert caught.value.exit_code == 4 and str(tmp_path / "x") in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_bytes() == b"old"


def test_a_place_that_is_no_folder(tmp_path):
    """A parent that is a file is an error with the path in it, not a traceback."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(IncompleteError, match="file/x"):
        write_atomically(tmp_path / "file" / "x", b"")
    with pytest.raises(IncompleteError, match="file/x"), locked(tmp_path / "file" / "x"):
        pass


def test_lock_ends_with_its_process(tmp_path):
    """A second process waits for the lock, and gets it when the first is killed."""
    code = (
        "import sys, time; from pathlib import Path; from bench.files import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"held\n"
        with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE) as second:
            os.set_blocking(second.stdout.fileno(), False)
            time.sleep(0.5)
            assert not second.stdout.read()
            first.kill()
            os.set_blocking(second.stdout.fileno(), True)
            assert second.stdout.readline() == b"held\n"
            second.kill()
