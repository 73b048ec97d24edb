"""Archives to folders: nothing is written outside the folder, and a folder is filled aside and then moved."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO

from bench.errors import IntegrityError


def unpack(archive: Path, into: Path, _root: Path | None = None) -> None:
    """Unpack a tar or zip file; a member that is a link or a device, or that lies outside `into`, is refused."""
    read = _zip if zipfile.is_zipfile(archive) else _tar
    try:
        for name, source in read(archive):
            path = into / inside(name, archive)
            path.parent.mkdir(parents=True, exist_ok=True)
            with source() as file, path.open("xb") as target:
                shutil.copyfileobj(file, target, 1 << 20)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, LZMAError, NotImplementedError) as error:
        raise IntegrityError(f"{archive} is not a whole archive ({error}); fetch it again") from error
    except FileExistsError as error:
        raise IntegrityError(f"{archive} holds {error.filename} twice; expected each name once") from error
    except OSError as error:
        if error.errno is None:  # gzip's own
            raise IntegrityError(f"{archive} is not a whole archive ({error}); fetch it again") from error
        raise


def inside(name: str, archive: Path) -> PurePosixPath:
    """A member's name as a path that stays below the folder, or an error."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not path.parts:
        raise IntegrityError(f"{archive} holds {name!r}, which would be written elsewhere; nothing of it is used")
    return path


Member = tuple[str, Callable[[], IO[bytes]]]


def _tar(archive: Path) -> Iterator[Member]:
    """The files of a tar, packed or not."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isreg():

                def source(member: tarfile.TarInfo = member) -> IO[bytes]:
                    file = tar.extractfile(member)
                    assert file is not None
                    return file

                yield member.name, source
            elif not member.isdir():
                raise IntegrityError(f"{archive} holds {member.name!r}, which is no plain file; nothing of it is used")
        while tar.fileobj is not None and tar.fileobj.read(1 << 20):  # to its end, where gzip has its checksum
            pass


def _zip(archive: Path) -> Iterator[Member]:
    """The files of a zip."""
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            if stat.S_ISLNK(member.external_attr >> 16):
                raise IntegrityError(f"{archive} holds {member.filename!r}, which is a link; nothing of it is used")
            if not member.is_dir():
                yield member.filename, lambda member=member: packed.open(member)  # type: ignore[misc]


@contextlib.contextmanager
def workshop(folder: Path) -> Iterator[Path]:
    """An empty folder, gone afterwards with what is left in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("making-*"):  # of a process that was killed; whoever calls holds the lock
        shutil.rmtree(old, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix="making-", dir=folder))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def settle(source: Path, target: Path) -> None:
    """Move all that is in a folder into another: a new folder whole, into an old one file by file."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            settle(entry, place)
        else:
            os.replace(entry, place)
