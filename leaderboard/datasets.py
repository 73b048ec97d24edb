"""A page for each data set: its test images, its classes, which of them are hard, and its boards; and the list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from bench import DatasetCard
from leaderboard.classes import MANY, Labels, Share
from leaderboard.drawing import Plot
from leaderboard.evidence import Fallen
from leaderboard.grids import by_class
from leaderboard.rows import CLEAN, Row, Section
from leaderboard.shell import File, Site
from leaderboard.telling import best, number, telling

NAV = ("Data sets", "data.html")
KINDS = {"data": "data"}

BEST = 10  # models behind the accuracy by class
CLASSES = 200  # that a page lists


def pages(site: Site) -> Iterator[File]:
    """A page for each test part with a board or a card, and the list."""
    cards = {card.key: card for card in site.documents.datasets}
    tests = sorted({*cards, *(s.test for s in site.board.sections)}, key=lambda t: (site.datasets.get(t, ""), t))
    found = [
        Data(test, site.datasets.get(test, test[:12]), cards.get(test),
             tuple(s for s in site.board.sections if s.test == test))
        for test in tests
    ]  # fmt: skip
    yield site.render("datasets.html", "data.html", title="Data sets", found=found)
    for data in found:
        yield site.render(
            "data.html", site.path("data", data.test), title=data.name, nav="Data sets", data=data, number=number
        )


@dataclass(frozen=True, eq=False)
class Data:
    """What is known of a test part."""

    test: str
    name: str
    card: DatasetCard | None
    boards: tuple[Section, ...]

    @cached_property
    def labels(self) -> Labels | None:
        """Its classes, where there is a card."""
        return Labels.on(self.card) if self.card else None

    @cached_property
    def counts(self) -> list[tuple[str, int]]:
        """The images of each class."""
        if self.labels is None:
            return []
        many = Counter(self.labels.of)
        return [(name, many[place]) for place, name in enumerate(self.labels.names)]

    @property
    def listed(self) -> list[tuple[str, int]]:
        """As many of them as a page lists."""
        return self.counts[:CLASSES]

    @cached_property
    def best(self) -> list[tuple[Section, Row | None, str]]:
        """Each board, its best model where one is decided, and the column that says so."""
        return [(s, next(iter(best(s, 1)), None), telling(s)) for s in self.boards]

    @cached_property
    def hard(self) -> list[tuple[Section, int, Plot]]:
        """For each board with attacks, accuracy by class over its best models, and how many they are."""
        found = []
        for place, section in enumerate(self.boards):
            column = telling(section)
            pairs = [
                (e[CLEAN].on(e[column]), e[column])
                for e in (r.evidence.columns for r in best(section, BEST))
                if {CLEAN, column} <= e.keys()
            ]
            if not pairs or self.labels is None or len(self.labels.names) > MANY or section.condition != CLEAN:
                continue
            clean, robust = (self._together([p[k] for p in pairs]) for k in (0, 1))
            if any(s.n for s in robust):
                found.append((section, len(pairs), by_class(f"h{place}", clean, robust, column)))
        return found

    def _together(self, several: list[Fallen]) -> list[Share]:
        """The mean share of each class that stands; as sure as one model's, for the images are the same."""
        assert self.labels is not None
        shares = [self.labels.shares(f) for f in several]
        found = []
        for alike in zip(*shares, strict=True):
            n = min(s.n for s in alike)
            mean = sum(s.accuracy for s in alike) / len(alike)
            found.append(Share(alike[0].name, round(mean * n), n))
        return found
