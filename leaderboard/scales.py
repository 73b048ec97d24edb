"""The columns of a board as a page draws them, each on a scale of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from leaderboard.rows import Head, Row, Section
from leaderboard.seeds import Group, Spread
from leaderboard.words import percent, printable

if TYPE_CHECKING:
    from leaderboard.arithmetic import Number


@dataclass(frozen=True)
class Scale:
    """Where a column's marks lie: from `low` to `high` percent, and the interval of the column's best number."""

    low: int
    high: int
    best: tuple[float, float]

    @classmethod
    def of(
        cls, lines: Sequence[Number | Spread], seeds: Sequence[Number | Spread] = (),
        apart: Sequence[Number | Spread] = (),
    ) -> Scale:  # fmt: skip
        """The tens around the intervals, those of the single seeds of groups too, at least 20 points apart.

        apart: numbers of lines that are not trusted, of which none is the best.
        Numbers below half the best one may lie off the scale: an undefended model at 0 would press all others
        together, and it is they that are to be told apart.
        """
        numbers = [*lines, *seeds, *apart]
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

    def cell(self, x: Number | Spread | None, n: int, marked: bool) -> Markup:
        """A number with its interval, as a cell; n: the most images of its line, marked: whether with its marks.

        Not a template: a board may have a hundred thousand of these, and all but the label are numbers.
        """
        label = f'data-label="{escape(self.label)}"'
        if x is None:
            plot = '<span class="plot" aria-hidden="true"></span>' if marked else ""
            return Markup(  # noqa: S704 - likewise
                f'<td class="{self.style} absent" {label} data-sort="">{plot}<span class="text">–</span></td>'
            )
        low, high = x.interval
        shown = f"≤ {percent(x.accuracy)}" if x.bound else percent(x.accuracy)
        style = self.style + (" bound" if x.bound else "") + (" off" if 100 * x.accuracy < self.scale.low else "")
        return Markup(  # noqa: S704 - the label is escaped, the rest are numbers
            f'<td class="{style}" {label} data-sort="{"" if x.bound else f"{x.accuracy:.6g}"}">'
            f'{_plot(x, low, high) if marked else ""}<span class="text"><span class="accuracy">{shown}</span> '
            f"<small>{_said(x, low, high)}</small>{_few(x, n)}</span></td>"
        )

    def of(self, line: Row | Group) -> Number | Spread | None:
        """What it says of a line."""
        return line.summary if self.summary else line.numbers.get(self.head.name)


def _plot(x: Number | Spread, low: float, high: float) -> str:
    """The marks, in percent; the class k0, k1, … of the cell places them on the column's scale."""
    at = f"{100 * x.accuracy:.2f}"
    if x.bound:
        interval = f"M0,.5H{at}"
    elif isinstance(x, Spread):
        interval = f"M{100 * low:.2f},.1H{100 * high:.2f}V.9H{100 * low:.2f}z"
    else:
        interval = f"M{100 * low:.2f},.5H{100 * high:.2f}"
    return (
        '<span class="plot" aria-hidden="true"><svg viewBox="0 0 100 1" preserveAspectRatio="none">'
        f'<path class="iv" d="{interval}"/><path class="at" d="M{at},0v1"/></svg></span>'
    )


def _said(x: Number | Spread, low: float, high: float) -> str:
    """What stands below a number."""
    if isinstance(x, Spread):
        return f"{x.decided} of {x.seeds} decided" if x.bound else f"sd {percent(x.sd or 0.0)}"
    interval = "undecided" if x.bound else f"{percent(low)}–{percent(high)}"
    return f"{interval}; {bracket(x)}" if x.certified is not None else interval


def bracket(x: Number) -> str:
    """Between what is proven and what no attack has felled lies the truth."""
    return f"in [{percent((x.certified or 0) / x.n)}, {percent(x.accuracy)}]"


def _few(x: Number | Spread, n: int) -> str:
    """On how many images it is, where these are fewer than others of its line."""
    if isinstance(x, Spread):
        if x.n == n == x.most:
            return ""
        said = f"n {x.n:,}" + (f"–{x.most:,}" if x.most != x.n else "")
    else:
        if x.n == n and not x.partial:
            return ""
        said = ("partial, " if x.partial else "") + f"n {x.n:,}"
    return f' <small class="few">{said}</small>'


def drawn(section: Section) -> list[Drawn]:
    """The numeric columns of a section, the one that sums up last."""
    heads = [(h, False) for h in section.heads] + ([(Head(section.summary, ()), True)] if section.summary else [])
    found = []
    for place, (head, last) in enumerate(heads):
        column = Drawn(place, head, Scale.of([]), last)
        lines, seeds, apart = (
            [x for x in map(column.of, rows) if x is not None]
            for rows in (
                [line for line in section.lines if line.trusted],
                [r for line in section.lines if isinstance(line, Group) and line.trusted for r in line.rows],
                [line for line in section.lines if not line.trusted],
            )
        )
        found.append(Drawn(place, head, Scale.of(lines, seeds, apart), last))
    return found
