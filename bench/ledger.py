"""All records: immutable JSON files, <key>/<sha256 of content>.json, only ever added to.

Two ledgers merge by copying files (git merge, rsync): names never clash and content never changes.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bench.errors import IncompleteError, IntegrityError
from bench.exam import digest
from bench.files import INCOMING, check_content, check_writable, sweep, write_once
from bench.records import (
    CertificateRecord,
    CheckRecord,
    ColumnCard,
    DatasetCard,
    Document,
    ExamCard,
    Picture,
    Record,
    ReportedCard,
    TableCard,
    TrainingRecord,
    VerificationRecord,
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
D = TypeVar(
    "D",
    Record,
    TrainingRecord,
    DatasetCard,
    ColumnCard,
    ExamCard,
    VerificationRecord,
    TableCard,
    ReportedCard,
    CheckRecord,
    Picture,
    CertificateRecord,
)


@dataclass(frozen=True)
class Ledger:
    """A folder of records."""

    root: Path

    def tidy(self) -> list[Path]:
        """Remove, and name, what killed processes left of files that they were writing."""
        return sweep(self.root / INCOMING)

    def check_writable(self) -> None:
        """IncompleteError where no record can be added; to be known before any work."""
        check_writable(self.root / INCOMING)

    def add(self, document: Document) -> Path:
        """Write a document; the same content twice is one file."""
        content = write_document(document).encode()
        path = self.root / document.key / f"{hashlib.sha256(content).hexdigest()}.json"
        write_once(path, content, self.root / INCOMING)
        return path

    def add_dataset(self, dataset: Dataset) -> None:
        """Write the card of a data set's test part, if it is not there."""
        shape = dataset.shape
        self.add(
            DatasetCard(
                key=dataset.test.hash, name=dataset.name, classes=list(dataset.classes),
                channels=shape.channels, size=shape.size, labels=[int(y) for y in dataset.test.y],
            )
        )  # fmt: skip

    def add_cards(self, dataset: Dataset, columns: Mapping[str, Column], threat: ThreatModel, n: int) -> None:
        """Write what the board needs to know of an exam, if it is not there."""
        self.add_dataset(dataset)
        for column in columns.values():
            facts = {
                "name": column.name, "attacks": list(column.attacks), "strict": column.strict, "first": column.first,
                "norm": threat.norm if column.by_norm else "",
            }  # fmt: skip
            self.add(ColumnCard.model_validate({"key": digest(facts), **facts}))
        asked = {"test": dataset.test.hash, "threat": str(threat), "columns": sorted(columns), "n": n}
        self.add(ExamCard.model_validate({"key": digest(asked), **asked}))

    def put_images(self, key: str, arrays: Mapping[str, NDArray[np.generic]]) -> str:
        """Write a sidecar, of a record one value an image, and return its hash; written before what names it."""
        from safetensors.numpy import save

        content = save(dict(sorted(arrays.items())))
        name = hashlib.sha256(content).hexdigest()
        path = self.root / key / f"{name}.safetensors"
        write_once(path, content, self.root / INCOMING)
        return name

    def images(self, record: Record) -> dict[str, NDArray[np.generic]]:
        """The sidecar of a record, checked: an array for each figure, in the order of `record.asked`."""
        arrays, n = self._arrays(record.key, record.images), len(record.asked)
        for name, values in arrays.items():
            if values.shape != (n,):
                path = self.root / record.key / f"{record.images}.safetensors"
                raise IntegrityError(
                    f"{path}: {name} has the shape {values.shape}; expected one value an image, ({n},)"
                )
        return arrays

    def arrays(self, picture: Picture) -> dict[str, NDArray[np.generic]]:
        """The arrays of a picture, checked."""
        return self._arrays(picture.key, picture.arrays)

    def _arrays(self, key: str, name: str) -> dict[str, NDArray[np.generic]]:
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = self.root / key / f"{name}.safetensors"
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise IntegrityError(f"{path} is missing: a record names it") from None
        check_content(path, content, name)
        try:
            arrays: dict[str, NDArray[np.generic]] = load(content)
        except SafetensorError as error:
            raise IntegrityError(f"{path} holds no figures: {error}") from None
        return arrays

    def files(self) -> Iterator[tuple[Path, Callable[[], Document]]]:
        """The file of every document, in a fixed order, and what reads it; the stem is the hash that names it."""
        for key in self._keys():
            for name in self._names(key):
                yield self.root / key / name, partial(self._read, f"{self.root}/{key}/{name}")

    def of(self, key: str, kind: type[D]) -> list[D]:
        """The documents under a key, in the order of their hashes."""
        folder = f"{self.root}/{key}"
        try:
            names = sorted(name for name in os.listdir(folder) if name.endswith(".json"))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [d for name in names if isinstance(d := self._read(f"{folder}/{name}"), kind)]

    def all(
        self,
        skip: Callable[[str], object] | None = None,
        read: Callable[[bytes], Document] = read_document,
        begins: str = "0123456789abcdef",
    ) -> Iterator[Document]:
        """Every document, in a fixed order.

        skip: is told of each file that cannot be read, by its path in the ledger, and why; without it the first one
        is an IntegrityError.  read: makes a document of its JSON; ValueError where it cannot.  begins: only
        what lies under keys that begin with one of these digits.
        """
        for key in (key for key in self._keys() if key[0] in begins):
            for name in self._names(key):
                try:
                    yield self._read(f"{self.root}/{key}/{name}", read)
                except (IncompleteError, IntegrityError) as error:
                    if skip is None:
                        raise
                    skip(str(error).replace(f"{self.root}/", ""))

    def keys(self) -> frozenset[str]:
        """Of what it has any document; what is not among them need not be looked up."""
        return frozenset(self._keys())

    def size(self) -> int:
        """How many keys it has."""
        return len(self._keys())

    def _keys(self) -> list[str]:
        """The keys, in order."""
        try:
            return sorted(name for name in os.listdir(self.root) if _HASH.fullmatch(name))
        except FileNotFoundError:
            return []

    def _names(self, key: str) -> list[str]:
        """The documents under a key, in order; other files are not ours."""
        try:
            names = os.listdir(f"{self.root}/{key}")
        except NotADirectoryError:
            return []
        return sorted(name for name in names if name.endswith(".json") and _HASH.fullmatch(name[:-5]))

    def _read(self, path: str, read: Callable[[bytes], Document] = read_document) -> Document:
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError as error:
            raise IncompleteError(f"cannot read {path}: {error.strerror}") from error
        key, name = path.split("/")[-2:]
        check_content(path, content, name[:-5])
        try:
            document = read(content)
        except ValueError as error:
            raise IntegrityError(f"{path} is not a record that this version reads: {error}") from error
        if document.key != key:
            raise IntegrityError(f"{path} lies in the folder of another cell; its own is {document.key}")
        return document
