"""The site's folder: files written whole, the first page last, and what is no more part of the site removed."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from bench import IncompleteError, write_atomically
from leaderboard.shell import File

INDEX = "index.html"
MANIFEST = "files.json"  # what the last publish wrote, so that the next one removes what is no more part of the site

INCOMING = ".incoming"  # where files lie until they are whole
DAY = 86400.0  # seconds
_MINE = f"{re.sub('[^A-Za-z0-9-]', '-', os.uname().nodename)[:64]}."  # how unfinished files of this machine begin

Part = Callable[[], Iterator[File]]


def write_all(folder: Path, parts: Sequence[Part], *, two: bool = False) -> list[str]:
    """Write the files of all parts, index.html, which the first part makes, last; and return their paths.

    two: another process, a copy of this one, takes turns.
    """
    index: list[File] = []
    rest = dict(enumerate(parts[1:]))
    # A copy of a process with several threads may wait for ever for a lock that one of them held.
    if two and sys.platform == "linux" and threading.active_count() == 1 and (os.cpu_count() or 1) > 1:
        written = _in_two(folder, parts[0], rest, index)
    else:
        written = [path for part in parts for path in _written(folder, part, index)]
    for file in index:
        written.append(file.path)
        write(folder, file)
    if len(set(written)) < len(written):
        twice = sorted({path for path in written if written.count(path) > 1})
        raise RuntimeError(f"two pages are called {twice[0]}")
    return written


def _written(folder: Path, part: Part, index: list[File] | None = None) -> list[str]:
    """Write the files of a part; index.html is put aside."""
    paths = []
    for file in part():
        if file.path == INDEX and index is not None:
            index.append(file)
        else:
            write(folder, file)
            paths.append(file.path)
    return paths


def _in_two(folder: Path, first: Part, rest: dict[int, Part], index: list[File]) -> list[str]:
    """The paths of all parts: this process makes the first, a copy of it begins with the rest, and both go on there."""
    queue, filled = os.pipe()
    os.write(filled, bytes(rest))
    os.close(filled)
    said, says = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: numpy's, which nothing here waits for
        child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(said)
            done = _take(folder, rest, queue)
            with os.fdopen(says, "w") as pipe:
                json.dump(done, pipe)
            status = 0
        finally:
            os._exit(status)  # no clearing up of what is the parent's
    os.close(says)
    try:
        written = _written(folder, first, index)
        done = _take(folder, rest, queue)
    finally:
        os.close(queue)
        with os.fdopen(said) as pipe:
            text = pipe.read()
        _, status = os.waitpid(child, 0)
    other = {int(place): paths for place, paths in json.loads(text).items()} if status == 0 else {}
    left = [_written(folder, part) for place, part in rest.items() if place not in done and place not in other]
    return [path for paths in [written, *done.values(), *other.values(), *left] for path in paths]


def _take(folder: Path, parts: dict[int, Part], queue: int) -> dict[int, list[str]]:
    """Write the parts whose numbers this process gets from the queue, a byte each."""
    done = {}
    while turn := os.read(queue, 1):
        done[turn[0]] = _written(folder, parts[turn[0]])
    return done


def clear(folder: Path, written: Collection[str]) -> None:
    """Remove what an earlier publish wrote and this one did not, and keep what it did for the next one."""
    _remove(folder, set(written))
    _sweep(folder / INCOMING)
    manifest = {"schema": "rampart/files-1", "files": sorted(written)}
    write(folder, File(MANIFEST, (json.dumps(manifest, indent=0) + "\n").encode()))


def write(folder: Path, file: File) -> None:
    """Write a file whole, and only where its content changes.

    Not flushed to the disk one by one, of which there may be thousands: index.html and the manifest are, at the end.
    """
    path = folder / file.path
    try:
        if path.read_bytes() == file.content:
            return
    except OSError:
        pass
    if file.path in {INDEX, MANIFEST}:
        write_atomically(path, file.content)
        return
    part = folder / INCOMING / f"{_MINE}{os.getpid()}.{path.name[:80]}.part"
    try:
        for needed in (part.parent, path.parent):
            if not os.path.isdir(needed):
                needed.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(file.content)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise IncompleteError(f"cannot write {path}: {error.strerror}; publish again to continue") from error


def _sweep(incoming: Path) -> None:
    """Remove the unfinished files of publishes that were killed, and their folder when nobody writes in it.

    Those of other machines, of which it is not known whether they live, must be a day old.
    """
    for part in incoming.glob("*.part"):
        name = part.name.removeprefix(_MINE).partition(".")[0] if part.name.startswith(_MINE) else ""
        with suppress(OSError):
            lives = _lives(int(name)) if name.isdigit() else time.time() - part.stat().st_mtime < DAY
            if not lives:
                part.unlink()
    with suppress(OSError):
        incoming.rmdir()


def _lives(process: int) -> bool:
    """Whether there is a process of that number, of whomever."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def _remove(folder: Path, kept: Collection[str]) -> None:
    """Remove what the manifest of an earlier publish lists and the site no longer holds; nothing else."""
    try:
        listed = json.loads((folder / MANIFEST).read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in listed if isinstance(listed, list) else ():
        if not isinstance(name, str) or name in kept or not _within(name):
            continue
        path = folder / name
        if path.resolve().is_relative_to(folder.resolve()):  # no way out through a link
            path.unlink(missing_ok=True)
        for parent in path.parents:
            if parent == folder or not parent.is_dir() or any(parent.iterdir()):
                break
            parent.rmdir()


def _within(name: str) -> bool:
    """Whether a path is one that a page may have: relative, and without steps upwards."""
    path = PurePosixPath(name)
    return (
        bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name and "\0" not in name
    )
