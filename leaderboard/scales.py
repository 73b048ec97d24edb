"""The columns of a board as a page draws them, each on a scale of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from leaderboard.rows import Head, Row, Section
from leaderboard.seeds import Group, Spread
from leaderboard.words import printable

if TYPE_CHECKING:
    from leaderboard.arithmetic import Number


@dataclass(frozen=True)
class Scale:
    """Where a column's marks lie: from `low` to `high` percent, and the interval of the column's best number."""

    low: int
    high: int
    best: tuple[float, float]

    @classmethod
    def of(cls, lines: Sequence[Number | Spread], seeds: Sequence[Number | Spread] = ()) -> Scale:
        """The tens around the intervals, those of the single seeds of groups too, at least 20 points apart.

        Numbers below half the best one may lie off the scale: an undefended model at 0 would press all others
        together, and it is they that are to be told apart.
        """
        numbers = [*lines, *seeds]
        top = max((x.accuracy for x in numbers), default=0.0)
        ends = [100 * end for x in numbers if 2 * x.accuracy >= top for end in _ends(x)]
        low, high = (math.floor(min(ends) / 10) * 10, math.ceil(max(ends) / 10) * 10) if ends else (0, 100)
        while high - low < 20:
            low, high = (low, high + 10) if high < 100 else (low - 10, high)
        best = max((x for x in lines if not x.bound), key=lambda x: (x.accuracy, x.n), default=None)
        return cls(low, high, (100 * best.interval[0], 100 * best.interval[1]) if best else (0.0, 0.0))


def _ends(number: Number | Spread) -> tuple[float, float]:
    """What a scale must hold of a number."""
    return (number.accuracy, number.accuracy) if number.bound else number.interval


@dataclass(frozen=True)
class Drawn:
    """A column as the page draws it."""

    place: int  # among the numeric columns, from 0
    head: Head
    scale: Scale
    summary: bool = False

    @cached_property
    def label(self) -> str:
        """Its name on a phone, where a cell stands alone."""
        return printable(self.head.name) + ("" if self.head.strict else " (not strict)")

    @cached_property
    def style(self) -> str:
        """The classes of its cells."""
        return f"number k{self.place}" + (" summary" if self.summary else "")

    def of(self, line: Row | Group) -> Number | Spread | None:
        """What it says of a line."""
        return line.summary if self.summary else line.numbers.get(self.head.name)


def drawn(section: Section) -> list[Drawn]:
    """The numeric columns of a section, the one that sums up last."""
    heads = [(h, False) for h in section.heads] + ([(Head(section.summary, ()), True)] if section.summary else [])
    found = []
    for place, (head, last) in enumerate(heads):
        column = Drawn(place, head, Scale.of([]), last)
        lines, seeds = (
            [x for x in map(column.of, rows) if x is not None]
            for rows in (section.lines, [r for line in section.lines if isinstance(line, Group) for r in line.rows])
        )
        found.append(Drawn(place, head, Scale.of(lines, seeds), last))
    return found
