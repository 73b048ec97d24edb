"""The documents of a ledger, read once: what can be read, and the names of what cannot."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import ColumnCard, DatasetCard, ExamCard, RampartError, Record, ThreatModel, TrainingRecord, read_document
from leaderboard.images import LIMIT, Images

if TYPE_CHECKING:
    from bench import Ledger

ASKED, FELL = b',"asked":[', b'],"fell":['


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
    distances: Mapping[str, Mapping[int, float]] = field(default_factory=dict)  # by the hash of a record's sidecar
    damaged: tuple[str, ...] = ()  # a sentence for each file that was skipped, with its path in the ledger

    @classmethod
    def of(cls, ledger: Ledger) -> Documents:
        """The documents of a ledger; a file that is damaged or of an unknown schema is named and skipped."""
        damaged: list[str] = []
        kept: dict[type, list[Any]] = {}
        distances: dict[str, Mapping[int, float]] = {}
        with _no_sweeps():
            found = list(ledger.all(damaged.append, _Reader()))
        for document in found:
            try:
                if isinstance(document, Record | ExamCard):
                    _check_threat(document.threat)
                if isinstance(document, Record) and document.threat is not None and ":" not in document.threat:
                    distances[document.images] = _distances(ledger, document)  # a minimum-norm attack's
            except (RampartError, OSError, KeyError, ValueError, OverflowError) as error:
                damaged.append(f"{document.key}: a record is skipped: {error}".replace(f"{ledger.root}/", ""))
            else:
                kept.setdefault(type(document), []).append(document)
        return cls(
            tuple(kept.get(Record, ())),
            tuple(kept.get(TrainingRecord, ())),
            tuple(kept.get(DatasetCard, ())),
            tuple(kept.get(ColumnCard, ())),
            tuple(kept.get(ExamCard, ())),
            distances,
            tuple(damaged),
        )


@contextmanager
def _no_sweeps() -> Iterator[None]:
    """Keep Python from looking for cycles: what is read holds none, and each search goes through all of it again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@lru_cache(maxsize=4096)
def _check_threat(text: str | None) -> None:
    """UsageError unless it is a threat, or the norm of one, or None."""
    if text is not None:
        ThreatModel.of_cell(text)


def _distances(ledger: Ledger, record: Record) -> Mapping[int, float]:
    """The distance of each image that a minimum-norm attack was asked."""
    return dict(zip(record.asked, map(float, ledger.images(record)["distance"]), strict=True))


class _Reader:
    """Reads documents from their JSON, records into little memory: images as bitmaps, what many share once.

    Most of a record is its lists of images, which pydantic makes a Python integer for each of.  So they are cut out
    of the text, where that is as the bench writes it, and only the rest goes through pydantic.
    """

    def __init__(self) -> None:
        self.shared: dict[Any, Any] = {}

    def __call__(self, content: bytes) -> Any:
        """The document; ValueError says what is wrong with it."""
        found = self._cut(content)
        document = read_document(found[0] if found else content)
        if not isinstance(document, Record):
            return document
        if found and document.asked == [0] and not document.fell:
            return self._small(document, {"asked": found[1], "fell": found[2]})
        if found:
            document = read_document(content)
            assert isinstance(document, Record)
        lists = {name: getattr(document, name) for name in ("asked", "fell")}
        return self._small(document, {name: Images(x) for name, x in lists.items() if x == sorted(x)})

    @staticmethod
    def _cut(content: bytes) -> tuple[bytes, Images, Images] | None:
        """A record's text without its images, and these; None where the text is not as the bench writes it.

        Quotes within strings follow a backslash, so what is found here is no part of a name.
        """
        start = content.find(ASKED)
        middle = content.find(b"]", start)
        if start < 0 or not content.startswith(FELL, middle) or content.find(ASKED, middle) >= 0:
            return None
        end = content.find(b"]", middle + len(FELL))
        asked, fell = _ascending(content[start + len(ASKED) : middle]), _places(content[middle + len(FELL) : end])
        if not asked or fell is None or fell.bits & ~asked.bits:
            return None
        return content[: start + len(ASKED)] + b"0" + FELL + content[end:], asked, fell

    def _small(self, record: Record, changes: dict[str, Any]) -> Record:
        """The record with these changes, and with what other records hold too."""
        share = self.shared.setdefault
        for name in (
            "net",
            "weights",
            "dataset",
            "test",
            "condition",
            "threat",
            "attack",
            "images",
            "source",
            "commit",
        ):
            value = getattr(record, name)
            changes[name] = share(value, value)
        machine = record.machine
        changes["machine"] = share((machine.device, machine.name, machine.threads, machine.tile), machine)
        changes["versions"] = share(tuple(record.versions.items()), record.versions)
        return record.model_copy(update=changes)


def _places(text: bytes) -> Images | None:
    """The places in a JSON list, without its brackets; None unless they are whole numbers that ascend."""
    if not text:
        return Images()
    # Only 0 may begin with a zero, and in a list that ascends it is the first.
    if text.translate(None, b"0123456789,") or b",," in text or b",0" in text or text[-1:] == b",":
        return None
    if (text[:1] == b"0" and text[1:2] not in {b"", b","}) or text[:1] == b",":
        return None
    places = np.fromstring(text, dtype=np.int64, sep=",")
    if places[-1] >= LIMIT or (places[1:] <= places[:-1]).any():
        return None
    bits = np.zeros(int(places[-1]) + 1, bool)
    bits[places] = True
    return Images.of(int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little"))


_ascending = lru_cache(maxsize=64)(_places)  # what was asked, several attacks in turn were asked
