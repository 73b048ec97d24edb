"""The parity pages: each published table beside what the ledger says, and the list of them."""

from __future__ import annotations

from collections.abc import Iterator

from leaderboard.parity import Answers, ParityLine, ParityPart, ParityTable, Z
from leaderboard.published import papers
from leaderboard.shell import File, Site

NAV = ("Parity", "parity.html")


def pages(site: Site) -> Iterator[File]:
    """The list of tables, and a page for each."""
    found = tables(site)
    yield site.render("parity.html", "parity.html", title="Parity with published tables", tables=found, path_of=path_of)
    for table in found:
        yield site.render(
            "parity_table.html", path_of(table), title=f"{table.paper.name.upper()}, table {table.table.name}",
            found=table, shown=shown, z_rule=Z, nav="Parity",
        )  # fmt: skip


def tables(site: Site) -> list[ParityTable]:
    """Every table of every paper whose tables are known, beside ours."""
    answers = Answers(site.documents)
    return [answers.table(paper, table) for paper in papers() for table in paper.tables]


def path_of(found: ParityTable) -> str:
    """Where a table's page lies."""
    return f"parity/{found.paper.name}-{found.table.name}.html"


def shown(part: ParityPart) -> list[ParityLine]:
    """The lines of a part; of a row that was not run, whatever its weights, only the first."""
    kept: list[ParityLine] = []
    for line in part.lines:
        begun = any(x.ours for x in line.cells.values())
        alike = [other for other in part.lines if other.row is line.row]
        others = any(x.ours for other in alike for x in other.cells.values())
        if begun or (not others and line is alike[0]):
            kept.append(line)
    return kept
