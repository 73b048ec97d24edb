"""Files that are whole or absent: written beside their place, flushed, then renamed into it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from bench.errors import IncompleteError, IntegrityError

INCOMING = ".incoming"  # the folder of a ledger or store in which files lie until they are whole
# What a file system says that has no locks, or whose server for them is away: work may then be done twice.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EBADF, errno.EIO}
_MINE = f".{re.sub('[^A-Za-z0-9-]', '-', os.uname().nodename)[:64]}."  # how temporary files of this machine begin


@contextlib.contextmanager
def writing(path: Path, via: Path | None = None) -> Iterator[IO[bytes]]:
    """A file to write to, which takes its place when the block ends well, and else is gone.

    No reader, and no crash, ever sees a part of it.  via: the folder where it lies meanwhile, of the same file system;
    else the one that it is for.  What killed processes left there is removed.
    """
    folder = via or path.parent
    try:
        file, name = _begin(folder)
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.chmod(name, 0o644)
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(name, path)  # before the lock ends
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
        raise IncompleteError(
            f"cannot write {path}: {reason}; what was written before is whole, run again to continue"
        ) from error


def write_atomically(path: Path, content: bytes, via: Path | None = None) -> None:
    """Write a file so that no reader, and no crash, ever sees a part of it; via: as of `writing`."""
    with writing(path, via) as file:
        file.write(content)


def _begin(folder: Path) -> tuple[IO[bytes], str]:
    """A temporary file and its name; a lock on it says that its writer lives."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        handle, name = tempfile.mkstemp(dir=folder, prefix=_MINE, suffix=".part")
        file = os.fdopen(handle, "wb")
        with contextlib.suppress(OSError):  # where a file system has no locks, age decides
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file, name
        file.close()  # another process swept it away before it was locked


def sweep(folder: Path, age: float = 86400.0, *, delete: bool = True) -> list[Path]:
    """Remove the temporary files that killed processes left in a folder, and name them; those of the living stay.

    A writer of this machine holds a lock for as long as it lives.  Those of other machines, whose locks may not be seen
    here, must be so many seconds old.
    """
    try:
        names = [e.path for e in os.scandir(folder) if e.name.startswith(".") and e.name.endswith(".part")]
    except OSError:  # there is no such folder
        return []
    return [Path(name) for name in names if _abandoned(name, age, delete=delete)]


def _abandoned(name: str, age: float, *, delete: bool) -> bool:
    try:
        with open(name, "r+b") as file:
            about = os.fstat(file.fileno())
            mine, old = os.path.basename(name).startswith(_MINE), time.time() - about.st_mtime > age
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError:
                mine = False
            if not (mine or old) or not os.path.samestat(about, os.stat(name)):
                return False
            if delete:  # while the lock is held: a writer that has not locked it yet sees that it is gone
                os.unlink(name)
    except OSError:  # it took its place meanwhile, or is another user's
        return False
    return True


def check_writable(folder: Path) -> None:
    """IncompleteError unless files can be written into a folder; hours of work may hang on it."""
    try:
        file, name = _begin(folder)
        with file:
            os.unlink(name)
    except OSError as error:
        raise IncompleteError(
            f"cannot write into {folder}: {error.strerror}; nothing was begun; another folder may be named"
        ) from error


def check_content(path: Path | str, content: bytes, name: str, mend: str = "") -> None:
    """IntegrityError unless a file's content has the sha256 that it is named by."""
    if hashlib.sha256(content).hexdigest() != name:
        raise IntegrityError(f"{path} is damaged: its content does not have the hash that it is named by{mend}")


def write_once(path: Path, content: bytes, via: Path | None = None) -> None:
    """Write a file that is named by its content, unless it is there and whole; then it counts as new."""
    with contextlib.suppress(OSError):
        if path.read_bytes() == content:
            with contextlib.suppress(OSError):  # of another user, or on a disk that is only read
                os.utime(path)  # what nobody refers to is removed by age, and something may soon refer to this
            return
    write_atomically(path, content, via)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that other processes respect; it ends with the process, however that ends.

    On a file system without locks it holds nothing: two processes may then do the same, which is waste and no harm.
    """
    while True:
        with _lock_file(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise IncompleteError(f"cannot lock {path}: {error.strerror}") from error
            if _still_there(file, path):
                yield
                return


@contextlib.contextmanager
def range_locked(path: Path, first: int, last: int, *, wait: bool) -> Iterator[bool]:
    """Hold the whole numbers first to last of a file as one's own: other processes may hold other ones meanwhile.

    Gives whether they are held: without `wait` they are not, where another process has some of them.  The lock ends
    with the process, however that ends.  It is the process's: it says nothing within one.  On a file system without
    locks they count as held, as in `locked`.
    """
    while True:
        with _lock_file(path) as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), last - first + 1, first)
            except OSError as error:
                if error.errno not in {errno.EACCES, errno.EAGAIN, *_NO_LOCKS}:
                    raise IncompleteError(f"cannot lock {path}: {error.strerror}") from error
                yield error.errno in _NO_LOCKS
                return
            if _still_there(file, path):
                yield True
                return


def remove_lock(path: Path, first: Callable[[], object] = lambda: None) -> bool:
    """Remove the file of a lock that nobody holds, and while it is held do something first; whether it was."""
    try:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _still_there(file, path):
                return False
            first()
            path.unlink()
    except OSError:
        return False
    return True


def _still_there(file: IO[str], path: Path) -> bool:
    """Whether a lock is on the file that others would lock: it may have been removed before it was held."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False


def _lock_file(path: Path) -> IO[str]:
    """The file that a lock is held on, made where it is not there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a")
    except OSError as error:
        raise IncompleteError(f"cannot write {path}: {error.strerror}") from error
