"""The boards as they are shown: each section's lines, ranked, with the mean over corruptions beside clean accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from leaderboard.ranks import ranks
from leaderboard.rows import CLEAN, OFFICIAL, Board, Head, Row, Section
from leaderboard.seeds import Group, lines

if TYPE_CHECKING:
    from leaderboard.arithmetic import Number

MEAN = {"corruptions": "mean corruption", f"{OFFICIAL}corruptions": "mean corruption, official"}
NOT_TRUSTED = "not trusted"  # in place of a rank
MARKED = 500  # lines with marks in the page
Corrupted = Mapping[tuple[str, str, str], Mapping[str, "Number"]]  # of test, net and weights: column to number


@dataclass(frozen=True)
class Line:
    """A line of a board and what the page says of it beside its numbers."""

    line: Row | Group
    rank: tuple[int, int] | None
    division: str
    tier: str
    rows: tuple[Row, ...]  # of several seeds
    marked: bool  # whether its marks are in the page; the script draws those of other lines when it shows them

    @property
    def place(self) -> str:
        """Its rank as an interval."""
        if self.rank is None:
            return "–" if self.line.trusted else NOT_TRUSTED
        low, high = self.rank
        return f"{low}" if low == high else f"{low}–{high}"


View = tuple[Section, Section, list[Line]]


def views(board: Board) -> tuple[View, ...]:
    """Each section, the same as its page shows it, and the lines of that."""
    corrupted = _corrupted(board.sections)
    full = [_rare_last(_with_corruptions(section, corrupted)) for section in board.sections]
    return tuple((section, x, _lines(x)) for section, x in zip(board.sections, full, strict=True))


def _lines(section: Section) -> list[Line]:
    """The lines of a section, the best first, with their ranks."""
    return [
        Line(
            line, rank, line.division, line.tier, line.rows if isinstance(line, Group) else (),
            place < MARKED,
        )
        for place, (line, rank) in enumerate(zip(section.lines, ranks(section.lines), strict=True))
    ]  # fmt: skip


def _corrupted(sections: Sequence[Section]) -> Corrupted:
    """The mean accuracy of weights over corruptions, from the boards that are about these."""
    found: dict[tuple[str, str, str], dict[str, Number]] = {}
    for section in sections:
        if section.summary == "mean" and section.condition in MEAN:
            for row in section.rows:
                if row.summary is not None:
                    key = (section.test, row.net_key, row.weights)
                    found.setdefault(key, {})[MEAN[section.condition]] = row.summary
    return found


def _with_corruptions(section: Section, corrupted: Corrupted) -> Section:
    """A board on clean images with the mean over corruptions as a column, where that is known of a row."""
    if section.condition != CLEAN:
        return section
    known = [corrupted.get((section.test, row.net_key, row.weights), {}) for row in section.rows]
    names = sorted({name for numbers in known for name in numbers} - {h.name for h in section.heads})
    if not names:
        return section
    heads = (*section.heads, *(Head(name, ()) for name in names))
    rows = [
        replace(row, numbers={**row.numbers, **{name: numbers[name] for name in names if name in numbers}})
        for row, numbers in zip(section.rows, known, strict=True)
    ]
    return replace(
        section,
        heads=heads,
        rows=tuple(rows),
        lines=lines(rows, [replace(h, strict=bool(h.of) and h.strict) for h in heads]),
    )


def _rare_last(section: Section) -> Section:
    """The section with the columns that few of its lines were asked behind the others."""
    return replace(section, heads=tuple(sorted(section.heads, key=lambda h: h.of != (CLEAN,) and not h.common)))
