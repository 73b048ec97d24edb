"""All records: immutable JSON files, <key>/<sha256 of content>.json, only ever added to.

Two ledgers merge by copying files (git merge, rsync): names never clash and content never changes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bench.errors import IncompleteError, IntegrityError
from bench.exam import digest
from bench.files import write_once
from bench.records import (
    CheckRecord,
    ColumnCard,
    DatasetCard,
    Document,
    ExamCard,
    Record,
    TrainingRecord,
    read_document,
    write_document,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from bench.exam import Column, Dataset
    from bench.threat import ThreatModel

_HASH = re.compile("[0-9a-f]{64}")
D = TypeVar("D", Record, TrainingRecord, DatasetCard, ColumnCard, ExamCard, CheckRecord)


@dataclass(frozen=True)
class Ledger:
    """A folder of records."""

    root: Path

    def add(self, document: Document) -> Path:
        """Write a document; the same content twice is one file."""
        content = write_document(document).encode()
        path = self.root / document.key / f"{hashlib.sha256(content).hexdigest()}.json"
        write_once(path, content)
        return path

    def add_cards(self, dataset: Dataset, columns: Mapping[str, Column], threat: ThreatModel, n: int) -> None:
        """Write what the board needs to know of an exam, if it is not there."""
        shape = dataset.shape
        self.add(
            DatasetCard(
                key=dataset.test.hash, name=dataset.name, classes=list(dataset.classes),
                channels=shape.channels, size=shape.size, labels=[int(y) for y in dataset.test.y],
            )
        )  # fmt: skip
        for column in columns.values():
            facts = {
                "name": column.name, "attacks": list(column.attacks), "strict": column.strict, "first": column.first,
                "norm": threat.norm if column.by_norm else "",
            }  # fmt: skip
            self.add(ColumnCard.model_validate({"key": digest(facts), **facts}))
        asked = {"test": dataset.test.hash, "threat": str(threat), "columns": sorted(columns), "n": n}
        self.add(ExamCard.model_validate({"key": digest(asked), **asked}))

    def put_images(self, key: str, arrays: Mapping[str, NDArray[np.generic]]) -> str:
        """Write the sidecar of a record, one value an image, and return its hash; written before the record."""
        from safetensors.numpy import save

        content = save(dict(sorted(arrays.items())))
        name = hashlib.sha256(content).hexdigest()
        path = self.root / key / f"{name}.safetensors"
        write_once(path, content)
        return name

    def images(self, record: Record) -> dict[str, NDArray[np.generic]]:
        """The sidecar of a record, checked: an array for each figure, in the order of `record.asked`."""
        from safetensors.numpy import load

        path = self.root / record.key / f"{record.images}.safetensors"
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise IntegrityError(f"{path} is missing: a record names it") from None
        if hashlib.sha256(content).hexdigest() != record.images:
            raise IntegrityError(f"{path} is damaged: its content does not have the hash that it is named by")
        arrays: dict[str, NDArray[np.generic]] = load(content)
        return arrays

    def of(self, key: str, kind: type[D]) -> list[D]:
        """The documents under a key, in the order of their hashes."""
        return [d for d in map(self._read, sorted((self.root / key).glob("*.json"))) if isinstance(d, kind)]

    def all(self) -> Iterator[Document]:
        """Every document, in a fixed order."""
        for path in sorted(self.root.glob("*/*.json")):
            if _HASH.fullmatch(path.parent.name) and _HASH.fullmatch(path.stem):  # other files are not ours
                yield self._read(path)

    def _read(self, path: Path) -> Document:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise IncompleteError(f"cannot read {path}: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != path.stem:
            raise IntegrityError(f"{path} is damaged: its content does not have the hash that it is named by")
        try:
            document = read_document(content)
        except ValueError as error:
            raise IntegrityError(f"{path} is not a record that this version reads: {error}") from error
        if document.key != path.parent.name:
            raise IntegrityError(f"{path} lies in the folder of another cell; its own is {document.key}")
        return document
