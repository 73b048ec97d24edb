"""The outcome matrix: which images each cell was asked, which fell, and what a column still has to ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.records import Record

if TYPE_CHECKING:
    from bench.ledger import Ledger

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Outcome:
    """A cell's row of the matrix, over the first n test images.  An image that fell once has fallen."""

    asked: Mask
    fell: Mask

    @classmethod
    def of(cls, ledger: Ledger, key: str, n: int) -> Outcome:
        """What the ledger says of a cell."""
        asked, fell = np.zeros(n, bool), np.zeros(n, bool)
        for record in ledger.of(key, Record):
            asked[[i for i in record.asked if i < n]] = True
            fell[[i for i in record.fell if i < n]] = True
        return cls(asked, fell)


def next_question(strict: bool, clean: Outcome, attacks: Sequence[Outcome]) -> tuple[int, Mask] | None:
    """Which attack of a column to ask next, and about which images; None when the column is decided.

    An image is decided when one attack of the column felled it, or all were asked; in a strict column also when
    `clean` lost it.  Each attack is asked only about images that its forerunners left standing.
    """
    open_ = ~clean.fell if strict else np.ones_like(clean.fell)
    for outcome in attacks:
        open_ &= ~outcome.fell
    for place, outcome in enumerate(attacks):
        missing = open_ & ~outcome.asked
        if missing.any():
            return place, missing
    return None
