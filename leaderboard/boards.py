"""The boards: one for each data set, threat and condition, and the page that lists them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from leaderboard.curves import SIZE, Figure, figures
from leaderboard.document import document
from leaderboard.machines import offer
from leaderboard.rows import Section
from leaderboard.scales import Drawn, drawn
from leaderboard.seeds import Group
from leaderboard.shell import File, Site

NAV = ("Boards", "index.html")
KINDS = {"board": "boards"}


def pages(site: Site) -> Iterator[File]:
    """A board a page, the list of them, and board.json; where there is one board, it is the first page."""
    content = json.dumps(document(site.board), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    yield File("board.json", content.encode())
    for section in site.board.sections:
        yield _board(site, section, site.board_of(section))
    match site.board.sections:
        case (section,):
            yield _board(site, section, "index.html")
        case sections:
            yield site.render("index.html", "index.html", title="Boards", sections=sections)


def _board(site: Site, section: Section, path: str) -> File:
    columns, drawings = drawn(section), figures(section)
    return site.render(
        "board.html", path, title=" · ".join(section.heading), rules=rules(columns, drawings), section=section,
        columns=columns, figures=drawings, size=SIZE,
        several=any(isinstance(line, Group) for line in section.lines),
        offer=offer(site, section),
    )  # fmt: skip


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
