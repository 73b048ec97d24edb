"""The board as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leaderboard.arithmetic import Number
from leaderboard.seeds import Group as Several
from leaderboard.seeds import Spread
from leaderboard.views import NOT_TRUSTED
from leaderboard.words import natural, percent, printable

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from leaderboard.rows import Board, Row, Section


MANY = 12  # columns, beyond which a terminal has no room for the defense's name
ROOM = 100  # letters for their names, likewise


def text(board: Board) -> Group:
    """The board for a terminal: what rich prints; one table a section."""
    from rich.console import Group
    from rich.text import Text

    if not board.sections:
        return Group(Text("The ledger has no records yet; bench run --defense RECIPE adds some."))
    drawn = ((_turned if _is_wide(s) else _table_of, s) for s in board.sections)
    return Group(*(part for draw, section in drawn for part in (draw(section), Text(_footnote(section)))))


def _is_wide(section: Section) -> bool:
    """Whether its columns would leave no room for the defenses."""
    return len(section.heads) > MANY or sum(1 + max(5, len(head.name)) for head in section.heads) > ROOM


def _title(section: Section) -> Text:
    """What the section is about, its net too where it has but one."""
    from rich.text import Text

    dataset, *rest = section.heading
    said = [dataset, *(section.nets if len(section.nets) == 1 else ()), *rest]
    return Text(" · ".join(map(printable, said)), style="bold")


def _turned(section: Section) -> Table:
    """A section of many columns: each is a row, and a column is a defense."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(
        title=_title(section), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    drawn.add_column("", overflow="fold", max_width=44)
    for line in section.lines:
        many = f"{len(line.rows)} seeds" if isinstance(line, Several) else ""
        seed = many or ("" if line.maker.seed is None else f"seed {line.maker.seed}")
        net = printable(line.net) if len(section.nets) > 1 else ""
        trust = "" if line.trusted else NOT_TRUSTED
        label = "\n".join(filter(None, [printable(line.maker.defense), net, line.maker.which, seed, trust]))
        drawn.add_column(Text(label), justify="right", overflow="fold")
    names = [*(printable(h.name) for h in section.heads), *([section.summary] if section.summary else [])]
    columns = [_cells(section, line, narrow=False) for line in section.lines]
    for name, *cells in zip(names, *columns, strict=True):
        drawn.add_row(Text(name), *cells, style="bold" if name == section.summary else "")
    return drawn


def _table_of(section: Section) -> Table:
    """A section as rich draws it; labels are shown as they are, markup in them too."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(
        title=_title(section), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    drawn.add_column("defense", ratio=1, overflow="fold", min_width=12)
    drawn.add_column("weights")
    heads = [*(h.name for h in section.heads), *([section.summary] if section.summary else [])]
    several = len(section.nets) > 1  # then the net stands below the defense
    narrow = len(heads) > 6  # then the half-width goes below its number
    for head in heads:
        name = printable(head).replace("-", "-\n") if len(head) > 9 else printable(head)
        drawn.add_column(Text(name), justify="right", no_wrap=True)
    for line in section.lines:
        made, rows = line.maker, line.rows if isinstance(line, Several) else ()
        seed = f"{len(rows)} seeds" if rows else "" if made.seed is None else f"seed {made.seed}"
        below = "\n".join(filter(None, [made.which, seed])) or "–"
        style = "bold" if rows else ""
        trust = [] if line.trusted else [NOT_TRUSTED]
        named = Text("\n".join(map(printable, [made.defense, *([line.net] if several else []), *trust])))
        drawn.add_row(named, below, *_cells(section, line, narrow), style=style)
        for row in rows:
            which = "" if row.maker.which == made.which else f"\n  {row.maker.which}"
            drawn.add_row("", f"· seed {row.maker.seed}{which}", *_cells(section, row, narrow))
    return drawn


def _cells(section: Section, line: Row | Several, narrow: bool) -> list[Text]:
    """The numbers of a line, in the order of the heads."""
    from rich.text import Text

    numbers = [*(line.numbers.get(h.name) for h in section.heads), *([line.summary] if section.summary else [])]
    return [Text(_brief(x, section.n, "\n" if narrow else " ")) for x in numbers]


def _brief(number: Number | Spread | None, n: int, between: str) -> str:
    """`53.2 ±3.1`, `≤48.0`, or a dash; an asterisk where it is on fewer images than the section's n."""
    if number is None:
        return "–"
    if number.bound:
        return f"≤{percent(number.accuracy)}{between if between != ' ' else ''}"
    if isinstance(number, Number):
        low, high = number.interval
        half = (high - low) / 2
    else:
        half = number.sd or 0.0
    return f"{percent(number.accuracy)}{'*' if number.n < n else ''}{between}±{percent(half)}"


def _footnote(section: Section) -> str:
    """What the numbers are shares of."""
    of = f" of {section.available:,}" if section.available else ""
    said = [f"% of the first {section.n:,}{of} test images; ± is half the width of the 95 % interval"]
    if any(isinstance(line, Several) for line in section.lines):
        said.append("in a line of several seeds: their mean, ± the sample standard deviation over the seeds")
    few = {f"{name} {x.n:,}" for row in section.rows for name, x in row.numbers.items() if x.n < section.n}
    if few:
        said.append(f"* on fewer: {', '.join(sorted(map(printable, few), key=natural))}")
    if any(r.summary and r.summary.bound for r in section.rows):
        said.append("≤ an upper bound: some column has not decided every image")
    if any(not r.trusted for r in section.rows):
        open_ = any(f.state == "open" for r in section.rows for f in r.trust.findings)
        more = ". bench run --escalate asks attacks that may settle it" if open_ else ""
        said.append(f"{NOT_TRUSTED}: a doubt says that the number lies, and nothing settled it; it has no rank{more}")
    doubts = sum(len(r.doubts) for r in section.rows)
    if doubts:
        said.append(f"{doubts} {'doubt' if doubts == 1 else 'doubts'}: see the page or board.json")
    return "\n".join(said) + "\n"
