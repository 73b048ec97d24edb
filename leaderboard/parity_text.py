"""A published table beside ours, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leaderboard.words import printable

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from leaderboard.parity import Compared, ParityPart, ParityTable


def text(found: ParityTable) -> Group:
    """What rich prints: a table for each part; a cell is the paper's number, ours, the difference and z."""
    from rich.console import Group
    from rich.text import Text

    done, cells = found.run
    said = f"{done} of {cells} cells have a number of ours; below the paper's number stand ours, the difference and z"
    return Group(*(_part(found, part) for part in found.parts), Text(said + "\n"))


def _part(found: ParityTable, part: ParityPart) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    facts = (part.part.dataset, part.part.net, part.part.threat)
    title = Text(f"{found.paper.name}, table {found.table.name}: " + " · ".join(map(printable, facts)), style="bold")
    drawn = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    drawn.add_column("row", overflow="fold")
    drawn.add_column("ours")
    for said in part.part.columns:
        drawn.add_column(Text(printable(said)), justify="right", no_wrap=True)
    for line in part.lines:
        seeds = (
            f"{line.which}, {len(line.seeds)} seed{'s' if len(line.seeds) != 1 else ''}" if line.seeds else line.which
        )
        name = printable(line.row.name) + (f" ({line.variant})" if line.variant else "")
        cells = (Text(_cell(line.cells.get(said))) for said in part.part.columns)
        drawn.add_row(Text(name), Text(seeds), *cells)
    return drawn


def _cell(x: Compared | None) -> str:
    """`47.92±0.35`, and below it ours, the difference, and z or nothing."""
    if x is None or x.quoted is None:
        return ""
    paper = f"{x.quoted.mean:.2f}" + (f"±{x.quoted.sd:.2f}" if x.quoted.sd is not None else "")
    if x.mean is None:
        return f"{paper}\n–"
    ours = f"{x.mean:.2f}" + (f"±{x.sd:.2f}" if x.sd is not None else "")
    z = f" z {x.z:+.1f}" if x.z is not None else ""
    return f"{paper}\n{ours}\n{x.difference:+.2f}{z}"
