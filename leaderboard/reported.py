"""What boards elsewhere report of published models: a page of its own, never ranked with what was measured here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from leaderboard.shell import File, Site

if TYPE_CHECKING:
    from bench import ReportedCard, ReportedModel
    from leaderboard.documents import Documents

PAGE = "reported.html"


def pages(site: Site) -> Iterator[File]:
    """The page, with a table for each data set and threat of each board."""
    groups: dict[tuple[str, str, str], tuple[ReportedCard, list[ReportedModel]]] = {}
    for card in newest(site.documents):
        for model in card.models:
            groups.setdefault((card.board, model.dataset, model.threat), (card, []))[1].append(model)
    yield site.render("reported.html", PAGE, title="Reported elsewhere", groups=list(groups.values()), nav="Parity")


def newest(documents: Documents) -> list[ReportedCard]:
    """Of each board elsewhere what was written down last."""
    found = {card.board: card for card in sorted(documents.reported, key=lambda c: (c.made, c.key))}
    return [card for _, card in sorted(found.items())]
