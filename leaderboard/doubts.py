"""Reasons to distrust a row: what its records say, and what shows when they are set side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from leaderboard.contradictions import Asked, contradictions
from leaderboard.images import Images
from leaderboard.words import name_of, natural

if TYPE_CHECKING:
    from bench import Record
    from leaderboard.arithmetic import Outcome

STEPS = 10  # gradients an image, of an attack worth its name
NAMED = 20  # images that a doubt names; of the others it gives the number
RARE = 0.002  # the share of the images that is passed over, as in AutoAttack's own check


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


def masked(cells: Mapping[str, Outcome]) -> tuple[Doubt, ...]:
    """What shows when the attacks on one model are set side by side."""
    gradients = {attack: _gradients(c) for attack, c in cells.items()}
    asked = [
        Asked(attack, c.records[0].access, gradients[attack], c.asked, c.fell) for attack, c in sorted(cells.items())
    ]  # fmt: skip
    return (*_blind(cells, gradients), *(Doubt(found.text, found.attacks) for found in contradictions(asked)))


def _blind(cells: Mapping[str, Outcome], gradients: Mapping[str, float]) -> tuple[Doubt, ...]:
    """Images that fell to attacks without gradients, and to none with gradients that was asked about them.

    The gradients of such a model may be masked: who has them can do all that one can do without (arXiv:1802.00420).
    What takes less than ten gradients an image, as FGSM does, proves nothing.
    """
    white = {a: c for a, c in cells.items() if c.records[0].access == "gradients"}
    black = {a: c for a, c in cells.items() if c.records[0].access in ("scores", "labels")}
    withstood = Images.union(c.asked for a, c in white.items() if gradients[a] >= STEPS)
    withstood -= Images.union(c.fell for c in white.values())
    fell = {a: c.fell & withstood for a, c in black.items() if c.fell & withstood}
    images = list(Images.union(fell.values()))
    n = len(Images.union(c.asked for c in cells.values()))
    if len(images) <= RARE * n:
        return ()
    more = f" and {len(images) - NAMED:,} more" if len(images) > NAMED else ""
    named = ", ".join(map(str, images[:NAMED])) + more
    noun = "image" if len(images) == 1 else "images"
    text = (
        f"{len(images):,} {noun} fell to an attack without gradients and to none with them ({named}): masked gradients?"
    )
    return (Doubt(text, tuple(sorted({name_of(a) for a in fell}, key=natural))),)


def _gradients(cell: Outcome) -> float:
    """Backwards for each image that it left standing."""
    return sum(r.cost.backwards for r in cell.records) / max(1, len(cell.asked - cell.fell))
