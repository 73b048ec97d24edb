"""The boards: one for each data set, threat and condition, and the page that lists them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from leaderboard.arithmetic import Number
from leaderboard.curves import SIZE, Figure, figures
from leaderboard.document import document
from leaderboard.facts import TIERS
from leaderboard.offers import offer
from leaderboard.rows import Section
from leaderboard.rules import DIVISIONS
from leaderboard.scales import Drawn, drawn
from leaderboard.seeds import Spread
from leaderboard.shell import File, Site
from leaderboard.views import Line
from leaderboard.words import natural, printable

NAV = ("Boards", "index.html")
KINDS = {"board": "boards"}
COSTS = 200  # rows, beyond which what each number cost is in board.json alone


@dataclass(frozen=True)
class Verdict:
    """What a board says first: who leads, how many lines cannot be told apart from it, and how many are open."""

    line: Line
    number: Number | Spread
    tied: int
    ranked: int
    above: int  # lines with no more than an upper bound, and that above the leader's number
    lacking: tuple[str, ...]  # the columns that most of these were not asked to the end
    doubted: int  # lines that are not trusted, and so not ranked


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


def verdict(section: Section, said: Sequence[Line]) -> Verdict | None:
    """Who leads among those that are ranked."""
    ranked = [line for line in said if line.rank is not None]
    if not ranked:
        return None
    first = ranked[0]
    assert first.rank is not None and first.line.summary is not None
    number = first.line.summary
    above = [
        x.line
        for x in said
        if x.line.trusted and x.line.summary and x.line.summary.bound and x.line.summary.accuracy > number.accuracy
    ]
    lacks = Counter(
        h.name
        for line in above
        for h in section.heads
        if h.strict and h.common and h.of and _open(line.numbers.get(h.name))
    )
    doubted = sum(not line.line.trusted for line in said)
    lacking = tuple(name for name, times in lacks.most_common(4) if 2 * times >= len(above))
    return Verdict(first, number, first.rank[1] - first.rank[0], len(ranked), len(above), lacking, doubted)


def _open(number: Number | Spread | None) -> bool:
    """Whether a column has not decided every image of a line."""
    return number is None or number.bound


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
        "honesty",
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
