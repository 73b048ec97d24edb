"""The published site: a folder of static pages, a pure function of the ledger."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol, cast

from bench import IncompleteError, write_atomically
from leaderboard import boards, machines, parity_pages, reported
from leaderboard.changes import until
from leaderboard.documents import Documents
from leaderboard.shell import HERE, File, Site, assets
from leaderboard.table import board_of

if TYPE_CHECKING:
    from bench import Ledger


class Pages(Protocol):
    """A page module; shell.py says how one looks."""

    NAV: tuple[str, str]  # may be missing
    KINDS: Mapping[str, str]  # likewise

    def pages(self, site: Site) -> Iterator[File]:
        """Its files."""
        ...


# In the order of the header.
MODULES = cast(
    "tuple[Pages, ...]",
    (
        boards,
        parity_pages,
        reported,
        machines,
    ),
)  # fmt: skip

MANIFEST = "files.json"  # what the last publish wrote, so that the next one removes what is no more part of the site


def publish(ledger: Ledger, folder: Path, first: int = 0, as_of: str = "") -> Site:
    """Write the site into a folder, index.html last, and return what it was made from.

    first: only the first so many test images count; 0 is all.  as_of: a day, a time or a version; only what was made
    until then counts.
    """
    site = build(ledger, first, as_of)
    written: dict[str, None] = {}
    index = None
    for file in files(site):
        if file.path in written:
            raise RuntimeError(f"two pages are called {file.path}")
        written[file.path] = None
        if file.path == "index.html":
            index = file
        else:
            _write(folder, file)
    if index is not None:
        _write(folder, index)
    _remove(folder, set(written))
    manifest = {"schema": "rampart/files-1", "files": sorted(written)}
    _write(folder, File(MANIFEST, (json.dumps(manifest, indent=0) + "\n").encode()))
    return site


def build(ledger: Ledger, first: int = 0, as_of: str = "") -> Site:
    """What the pages are made from: the ledger is read and the board made once."""
    documents = until(Documents.of(ledger), as_of) if as_of else Documents.of(ledger)
    kinds = {kind: folder for module in MODULES for kind, folder in getattr(module, "KINDS", {}).items()}
    nav = tuple(module.NAV for module in MODULES if hasattr(module, "NAV"))
    sheets = tuple(f"static/{path.name}" for path in sorted((HERE / "static").glob("*.css")))
    return Site(board_of(documents, first), documents, ledger, first, as_of, kinds, nav, sheets)


def files(site: Site) -> Iterator[File]:
    """Every file of the site but the manifest."""
    yield from assets()
    for module in MODULES:
        yield from module.pages(site)


def _write(folder: Path, file: File) -> None:
    """Write a file whole, and only where its content changes.

    Not flushed to the disk one by one, of which there may be thousands: index.html and the manifest are, at the end.
    """
    path = folder / file.path
    try:
        if path.read_bytes() == file.content:
            return
    except OSError:
        pass
    if file.path in {"index.html", MANIFEST}:
        write_atomically(path, file.content)
        return
    part = path.with_name(f".{path.name[:80]}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(file.content)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise IncompleteError(f"cannot write {path}: {error.strerror}; publish again to continue") from error


def _remove(folder: Path, kept: set[str]) -> None:
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
