"""Rows of numbers as HTML.  A page has a thousand of them, which a template would escape one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from leaderboard.words import amount, duration, percent, printable, short

if TYPE_CHECKING:
    from leaderboard.arithmetic import Number
    from leaderboard.classes import Share
    from leaderboard.evidence import Tally
    from leaderboard.rows import Head


def label(name: str, link: str = "") -> str:
    """A name from a record, which is text whatever it holds."""
    said = f"<bdi>{escape(printable(name))}</bdi>"
    return f'<a href="{escape(link)}">{said}</a>' if link else said


def row(first: str, *cells: str, class_: str = "") -> str:
    """A row of a table: its head and its cells, which are markup."""
    mark = f' class="{class_}"' if class_ else ""
    return f'<tr{mark}><th scope="row">{first}</th>{"".join(f"<td>{c}</td>" for c in cells)}</tr>'


def bar(x: Number) -> str:
    """A number on a line from 0 to 100: its interval, or of a bound all that may be, and where it lies."""
    low, high = x.interval
    at = f"{100 * x.accuracy:.1f}"
    line = f'"upto" d="M0,4H{at}"' if x.bound else f'"span" d="M{100 * low:.1f},4H{100 * high:.1f}"'
    return (
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<path class="rail" d="M0,4H100"/><path class={line}/><path class="tick" d="M{at},0V8"/></svg>'
    )


def numbers(found: Sequence[tuple[Head, Number, bool]]) -> str:
    """A row a column of the board: the share, its interval, what it is of, what it cost."""
    return "\n".join(_number(head, x, sums=sums) for head, x, sums in found)


def _number(head: Head, x: Number, *, sums: bool) -> str:
    low, high = x.interval
    strict = "" if head.strict else " <small>not strict</small>"
    seeds = ", ".join(map(str, sorted({seed for _, seed in x.seeds}))) or "–"
    cells = [
        f"<b>{'≤ ' if x.bound else ''}{percent(x.accuracy)}</b>",
        "undecided" if x.bound else f"{percent(low)}–{percent(high)}",
        bar(x), f"{x.standing:,} of {x.n:,}", amount(x.spent.forwards + x.spent.backwards),
        duration(x.spent.seconds), seeds,
    ]  # fmt: skip
    return row(label(head.name) + strict, *cells, class_="sum" if sums else "")


def by_class(shares: Mapping[str, Sequence[Share]]) -> str:
    """A row a class, a cell a column."""
    columns = list(shares.values())
    return "\n".join(row(label(alike[0].name), *map(_share, alike)) for alike in zip(*columns, strict=True))


def _share(share: Share) -> str:
    return f"{percent(share.accuracy)} <small>{share.standing}/{share.n}</small>" if share.n else "–"


def tallies(found: Sequence[tuple[str, Tally]], links: Mapping[str, str]) -> str:
    """A row an attack: what it was asked, what fell, what it cost."""
    return "\n".join(_tally(key, tally, links.get(key, "")) for key, tally in found)


def _tally(key: str, t: Tally, link: str) -> str:
    spent = t.spent
    each = amount((spent.forwards + spent.backwards) / t.asked) if t.asked else "–"
    return row(
        label(short(key), link), escape(t.access) or "–", f"{t.asked:,}", f"{t.fell:,}", f"{t.alone:,}",
        amount(spent.forwards), amount(spent.backwards), each, duration(spent.seconds),
    )  # fmt: skip
