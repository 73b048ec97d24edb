"""A board as CSV, Markdown, LaTeX and BibTeX; what records say is text in each of them, whatever it holds."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from leaderboard.arithmetic import Number
from leaderboard.rows import Row, Section
from leaderboard.seeds import Group, Spread
from leaderboard.words import percent, printable

if TYPE_CHECKING:
    from leaderboard.published import Paper
    from leaderboard.rows import Board

FEW = 4  # commits that a citation names
LONG = 120  # characters of a name, beyond which it is cut in tables for papers

FACTS = (
    "defense", "net", "trained_on", "trained_for", "seed", "which", "weights", "parameters", "multiply_adds",
    "training_seconds", "division", "tier", "forwards", "backwards", "attack_seconds", "doubts", "notes",
    "rank", "trusted", "gradient_honesty", "before_probes",
)  # fmt: skip
NAMES = ("defense", "net", "weights", "seed")  # of what names a line
OF_A_NUMBER = ("accuracy", "low", "high", "standing", "n", "conditions", "bound")


def columns(section: Section) -> list[str]:
    """The names of a board's columns as they are shown, each once; the one that sums up last."""
    names = [*(h.name for h in section.heads), *([section.summary] if section.summary else [])]
    taken: dict[str, str] = {}
    for place, name in enumerate(names):
        shown = printable(name) or "–"
        taken[f"{shown} #{place + 1}" if shown in taken else shown] = name
    return list(taken)


def numbers(section: Section, line: Row | Group) -> list[Number | Spread | None]:
    """The numbers of a line, in the order of the columns."""
    summary = [line.summary] if section.summary else []
    return [*(line.numbers.get(h.name) for h in section.heads), *summary]


# CSV: a line a row of the board, and of several seeds one each.


def as_csv(section: Section, places: Sequence[str] = ()) -> str:
    """A board as CSV (RFC 4180, UTF-8): accuracies are shares of 1; `low` and `high` end the 95 % Wilson interval.

    places: the rank of each line of the board; a seed of several has none.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    names = columns(section)
    writer.writerow([*FACTS, *(_cell(f"{of}:{name}") for name in names for of in OF_A_NUMBER)])
    ranked = {id(line): place for line, place in zip(section.lines, places, strict=bool(places))}
    for row in section.rows:
        facts = _facts(row, ranked.get(id(row), "" if row.trusted else "not trusted"))
        writer.writerow([*map(_cell, facts), *(_cell(v) for x in numbers(section, row) for v in _number(x))])
    return out.getvalue()


def _facts(row: Row, place: str) -> list[object]:
    made, t, before = row.maker, row.maker.training, row.trust.before
    return [
        made.defense, row.net, t.dataset if t else None, (t.threat or None) if t else None, made.seed,
        made.which or None, row.weights, t.parameters if t else None, t.macs if t else None,
        t.cost.seconds if t else None, row.division, row.tier, row.spent.forwards, row.spent.backwards,
        row.spent.seconds,
        "; ".join(d.text for d in row.doubts) or None, "; ".join(row.notes) or None,
        place or None, row.trusted, row.trust.honesty, before.accuracy if before else None,
    ]  # fmt: skip


def _number(x: Number | Spread | None) -> list[object]:
    if not isinstance(x, Number):
        return [None] * len(OF_A_NUMBER)
    low, high = x.interval
    return [x.accuracy, low, high, x.standing, x.n, x.conditions, x.bound]


def _cell(value: object) -> str:
    """A value as text; what a spreadsheet would run as a formula begins with an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = printable(str(value))
    return f"'{text}" if text[:1] in set("=+-@") else text


# Markdown and LaTeX: a line a line of the board, as the page has it.


def as_markdown(section: Section, places: Sequence[str] = ()) -> str:
    """A board as a table of GitHub's Markdown, in percent.  places: the rank of each line."""
    escaped = [[_markdown(cell) for cell in line] for line in _lines(section, places)]
    words = len(NAMES) + bool(places)
    rule = ["---"] * words + ["---:"] * (len(escaped[0]) - words)
    body = "\n".join(f"| {' | '.join(line)} |" for line in [escaped[0], rule, *escaped[1:]])
    title = " · ".join(_markdown(printable(part)) for part in section.heading)
    return f"**{title}**\n\n{body}\n\n{_markdown(_caption(section))}\n"


def _lines(section: Section, places: Sequence[str]) -> list[list[str]]:
    """The head of a table and its lines, as text."""
    head = [*NAMES, *columns(section)]
    lines = [[*_said(line), *map(_brief, numbers(section, line))] for line in section.lines]
    if not places:
        return [head, *lines]
    return [["rank", *head], *([place, *line] for place, line in zip(places, lines, strict=True))]


def _said(line: Row | Group) -> list[str]:
    """What names a line: defense, net, weights, seed."""
    made = line.maker
    if isinstance(line, Group):
        return [printable(made.defense), printable(line.net), made.which, f"{len(line.rows)} seeds"]
    return [printable(made.defense), printable(line.net), made.which, "" if made.seed is None else str(made.seed)]


