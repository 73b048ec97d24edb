"""Which commit, or which settings, lowered robustness?  The parts that both searches share.

Every step is an exam, judged beside the good end by the gate's paired test; what is in the ledger is not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from bench.gate import Comparison, Rules, compare
from bench.standing import Standing, Standings

if TYPE_CHECKING:
    from rich.table import Table

Verdict = Literal["held", "regressed", "inconclusive", "broken"]  # broken: it could not be examined
T = TypeVar("T", bound=Hashable)
Report = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """One exam on the way, beside the good end."""

    what: str
    verdict: Verdict
    comparisons: tuple[Comparison, ...] = ()
    said: str = ""  # why it is broken, or what was not run again


@dataclass(frozen=True)
class Found:
    """The answer.  culprits: each is enough alone; a set of settings is so only together."""

    culprits: tuple[tuple[str, ...], ...]
    sentence: str
    steps: tuple[Step, ...]
    exit_code: int


def judge(what: str, good: Standings, now: Standings, rules: Rules, only: set[object], said: str = "") -> Step:
    """A step's verdict, on the columns that the bad end lost (`only`; all where there is none yet)."""
    before, after = (
        Standings(tuple(s for s in side.every if not only or column_of(s) in only)) for side in (good, now)
    )
    report = compare(before, after, rules)
    if not report.comparisons:
        return Step(what, "broken", said="it has no column in common with the good end")
    unsure = report.inconclusive or report.untrusted
    verdict: Verdict = "regressed" if report.regressed else "inconclusive" if unsure else "held"
    return Step(what, verdict, report.comparisons, said)


def column_of(standing: Standing) -> object:
    """What a standing is about, whatever the seed."""
    return standing.model._replace(seed=None), standing.question


def lost_columns(step: Step) -> set[object]:
    """The columns in which a step regressed."""
    return {column_of(s) for c in step.comparisons if c.verdict == "regressed" for s in c.now}


def ends(step: Step, steps: Sequence[Step]) -> Found | None:
    """The answer where the bad end is no worse than the good one, or nobody can tell."""
    if step.verdict == "regressed":
        return None
    said = {
        "held": "Nothing to find: the bad end is no worse than the good one, by more than --max-drop.",
        "inconclusive": "Nothing to find yet: the bad end may be worse, but chance explains as much; ask more images.",
        "broken": f"{step.what} cannot be judged: {step.said}.",
    }
    return Found((), said[step.verdict], tuple(steps), 0 if step.verdict == "held" else 4)


def first_bad(count: int, verdict_of: Callable[[int], Verdict]) -> range:
    """Which of so many in a row, of which the last is bad and one before the first is good, may be the first bad one.

    One, unless those before it are broken.  It looks at about log2(count) of them, more where some are broken; what is
    inconclusive counts as good.
    """
    low, high, broken = -1, count - 1, set[int]()
    while open_ := [i for i in range(low + 1, high) if i not in broken]:
        middle = (low + high) // 2
        place = min(open_, key=lambda i: (abs(i - middle), -i))
        verdict = verdict_of(place)
        if verdict == "broken":
            broken.add(place)
        elif verdict == "regressed":
            high = place
        else:
            low = place
    return range(low + 1, high + 1)


def smallest_sets(items: Sequence[T], is_bad: Callable[[frozenset[T]], bool]) -> tuple[tuple[T, ...], ...]:
    """The items that are bad alone; where none is, one set of which no item can be left out.

    All items together are bad.  The set is found by delta debugging (Zeller and Hildebrandt, 2002, ddmin).
    """
    if len(items) == 1:
        return (tuple(items),)
    alone = tuple((item,) for item in items if is_bad(frozenset({item})))
    return alone or (_ddmin(tuple(items), is_bad),)


def _ddmin(items: tuple[T, ...], is_bad: Callable[[frozenset[T]], bool]) -> tuple[T, ...]:
    parts = 2
    while len(items) >= 2:
        bounds = [len(items) * i // parts for i in range(parts + 1)]
        subsets = [items[a:b] for a, b in pairwise(bounds)]
        rests = [tuple(i for i in items if i not in subset) for subset in subsets]
        if smaller := next((s for s in subsets if is_bad(frozenset(s))), None):
            items, parts = smaller, 2
        elif parts > 2 and (smaller := next((s for s in rests if is_bad(frozenset(s))), None)):
            items, parts = smaller, max(parts - 1, 2)
        elif parts < len(items):
            parts = min(2 * parts, len(items))
        else:
            break
    return items


def table(steps: Iterable[Step]) -> Table:
    """The steps for a terminal: accuracies in %, of the columns that were judged."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    drawn.add_column("step", overflow="fold", min_width=24)
    for head in ("verdict", "column"):
        drawn.add_column(head, overflow="fold", min_width=12)
    for head in ("good end", "here", "drop", "p"):
        drawn.add_column(head, justify="right", no_wrap=True, min_width=8)
    styles = {"regressed": "bold red", "inconclusive": "yellow", "held": "green", "broken": "dim"}
    for step in steps:
        rows: list[tuple[str, ...]] = [
            (
                c.now[0].column, f"{100 * c.accuracy_before:.1f}", f"{100 * c.accuracy_now:.1f}",
                f"{100 * c.drop:.1f}", f"{c.adjusted:.2g}",
            )
            for c in step.comparisons
        ] or [(step.said, "", "", "", "")]  # fmt: skip
        for place, row in enumerate(rows):
            first = (step.what, step.verdict) if place == 0 else ("", "")
            cells = (_printable(cell) for cell in (*first, *row))
            drawn.add_row(*(Text(cell, style=styles.get(cell, "")) for cell in cells))
    return drawn


def document(found: Found, **more: Any) -> dict[str, Any]:
    """The answer in plain values."""
    return {
        "schema": "rampart/bisect-1", **more, "culprits": [list(c) for c in found.culprits],
        "sentence": found.sentence, "exit_code": found.exit_code,
        "steps": [
            {
                "what": s.what, "verdict": s.verdict, "said": s.said,
                "columns": [
                    {
                        "column": c.now[0].column, "condition": c.now[0].question.condition, "n": c.n,
                        "accuracy_good": c.accuracy_before, "accuracy": c.accuracy_now, "drop": c.drop,
                        "p_value": c.adjusted, "verdict": c.verdict,
                    }
                    for c in s.comparisons
                ],
            }
            for s in found.steps
        ],
    }  # fmt: skip


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
