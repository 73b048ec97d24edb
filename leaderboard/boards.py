"""The boards: one for each data set, threat and condition, and the page that lists them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from leaderboard.arithmetic import Number
from leaderboard.curves import SIZE, Figure, figures
from leaderboard.document import document
from leaderboard.facts import DIVISIONS, TIERS, division
from leaderboard.offers import offer
from leaderboard.ranks import ranks
from leaderboard.rows import CLEAN, OFFICIAL, Board, Head, Row, Section
from leaderboard.scales import Drawn, drawn
from leaderboard.seeds import Group, Spread, lines
from leaderboard.shell import File, Site
from leaderboard.words import natural, printable

NAV = ("Boards", "index.html")
KINDS = {"board": "boards"}
COSTS = 200  # rows, beyond which what each number cost is in board.json alone
MEAN = {"corruptions": "mean corruption", f"{OFFICIAL}corruptions": "mean corruption, official"}

MARKED = 500  # lines with marks in the page
Corrupted = Mapping[tuple[str, str, str], Mapping[str, Number]]  # of test, net and weights: column to number


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
            return "–"
        low, high = self.rank
        return f"{low}" if low == high else f"{low}–{high}"


@dataclass(frozen=True)
class Verdict:
    """What a board says first: who leads, how many lines cannot be told apart from it, and how many are open."""

    line: Line
    number: Number | Spread
    tied: int
    ranked: int
    above: int  # lines with no more than an upper bound, and that above the leader's number
    lacking: tuple[str, ...]  # the columns that most of these were not asked to the end


def pages(site: Site) -> Iterator[File]:
    """A board a page, the list of them, and board.json; where there is one board, it is the first page."""
    content = json.dumps(document(site.board), ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n"
    yield File("board.json", content.encode())
    told = []
    for section, full, said in site.views:
        told.append((section, verdict(full, said)))
        file = _board(site, full, said, site.board_of(section))
        yield file
        if len(site.board.sections) == 1:
            yield _at_the_root(file)
    if len(told) != 1:
        yield _index(site, told)


def _at_the_root(file: File) -> File:
    """A page of a folder as the first page.  Labels hold no such text: their quotes are escaped."""
    return File("index.html", file.content.replace(b' href="../', b' href="').replace(b' src="../', b' src="'))


View = tuple[Section, Section, list[Line]]


def views(board: Board) -> tuple[View, ...]:
    """Each section, the same as its page shows it, and the lines of that."""
    corrupted = _corrupted(board.sections)
    full = [_rare_last(_with_corruptions(section, corrupted)) for section in board.sections]
    return tuple((section, x, _lines(x)) for section, x in zip(board.sections, full, strict=True))


def _index(site: Site, told: Sequence[tuple[Section, Verdict | None]]) -> File:
    datasets: dict[str, list[tuple[Section, Verdict | None]]] = {}
    for section, best in told:
        datasets.setdefault(section.dataset, []).append((section, best))
    return site.render("index.html", "index.html", title="Boards", datasets=datasets, rules=".k0{--from:0;--to:100}")


def _board(site: Site, section: Section, said: Sequence[Line], path: str) -> File:
    columns, drawings = drawn(section), figures(section)
    return site.render(
        "board.html", path, title=" · ".join(section.heading), nav="Boards", rules=rules(columns, drawings),
        section=section, columns=columns, names=_names(columns), lines=said, verdict=verdict(section, said),
        figures=drawings, size=SIZE, several=any(line.rows for line in said), costs=len(section.rows) <= COSTS,
        nets=sorted({printable(line.line.net) for line in said}, key=natural),
        families=_families({line.line.net for line in said}),
        divisions=[d for d in DIVISIONS if any(line.division == d for line in said)], division_of=DIVISIONS,
        tiers=[t for t in TIERS if any(line.tier == t for line in said)], tier_of=TIERS,
        rare=[h.name for h in section.heads if h.strict and not h.common],
        both=len({row.maker.which for row in section.rows} & {"best", "last"}) == 2,
        offer=offer(site, section, [line.place for line in said]),
    )  # fmt: skip


def _lines(section: Section) -> list[Line]:
    """The lines of a section, the best first, with their ranks."""
    return [
        Line(
            line, rank, division(line.rows[0] if isinstance(line, Group) else line), line.tier,
            line.rows if isinstance(line, Group) else (), place < MARKED,
        )
        for place, (line, rank) in enumerate(zip(section.lines, ranks(section.lines), strict=True))
    ]  # fmt: skip


def verdict(section: Section, said: Sequence[Line]) -> Verdict | None:
    """Who leads among those that are ranked."""
    ranked = [line for line in said if line.rank is not None]
    if not ranked:
        return None
    first = ranked[0]
    assert first.rank is not None and first.line.summary is not None
    number = first.line.summary
    above = [
        x.line for x in said if x.line.summary and x.line.summary.bound and x.line.summary.accuracy > number.accuracy
    ]
    lacks = Counter(
        h.name
        for line in above
        for h in section.heads
        if h.strict and h.common and h.of and _open(line.numbers.get(h.name))
    )
    lacking = tuple(name for name, times in lacks.most_common(4) if 2 * times >= len(above))
    return Verdict(first, number, first.rank[1] - first.rank[0], len(ranked), len(above), lacking)


def _open(number: Number | Spread | None) -> bool:
    """Whether a column has not decided every image of a line."""
    return number is None or number.bound


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


def _families(nets: Collection[str]) -> list[str]:
    """What several nets' names begin with, as wrn does of wrn-28-10 and wrn-34-10."""
    found = Counter(match[0] for net in nets if (match := re.match(r"[a-z]{2,20}(?=[0-9(-])", net)))
    return sorted(name for name, times in found.items() if times > 1)


def _names(columns: Sequence[Drawn]) -> list[str]:
    """What the link calls each numeric column: its name, with a number behind one that is taken."""
    found = [
        "rank",
        "defense",
        "net",
        "division",
        "weights",
        "seed",
        "parameters",
        "madds",
        "training",
        "cost",
        "tier",
        "doubts",
    ]
    fixed = len(found)
    for column in columns:
        name = "".join(printable(column.head.name).split())[:60] or "column"
        while name in found:
            name += "+"
        found.append(name)
    return found[fixed:]


def rules(columns: Sequence[Drawn], drawings: Sequence[Figure]) -> str:
    """The scale of each column, and where eps lies in each figure, as CSS: numbers and nothing else."""
    said = []
    for column in columns:
        low, high = column.scale.best
        said.append(
            f".k{column.place}{{--from:{column.scale.low};--to:{column.scale.high};"
            f"--best-low:{low:.2f};--best-high:{high:.2f}}}"
        )
    said += [f".f{place}{{--at:{100 * x.eps / x.end:.2f}}}" for place, x in enumerate(drawings)]
    return "".join(said)
