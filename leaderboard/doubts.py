"""Reasons to distrust a row: what its records say, and what shows when they are set side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import Asked, contradictions
from leaderboard.words import name_of, natural

if TYPE_CHECKING:
    from bench import Contradiction, Record
    from leaderboard.arithmetic import Outcome


@dataclass(frozen=True)
class Doubt:
    """A reason to distrust a row, and the attacks whose records say so."""

    text: str
    attacks: tuple[str, ...]


def said(records: Iterable[Record]) -> tuple[Doubt, ...]:
    """The distinct doubts of records."""
    found: dict[str, set[str]] = {}
    sources: dict[str, set[str]] = {}
    for record in records:
        sources.setdefault(record.attack, set()).add(record.source)
        for doubt in record.doubts:
            found.setdefault(doubt, set()).add(name_of(record.attack))
    for attack, versions in sources.items():
        if len(versions) > 1:
            found.setdefault("the attack's source changed between records of one version", set()).add(name_of(attack))
    return tuple(Doubt(text, tuple(sorted(attacks, key=natural))) for text, attacks in sorted(found.items()))


def beside(cells: Mapping[str, Outcome]) -> tuple[Contradiction, ...]:
    """What shows when the attacks on one model are set side by side."""
    asked = [
        Asked(attack, c.records[0].access, _gradients(c), c.asked, c.fell) for attack, c in sorted(cells.items())
    ]  # fmt: skip
    return contradictions(asked)


def _gradients(cell: Outcome) -> float:
    """Backwards for each image that it left standing."""
    return sum(r.cost.backwards for r in cell.records) / max(1, len(cell.asked - cell.fell))
