"""The documents of a ledger, read once: what can be read, and the names of what cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench import ColumnCard, DatasetCard, ExamCard, RampartError, Record, TrainingRecord
from leaderboard.images import Images

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
    distances: Mapping[str, Mapping[int, float]] = field(default_factory=dict)  # by the hash of a record's sidecar
    damaged: tuple[str, ...] = ()  # a sentence for each file that was skipped, with its path in the ledger

    @classmethod
    def of(cls, ledger: Ledger) -> Documents:
        """The documents of a ledger; a file that is damaged or of an unknown schema is named and skipped."""
        damaged: list[str] = []
        kept: dict[type, list[Any]] = {}
        distances: dict[str, Mapping[int, float]] = {}
        shared: dict[Any, Any] = {}
        for document in ledger.all(damaged.append):
            if not isinstance(document, Record):
                kept.setdefault(type(document), []).append(document)
                continue
            try:
                if document.threat is not None and ":" not in document.threat:  # a minimum-norm attack's
                    distances[document.images] = _distances(ledger, document)
                kept.setdefault(Record, []).append(_small(document, shared))
            except (RampartError, OSError, KeyError, ValueError) as error:
                damaged.append(f"{document.key}: a record is skipped: {error}".replace(f"{ledger.root}/", ""))
        return cls(
            tuple(kept.get(Record, ())),
            tuple(kept.get(TrainingRecord, ())),
            tuple(kept.get(DatasetCard, ())),
            tuple(kept.get(ColumnCard, ())),
            tuple(kept.get(ExamCard, ())),
            distances,
            tuple(damaged),
        )


def _small(record: Record, shared: dict[Any, Any]) -> Record:
    """The same record in less memory: images as bitmaps where they ascend, and what many records share once."""
    changes: dict[str, Any] = {}
    for name in ("asked", "fell"):
        places = getattr(record, name)
        if places == sorted(places):
            changes[name] = Images(places)
    for name in ("net", "weights", "dataset", "test", "condition", "threat", "attack", "images", "source", "commit"):
        value = getattr(record, name)
        changes[name] = shared.setdefault(value, value)
    machine = record.machine
    changes["machine"] = shared.setdefault((machine.device, machine.name, machine.threads, machine.tile), machine)
    changes["versions"] = shared.setdefault(tuple(record.versions.items()), record.versions)
    return record.model_copy(update=changes)


def _distances(ledger: Ledger, record: Record) -> Mapping[int, float]:
    """The distance of each image that a minimum-norm attack was asked."""
    return dict(zip(record.asked, map(float, ledger.images(record)["distance"]), strict=True))
