"""Files that are whole or absent: written beside their place, flushed, then renamed into it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bench.errors import IncompleteError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that no reader, and no crash, ever sees a part of it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
        raise IncompleteError(
            f"cannot write {path}: {reason}; what was written before is whole, run again to continue"
        ) from error


def write_once(path: Path, content: bytes) -> None:
    """Write a file that is named by its content, unless it is there and whole."""
    try:
        if path.read_bytes() == content:
            return
    except OSError:
        pass
    write_atomically(path, content)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that other processes of this machine respect; it ends with the process, however that ends."""
    with _lock_file(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def range_locked(path: Path, first: int, last: int, *, wait: bool) -> Iterator[bool]:
    """Hold the whole numbers first to last of a file as one's own: other processes may hold other ones meanwhile.

    Gives whether they are held: without `wait` they are not, where another process has some of them.  The lock ends
    with the process, however that ends.  It is the process's: it says nothing within one.
    """
    with _lock_file(path) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), last - first + 1, first)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise IncompleteError(f"cannot lock {path}: {error.strerror}") from error
            yield False
        else:
            yield True


def _lock_file(path: Path) -> IO[str]:
    """The file that a lock is held on, made where it is not there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a")
    except OSError as error:
        raise IncompleteError(f"cannot write {path}: {error.strerror}") from error
