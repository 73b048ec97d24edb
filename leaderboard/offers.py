"""The formats that a board is offered in: where they lie, and the texts that its page holds to copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from leaderboard import formats
from leaderboard.api import FOLDER
from leaderboard.published import papers
from leaderboard.reported import newest

if TYPE_CHECKING:
    from leaderboard.published import Paper
    from leaderboard.rows import Section
    from leaderboard.shell import Site

SHORT = 60  # lines of a board, up to which its page holds it in other formats to copy
ENDINGS = {"csv": "CSV", "md": "Markdown", "tex": "LaTeX", "bib": "BibTeX"}


def identity(site: Site, section: Section) -> str:
    """The name of a board, in addresses and in the interface."""
    return PurePosixPath(site.board_of(section)).stem


def ways(site: Site, section: Section) -> Mapping[str, str]:
    """Where a board lies in each format, by its ending."""
    page = site.board_of(section)
    found = {ending: f"{page.removesuffix('.html')}.{ending}" for ending in ENDINGS}
    return {**found, "json": f"{FOLDER}/boards/{identity(site, section)}.json"}


@dataclass(frozen=True)
class Offer:
    """What a board's page offers: files to fetch, and texts to copy."""

    files: tuple[tuple[str, str], ...]  # label, path
    texts: tuple[tuple[str, str], ...]  # label, text
    elsewhere: int  # models that boards elsewhere report under the same threat


def offer(site: Site, section: Section, places: Sequence[str]) -> Offer:
    """Every format of a board; as text what is short enough to stand on the page.  places: the rank of each line."""
    found = ways(site, section)
    files = (*((label, found[ending]) for ending, label in ENDINGS.items()), ("JSON", found["json"]))
    texts = [("BibTeX", bibtex(site, section))]
    if len(section.lines) <= SHORT:
        texts += [("LaTeX", formats.as_latex(section, places)), ("Markdown", formats.as_markdown(section, places))]
    return Offer(files, tuple(texts), _elsewhere(site, section))


def _elsewhere(site: Site, section: Section) -> int:
    """How many models are reported elsewhere on a data set of that name under that threat."""
    models = [m for card in newest(site.documents) for m in card.models]
    return sum((m.dataset, f"{m.threat}:{m.eps}") == (section.dataset, section.threat) for m in models)


def bibtex(site: Site, section: Section) -> str:
    """What cites a board, and the papers of whose tables a row of it is said to be one."""
    return formats.as_bibtex(site.board, section, identity(site, section), _cited(site, section))


def _cited(site: Site, section: Section) -> list[Paper]:
    keys = {row.maker.training.key for row in section.rows if row.maker.training}
    names = {card.paper for card in site.documents.tables if card.training in keys}
    return [paper for paper in papers() if paper.name in names]
