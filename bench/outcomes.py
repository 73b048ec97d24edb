"""The outcome matrix: which images each cell was asked, which fell, and what a column still has to ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.records import Record

if TYPE_CHECKING:
    from bench.exam import Cell, Column
    from bench.ledger import Ledger
    from bench.threat import ThreatModel

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Outcome:
    """A cell's row of the matrix, over the first n test images.  An image that fell once has fallen."""

    asked: Mask
    fell: Mask

    @classmethod
    def nothing(cls, n: int) -> Outcome:
        """No image asked."""
        return cls(np.zeros(n, bool), np.zeros(n, bool))

    @classmethod
    def of(cls, ledger: Ledger, cell: Cell, n: int, threat: ThreatModel) -> Outcome:
        """What the ledger says of a cell; of a minimum-norm attack's, what fell within the threat."""
        found = cls.nothing(n)
        for record in ledger.of(cell.key, Record):
            found.asked[[i for i in record.asked if i < n]] = True
            lost = record.fell if record.threat != threat.norm else fallen_within(ledger, record, threat)
            found.fell[[i for i in lost if i < n]] = True
        return found


def fallen_within(ledger: Ledger, record: Record, threat: ThreatModel) -> list[int]:
    """Which images a minimum-norm attack felled within a threat, by the distances beside its record."""
    distances = ledger.images(record)["distance"]
    return [image for image, d in zip(record.asked, distances.tolist(), strict=True) if d <= threat.limit]


def still_open(column: Column, clean: Outcome, attacks: Sequence[Outcome]) -> Mask:
    """The images on which a column is not decided by what fell.

    In a strict column they are decided too when `clean` lost them; those beyond its first ones are not asked for.
    """
    open_ = ~clean.fell if column.strict else np.ones_like(clean.fell)
    if column.first:
        open_[column.first :] = False
    for outcome in attacks:
        open_ &= ~outcome.fell
    return open_


def next_question(column: Column, clean: Outcome, attacks: Sequence[Outcome]) -> tuple[int, Mask] | None:
    """Which attack of a column to ask next, and about which images; None when the column is decided.

    An image is decided when one attack of the column felled it, or all were asked.  Each attack is asked only about
    images that its forerunners left standing.
    """
    open_ = still_open(column, clean, attacks)
    for place, outcome in enumerate(attacks):
        missing = open_ & ~outcome.asked
        if missing.any():
            return place, missing
    return None
