"""The published site: a folder of static pages, a pure function of the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from leaderboard import (
    attacks,
    boards,
    compare,
    datasets,
    gallery,
    machines,
    method,
    models,
    optimality,
    parity_pages,
    pictures,
    reported,
)
from leaderboard.changes import until
from leaderboard.documents import Documents
from leaderboard.folder import clear, write_all
from leaderboard.reading import no_sweeps
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
        models,
        attacks,
        datasets,
        compare,
        gallery,
        pictures,
        parity_pages,
        reported,
        method,
        optimality,
        machines,
    ),
)  # fmt: skip

MANY = 2000  # trainings, from which on two processes make the pages


def publish(ledger: Ledger, folder: Path, first: int = 0, as_of: str = "") -> Site:
    """Write the site into a folder, index.html last, and return what it was made from.

    first: only the first so many test images count; 0 is all.  as_of: a day, a time or a version; only what was made
    until then counts.
    """
    site = build(ledger, first, as_of)
    # The boards come first: index.html is theirs.
    parts = [partial(module.pages, site) for module in MODULES]
    with no_sweeps():
        written = write_all(folder, [*parts, assets], two=len(site.board.made_by) >= MANY)
    clear(folder, written)
    return site


def build(ledger: Ledger, first: int = 0, as_of: str = "") -> Site:
    """What the pages are made from: the ledger is read and the board made once."""
    with no_sweeps():
        documents = until(Documents.of(ledger), as_of) if as_of else Documents.of(ledger)
        board = board_of(documents, first)
    kinds = {kind: folder for module in MODULES for kind, folder in getattr(module, "KINDS", {}).items()}
    nav = tuple(module.NAV for module in MODULES if hasattr(module, "NAV"))
    sheets = tuple(f"static/{path.name}" for path in sorted((HERE / "static").glob("*.css")))
    return Site(board, documents, ledger, first, as_of, kinds, nav, sheets)


def files(site: Site) -> Iterator[File]:
    """Every file of the site but the manifest."""
    yield from assets()
    for module in MODULES:
        yield from module.pages(site)
