"""Which column of a board tells most models apart, for pages that can show but one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leaderboard.rows import CLEAN, Section

if TYPE_CHECKING:
    from leaderboard.arithmetic import Number
    from leaderboard.rows import Row
    from leaderboard.seeds import Group, Spread


def number(line: Row | Group, section: Section, column: str) -> Number | Spread | None:
    """What a column, or the one that sums up, says of a line."""
    return line.summary if column and column == section.summary else line.numbers.get(column)


def telling(section: Section) -> str:
    """The column that sums up, where it is decided for half of the rows; else the one decided for most; else clean."""
    names = [section.summary, *reversed([h.name for h in section.heads if h.name != CLEAN])]

    def decided(column: str) -> int:
        return sum((x := number(row, section, column)) is not None and not x.bound for row in section.rows)

    if section.summary and 2 * decided(section.summary) >= len(section.rows):
        return section.summary
    return max(filter(None, names), key=decided, default=CLEAN)


def best(section: Section, many: int) -> list[Row]:
    """The models that have most in that column, decided and trusted ones only, each set of weights once."""
    column = telling(section)
    found: dict[tuple[str, str], Row] = {}
    for row in section.rows:
        if row.trusted and (x := number(row, section, column)) is not None and not x.bound:
            found.setdefault((row.net_key, row.weights), row)
    return sorted(found.values(), key=lambda row: -_accuracy(row, section, column))[:many]


def _accuracy(row: Row, section: Section, column: str) -> float:
    x = number(row, section, column)
    return x.accuracy if x is not None else 0.0