def _brief(x: Number | Spread | None) -> str:
    """`53.2 [50.1, 56.3]`, `53.2 ± 0.4` over seeds, `≤ 48.0`, or a dash."""
    if x is None:
        return "–"
    if x.bound:
        return f"≤ {percent(x.accuracy)}"
    if isinstance(x, Spread):
        return f"{percent(x.accuracy)} ± {percent(x.sd or 0.0)}"
    low, high = x.interval
    return f"{percent(x.accuracy)} [{percent(low)}, {percent(high)}]"


def _caption(section: Section) -> str:
    """What the numbers are."""
    of = f" of {section.available:,}" if section.available else ""
    said = f"Accuracy in percent on the first {section.n:,}{of} test images; in brackets the 95 % Wilson interval"
    seeds = "; of several seeds the mean ± the standard deviation" if _grouped(section) else ""
    bound = (
        "; ≤ an upper bound"
        if any(x is not None and x.bound for r in section.rows for x in numbers(section, r))
        else ""
    )
    doubted = "; lines that are not trusted have no rank" if any(not line.trusted for line in section.lines) else ""
    fewer = "; some numbers are on fewer images, see the board" if _fewer(section) else ""
    return f"{said}{seeds}{bound}{doubted}{fewer}."


def _grouped(section: Section) -> bool:
    return any(isinstance(line, Group) for line in section.lines)


def _fewer(section: Section) -> bool:
    n = section.n
    return any(x is not None and x.n < n for row in section.rows for x in numbers(section, row))


_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\`*_[]|~$#"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"})
_LINKS = re.compile(r"\b(https?|ftp):|\bwww\.", re.IGNORECASE)


def _markdown(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no link, no mention."""
    return _LINKS.sub(lambda m: f"{m[0][:-1]}&#{ord(m[0][-1])};", text.translate(_MARKDOWN))


def as_latex(section: Section, places: Sequence[str] = ()) -> str:
    """A board as a LaTeX table with booktabs; it compiles with pdfLaTeX.  places: the rank of each line."""
    head, *lines = _lines(section, places)
    words = len(NAMES) + bool(places)
    rows = [" & ".join(latex(_cut(cell)) for cell in line) + r" \\" for line in lines]
    title = ", ".join(latex(_cut(printable(part))) for part in section.heading)
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{title}. {latex(_caption(section))}}}",
            rf"\begin{{tabular}}{{{'l' * words}{'r' * (len(head) - words)}}}",
            r"\toprule",
            " & ".join(latex(_cut(cell)) for cell in head) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _cut(text: str) -> str:
    return text if len(text) <= LONG else text[: LONG - 1] + "…"


_KNOWN = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}", "*": "{*}",
    "[": "{[}", "]": "{]}", "–": "--", "…": r"\ldots{}", "·": r"\textperiodcentered{}", "±": r"$\pm$", "≤": r"$\le$",
    "×": r"$\times$", "\N{REPLACEMENT CHARACTER}": "?", "\0": "{}",
}  # fmt: skip


class _Latex(dict[int, str]):
    """What LaTeX sets each character by, for str.translate; found once."""

    def __missing__(self, code: int) -> str:
        c = chr(code)
        self[code] = _KNOWN[c] if c in _KNOWN else c if c.isascii() or "À" <= c <= "ÿ" else f"(U+{code:04X})"
        return self[code]


_LATEX = _Latex()


def latex(text: str) -> str:
    """Text that LaTeX sets as it is; a character that pdfLaTeX may not know is its number, U+4E2D."""
    apart = re.sub("-(?=-)", "-\0", text) if "--" in text else text  # two hyphens would be one dash
    return apart.translate(_LATEX)


def as_bibtex(board: Board, section: Section, name: str, cited: Iterable[Paper] = ()) -> str:
    """What cites a board: the board itself with its date and commits, and papers that it stands beside."""
    made = board.made[1] if board.made else ""
    year, month = _date(made)
    title = ", ".join(printable(part) for part in section.heading)
    commits = ", ".join(printable(c)[:12] for c in board.commits[:FEW]) or "not recorded"
    commits += f" and {len(board.commits) - FEW} more" if len(board.commits) > FEW else ""
    facts = {
        "title": f"Rampart: adversarial robustness of defenses on {latex(_cut(title))}",
        "author": "{Rampart}",
        "year": year,
        "month": month,
        "note": f"{len(section.rows)} rows from {board.records} records, the last of {latex(printable(made)[:10])}; "
        f"commit {latex(commits)}",
    }
    entries = [_entry("misc", f"rampart-{name}", facts), *(_entry("misc", p.name, _cited(p)) for p in cited)]
    return "\n".join(entries)


def _cited(paper: Paper) -> dict[str, str]:
    return {
        "title": f"{{{latex(paper.title)}}}",
        "author": " and ".join(map(latex, paper.authors)),
        "year": str(paper.year),
        "note": latex(paper.venue),
        **({"eprint": latex(paper.arxiv), "archivePrefix": "arXiv"} if paper.arxiv else {}),
    }


def _entry(kind: str, key: str, facts: dict[str, str]) -> str:
    said = "".join(f"  {name:<13} = {{{value}}},\n" for name, value in facts.items() if value)
    return f"@{kind}{{{key},\n{said}}}\n"


def _date(made: str) -> tuple[str, str]:
    """Year and month of a time in a record; nothing where it is none."""
    found = re.match(r"([0-9]{4})-(0[1-9]|1[0-2])-", made)
    months = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
    return (found[1], months[int(found[2]) - 1]) if found else ("", "")
