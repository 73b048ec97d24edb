"""The documents of a ledger, read once: what can be read, and the names of what cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from bench import (
    CertificateRecord,
    CheckRecord,
    ColumnCard,
    DatasetCard,
    ExamCard,
    Picture,
    RampartError,
    Record,
    ReportedCard,
    TableCard,
    ThreatModel,
    TrainingRecord,
    VerificationRecord,
)
from leaderboard.reading import read_all

if TYPE_CHECKING:
    from bench import Ledger


@dataclass(frozen=True, eq=False)
class Documents:
    """Everything that a ledger holds, in its order.

    Of the records, `asked` and `fell` are Images wherever their places ascend, as those that the bench writes do.
    """

    records: tuple[Record, ...] = ()
    trainings: tuple[TrainingRecord, ...] = ()
    datasets: tuple[DatasetCard, ...] = ()
    columns: tuple[ColumnCard, ...] = ()
    exams: tuple[ExamCard, ...] = ()
    tables: tuple[TableCard, ...] = ()
    reported: tuple[ReportedCard, ...] = ()
    pictures: tuple[Picture, ...] = ()
    distances: Mapping[str, Mapping[int, float]] = field(default_factory=dict)  # by the hash of a record's sidecar
    verified: frozenset[str] = frozenset()  # cells all of whose records were recounted, and held
    certificates: tuple[CertificateRecord, ...] = ()
    damaged: tuple[str, ...] = ()  # a sentence for each file that was skipped, with its path in the ledger
    checks: tuple[CheckRecord, ...] = ()

    @classmethod
    def of(cls, ledger: Ledger) -> Documents:
        """The documents of a ledger; a file that is damaged or of an unknown schema is named and skipped."""
        damaged: list[str] = []
        kept: dict[type, list[Any]] = {}
        distances: dict[str, Mapping[int, float]] = {}
        for document in read_all(ledger, damaged):
            try:
                if isinstance(document, Record | ExamCard | TableCard | CertificateRecord):
                    _check_threat(document.threat)
                if isinstance(document, Record) and document.threat is not None and ":" not in document.threat:
                    distances[document.images] = _distances(ledger, document)  # a minimum-norm attack's
            except (RampartError, SafetensorError, OSError, KeyError, ValueError, OverflowError) as error:
                damaged.append(f"{document.key}: a record is skipped: {error}".replace(f"{ledger.root}/", ""))
            else:
                kept.setdefault(type(document), []).append(document)
        return cls(
            tuple(kept.get(Record, ())),
            tuple(kept.get(TrainingRecord, ())),
            tuple(kept.get(DatasetCard, ())),
            tuple(kept.get(ColumnCard, ())),
            tuple(kept.get(ExamCard, ())),
            tuple(kept.get(TableCard, ())),
            tuple(kept.get(ReportedCard, ())),
            tuple(kept.get(Picture, ())),
            distances,
            _verified(ledger, kept.get(Record, ()), kept.get(VerificationRecord, ())),
            tuple(kept.get(CertificateRecord, ())),
            tuple(damaged),
            tuple(kept.get(CheckRecord, ())),
        )


def _verified(ledger: Ledger, records: Iterable[Record], said: Iterable[VerificationRecord]) -> frozenset[str]:
    """The cells that have as many recounted records as they have records."""
    recounted: dict[str, set[str]] = {}
    for note in said:
        if (ledger.root / note.key / f"{note.record}.json").exists():
            recounted.setdefault(note.key, set()).add(note.record)
    counts = Counter(record.key for record in records if record.key in recounted)
    return frozenset(key for key, files in recounted.items() if len(files) == counts[key])


@lru_cache(maxsize=4096)
def _check_threat(text: str | None) -> None:
    """UsageError unless it is a threat, or the norm of one, or None."""
    if text is not None:
        ThreatModel.of_cell(text)


def _distances(ledger: Ledger, record: Record) -> Mapping[int, float]:
    """The distance of each image that a minimum-norm attack was asked."""
    return dict(zip(record.asked, map(float, ledger.images(record)["distance"]), strict=True))
