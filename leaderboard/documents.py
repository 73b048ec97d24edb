"""The documents of a ledger, read once: what can be read, and the names of what cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench import (
    ColumnCard,
    DatasetCard,
    ExamCard,
    RampartError,
    Record,
    ReportedCard,
    TableCard,
    TrainingRecord,
)

if TYPE_CHECKING:
    from bench import Ledger


@dataclass(frozen=True, eq=False)
class Documents:
    """Everything that a ledger holds, in its order."""

    records: tuple[Record, ...] = ()
    trainings: tuple[TrainingRecord, ...] = ()
    datasets: tuple[DatasetCard, ...] = ()
    columns: tuple[ColumnCard, ...] = ()
    exams: tuple[ExamCard, ...] = ()
    tables: tuple[TableCard, ...] = ()
    reported: tuple[ReportedCard, ...] = ()
    distances: Mapping[str, Mapping[int, float]] = field(default_factory=dict)  # by the hash of a record's sidecar
    damaged: tuple[str, ...] = ()  # a sentence for each file that was skipped, with its path in the ledger

    @classmethod
    def of(cls, ledger: Ledger) -> Documents:
        """The documents of a ledger; a file that is damaged or of an unknown schema is named and skipped."""
        damaged: list[str] = []
        found = list(ledger.all(damaged.append))
        records, distances = [], {}
        for record in (d for d in found if isinstance(d, Record)):
            if record.threat is not None and ":" not in record.threat:  # a minimum-norm attack's: distances decide
                try:
                    distances[record.images] = _distances(ledger, record)
                except (RampartError, OSError, KeyError, ValueError) as error:
                    damaged.append(f"a record of {record.key} is skipped: {error}".replace(f"{ledger.root}/", ""))
                    continue
            records.append(record)
        return cls(
            tuple(records),
            tuple(d for d in found if isinstance(d, TrainingRecord)),
            tuple(d for d in found if isinstance(d, DatasetCard)),
            tuple(d for d in found if isinstance(d, ColumnCard)),
            tuple(d for d in found if isinstance(d, ExamCard)),
            tuple(d for d in found if isinstance(d, TableCard)),
            tuple(d for d in found if isinstance(d, ReportedCard)),
            distances,
            tuple(damaged),
        )


def _distances(ledger: Ledger, record: Record) -> Mapping[int, float]:
    """The distance of each image that a minimum-norm attack was asked."""
    return dict(zip(record.asked, map(float, ledger.images(record)["distance"]), strict=True))
