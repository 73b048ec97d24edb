"""A page for each attack: what it may ask, whom it lowers, what it costs; and the list of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from leaderboard.models import settings
from leaderboard.rows import CLEAN, Row, Section
from leaderboard.shell import File, Site
from leaderboard.words import name_of, natural, short

if TYPE_CHECKING:
    from bench import Record
    from leaderboard.evidence import Tally

NAV = ("Attacks", "attacks.html")
KINDS = {"attack": "attacks"}

_ARXIV = re.compile(r"arXiv:[0-9]{4}\.[0-9]{4,5}")
ROWS = 100  # models of a board that a page lists


def pages(site: Site) -> Iterator[File]:
    """A page for each attack that has a record, but clean; and the list."""
    found = attacks(site)
    yield site.render("attacks.html", "attacks.html", title="Attacks", attacks=found)
    for attack in found:
        path = site.path("attack", attack.key)
        yield site.render("attack.html", path, title=short(attack.key), nav="Attacks", attack=attack, settings=settings)


@dataclass(frozen=True)
class Work:
    """What an attack did to the models of one board, those first of which most fell."""

    section: Section
    models: tuple[tuple[Row, Tally], ...]

    @property
    def shown(self) -> tuple[tuple[Row, Tally], ...]:
        """As many as a page lists."""
        return self.models[:ROWS]


@dataclass(frozen=True, eq=False)
class Attack:
    """An attack with its settings, as its records tell."""

    key: str
    records: tuple[Record, ...]
    works: tuple[Work, ...]
    columns: tuple[str, ...]  # that it is a member of
    kin: tuple[str, ...]  # keys of the same attack with other settings

    @property
    def access(self) -> str:
        """What it may ask of the model; empty where no record says so."""
        return next((r.access for r in self.records if r.access), "")

    @property
    def minimum_norm(self) -> bool:
        """Whether it looks for the nearest misread image, and so serves every eps."""
        return any(r.threat and ":" not in r.threat for r in self.records)

    @property
    def threats(self) -> list[str]:
        """The threats, or norms, under which it was run."""
        return sorted({r.threat for r in self.records if r.threat}, key=natural)

    @property
    def papers(self) -> list[tuple[str, str]]:
        """The papers that its records name, each with its address where that follows from the name."""
        named = sorted({r.paper for r in self.records if r.paper}, key=natural)
        return [(paper, f"https://arxiv.org/abs/{paper[6:]}" if _ARXIV.fullmatch(paper) else "") for paper in named]

    @property
    def sources(self) -> list[str]:
        """The hashes of its source file."""
        return sorted({r.source for r in self.records})

    @cached_property
    def models(self) -> int:
        """How many it was run on."""
        return len({(r.net, r.weights) for r in self.records})

    @cached_property
    def asked(self) -> int:
        """Images that it was asked about, on all boards."""
        return sum(t.asked for w in self.works for _, t in w.models)

    @cached_property
    def passes(self) -> float:
        """Forwards and backwards an image, over all records."""
        spent = sum(r.cost.forwards + r.cost.backwards for r in self.records)
        return spent / sum(len(r.asked) for r in self.records)

    @cached_property
    def seconds(self) -> float:
        """The time of all records."""
        return sum(r.cost.seconds for r in self.records)

    @cached_property
    def fell(self) -> int:
        """Images that fell to it, on all boards."""
        return sum(t.fell for w in self.works for _, t in w.models)

    @cached_property
    def alone(self) -> int:
        """Those of them that fell to it alone."""
        return sum(t.alone for w in self.works for _, t in w.models)


def attacks(site: Site) -> list[Attack]:
    """Every attack but clean, by name."""
    records: dict[str, list[Record]] = {}
    for r in site.documents.records:
        if name_of(r.attack) != CLEAN:
            records.setdefault(r.attack, []).append(r)
    works: dict[str, list[Work]] = {}
    for section in site.board.sections:
        models: dict[str, dict[tuple[str, str], tuple[Row, Tally]]] = {}
        for row in section.rows:
            for key, tally in row.evidence.tallies.items():
                models.setdefault(key, {}).setdefault((row.net_key, row.weights), (row, tally))
        for key, mine in models.items():
            works.setdefault(key, []).append(Work(section, tuple(sorted(mine.values(), key=_by_fallen))))
    columns: dict[str, set[str]] = {}
    for card in site.documents.columns:
        for key in card.attacks:
            columns.setdefault(key, set()).add(card.name)
    keys = sorted(records, key=natural)
    return [
        Attack(
            key, tuple(records[key]), tuple(works.get(key, ())), tuple(sorted(columns.get(key, ()), key=natural)),
            tuple(k for k in keys if k != key and name_of(k) == name_of(key)),
        )
        for key in keys
    ]  # fmt: skip


def _by_fallen(model: tuple[Row, Tally]) -> tuple[float, str, str]:
    row, tally = model
    return -tally.fell / max(1, tally.asked), row.maker.defense, row.weights
