"""How much a number has been checked: `measured` by whoever made the records, or `verified` since."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from bench.records import Record, VerificationRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.ledger import Ledger

Tier = Literal["measured", "verified"]


def tiers(ledger: Ledger) -> dict[str, Tier]:
    """The tier of every cell, by its key: verified where each of its records was recounted and held."""
    recounted: set[str] = set()
    records: dict[str, set[str]] = {}
    for path, read in ledger.files():
        document = read()
        if isinstance(document, VerificationRecord):
            recounted.add(document.record)
        elif isinstance(document, Record):
            records.setdefault(document.key, set()).add(path.stem)
    return {key: "verified" if files <= recounted else "measured" for key, files in records.items()}


def worst(known: Iterable[Tier]) -> Tier:
    """The tier of what several cells make together."""
    return "measured" if "measured" in known else "verified"
