"""The published board: one page that needs nothing else, and the same as JSON."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import write_atomically
from leaderboard import words
from leaderboard.curves import SIZE, Curve, figures
from leaderboard.history import SIZE as PANEL
from leaderboard.history import lessons, plain
from leaderboard.rows import Board, Head, Row, Section, named
from leaderboard.seeds import Group, Spread
from leaderboard.table import table

if TYPE_CHECKING:
    from jinja2 import Environment

    from bench import Ledger, TrainingRecord
    from leaderboard.arithmetic import Number, Spent

_HERE = Path(__file__).parent

RULES = {
    "accuracy": "standing / (n * conditions): the share of the first n test images that no attack of the column felled",
    "interval": "the Wilson score interval at 95 %; of a bound only the upper end says something",
    "bound": "true: images that are not decided yet are counted as standing; the accuracy is this or less",
    "partial": "true: on fewer images than clean was asked",
    "strict": "an image that the clean model gets wrong counts as fallen; columns that are not strict ignore clean",
    "worst": "the union of all strict columns but clean",
    "first": "the column is about so many of the first test images; 0 is all",
    "curves": "the share of the n first images whose distance, as a minimum-norm attack found it, is larger than eps; "
    "0 where clean lost the image; found: the share with a distance; median: the least distance that more than half "
    "do not exceed, null where no more than half were found",
    "seeds": "the rows that differ in their training seed alone: the mean of their accuracies, and sd, the sample "
    "standard deviation (n - 1) over the n seeds; null while a seed is undecided, and then mean is a bound; images: "
    "the fewest and the most behind a seed's number",
    "history": "an entry an epoch; val_clean and val_pgd10 are shares of the validation images; null where a value is "
    "no finite number",
    "attack_seeds": "where an attack was run with several seeds, the smallest one is shown",
}


def publish(ledger: Ledger, site: Path, n: int = 0) -> Path:
    """Write site/index.html and site/board.json from the ledger alone, and return the page's path; n as in table."""
    board = table(ledger, n)
    content = json.dumps(document(board), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    write_atomically(site / "board.json", content.encode())
    write_atomically(site / "index.html", page(board).encode())
    return site / "index.html"


def document(board: Board) -> dict[str, Any]:
    """The board as plain values, for json.dumps."""
    return {
        "schema": "rampart/board-1",
        "rules": RULES,
        "sections": [_section(s) for s in board.sections],
        "records": board.records,
        "trainings": [_training(t) for t in board.made_by],
        "made": list(board.made) if board.made else None,
        "commits": list(board.commits),
        "versions": {package: list(versions) for package, versions in board.versions},
        "machines": list(board.machines),
    }


def _section(section: Section) -> dict[str, Any]:
    return {
        "dataset": section.dataset,
        "test": section.test,
        "net": section.net,
        "net_key": section.net_key,
        "threat": section.threat,
        "condition": section.condition,
        "n": section.n,
        "test_images": section.available,
        "columns": [{"name": h.name, "of": list(h.of), "strict": h.strict, "first": h.first} for h in section.heads],
        "summary": section.summary or None,
        "rows": [_row(r) for r in section.rows],
        "seeds": [_group(line) for line in section.lines if isinstance(line, Group)],
    }


def _group(group: Group) -> dict[str, Any]:
    return {
        "defense": group.maker.defense,
        "which": group.which,
        "seeds": list(group.seeds),
        "weights": [row.weights for row in group.rows],
        "numbers": {name: _spread(spread) for name, spread in group.numbers.items()},
        "summary": _spread(group.summary) if group.summary else None,
    }


def _spread(spread: Spread) -> dict[str, Any]:
    return {
        "mean": round(spread.accuracy, 6),
        "sd": None if spread.sd is None else round(spread.sd, 6),
        "n": spread.seeds,
        "decided": spread.decided,
        "bound": spread.bound,
        "images": [spread.n, spread.most],
    }


def _training(training: TrainingRecord) -> dict[str, Any]:
    return {
        "key": training.key,
        "defense": training.label,
        "recipe": training.defense,
        "net": training.net_label,
        "dataset": training.dataset,
        "threat": training.threat,
        "seed": training.seed,
        "weights": dict(sorted(training.weights.items())),
        "seconds": training.cost.seconds,
        "history": plain(training.history),
    }


def _row(row: Row) -> dict[str, Any]:
    training = row.maker.training
    return {
        "defense": row.maker.defense,
        "seed": row.maker.seed,
        "which": row.maker.which or None,
        "weights": row.weights,
        "training": training.key if training else None,
        "trained_for": (training.threat or None) if training else None,
        "trained_on": training.dataset if training else None,
        "parameters": training.parameters if training else None,
        "multiply_adds": training.macs if training else None,
        "training_seconds": training.cost.seconds if training else None,
        "numbers": {name: _number(number) for name, number in row.numbers.items()},
        "summary": _number(row.summary) if row.summary else None,
        "cost": _spent(row.spent),
        "doubts": [{"text": d.text, "attacks": list(d.attacks)} for d in row.doubts],
        "notes": list(row.notes),
        "curves": {name: _curve(curve) for name, curve in row.curves.items()},
    }


def _curve(curve: Curve) -> dict[str, Any]:
    points = curve.points()
    return {
        "n": curve.n,
        "found": round(curve.found, 6),
        "median": round(curve.median, 9) if math.isfinite(curve.median) else None,
        "eps": [round(eps, 9) for eps, _ in points],
        "accuracy": [round(accuracy, 6) for _, accuracy in points],
    }


def _number(number: Number) -> dict[str, Any]:
    return {
        "accuracy": round(number.accuracy, 6),
        "interval": [round(end, 6) for end in number.interval],
        "standing": number.standing,
        "n": number.n,
        "conditions": number.conditions,
        "bound": number.bound,
        "partial": number.partial,
        "cost": _spent(number.spent),
        "attack_seeds": dict(number.seeds),
    }


def _spent(spent: Spent) -> dict[str, Any]:
    return {"forwards": spent.forwards, "backwards": spent.backwards, "seconds": spent.seconds}


@dataclass(frozen=True)
class Scale:
    """Where a column's marks lie: from `low` to `high` percent, and the interval of the column's best number."""

    low: int
    high: int
    best: tuple[float, float]

    @classmethod
    def of(cls, lines: Sequence[Number | Spread], seeds: Sequence[Number | Spread] = ()) -> Scale:
        """The tens around the intervals, those of the single seeds of groups too, at least 20 points apart.

        Numbers below half the best one may lie off the scale: an undefended model at 0 would press all others
        together, and it is they that are to be told apart.
        """
        numbers = [*lines, *seeds]
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

    head: Head
    scale: Scale
    summary: bool = False

    def of(self, line: Row | Group) -> Number | Spread | None:
        """What it says of a line."""
        return line.summary if self.summary else line.numbers.get(self.head.name)


def drawn(section: Section) -> list[Drawn]:
    """The numeric columns of a section, the one that sums up last."""
    heads = [(h, False) for h in section.heads] + ([(Head(section.summary, ()), True)] if section.summary else [])
    found = []
    for head, last in heads:
        column = Drawn(head, Scale.of([]), last)
        lines, seeds = (
            [x for x in map(column.of, rows) if x is not None]
            for rows in (section.lines, [r for line in section.lines if isinstance(line, Group) for r in line.rows])
        )
        found.append(Drawn(head, Scale.of(lines, seeds), last))
    return found


def page(board: Board) -> str:
    """The page: valid HTML that asks for no other file, and whose labels are text whatever they hold."""
    style, script = ((_HERE / "static" / name).read_text(encoding="utf-8") for name in ("board.css", "board.js"))
    icon = (_HERE / "static" / "icon.svg").read_bytes()
    taught = lessons(board)
    anchors = {named(h.training): h.anchor for lesson in taught for h in lesson.histories}
    return _environment().get_template("board.html").render(
        board=board, drawn=drawn, figures=figures, size=SIZE, panel=PANEL, style=style, script=script,
        lessons=taught, anchor=lambda training: anchors.get(named(training)),
        several=any(isinstance(line, Group) for s in board.sections for line in s.lines),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        icon=base64.b64encode(icon).decode(),
        both=len({r.maker.which for s in board.sections for r in s.rows} & {"best", "last"}) == 2,
    )  # fmt: skip


def _environment() -> Environment:
    """Jinja with every value escaped, and a mistake in a template an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    found = Environment(
        loader=FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    found.filters |= {
        "printable": words.printable, "percent": words.percent, "amount": words.amount, "duration": words.duration,
        "short": words.short,
    }  # fmt: skip
    return found
