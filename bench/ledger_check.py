"""Is a ledger whole?  Every file: its name, folder, schema and sidecar; the cards that records need; foreign files."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from bench.errors import IncompleteError
from bench.exam import digest
from bench.files import INCOMING, sweep
from bench.records import (
    ColumnCard,
    DatasetCard,
    Document,
    ExamCard,
    Picture,
    Record,
    TrainingRecord,
    of_other_version,
    read_document,
)

if TYPE_CHECKING:
    from bench.ledger import Ledger
    from bench.store import Store

State = Literal["damaged", "missing", "unknown", "note"]  # note: no fault, but nothing of a ledger's
FIGURES = ("predicted", "margin", "distance", "forwards", "backwards")  # of a sidecar, a value an image


@dataclass(frozen=True)
class Finding:
    """What is wrong with a file, or what is not there."""

    state: State
    path: str
    said: str

    def __str__(self) -> str:
        return f"{self.path}: {self.said}"


@dataclass(frozen=True)
class Check:
    """What was looked at, and what was found."""

    documents: dict[str, int]  # by kind
    sidecars: int
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """5 where something is damaged; 4 where something is only missing, or of another version."""
        states = {finding.state for finding in self.findings}
        return 5 if "damaged" in states else 4 if states & {"missing", "unknown"} else 0


@dataclass(frozen=True)
class Folder:
    """The files of a key: those that are named as documents and sidecars are, and foreign ones."""

    path: Path
    documents: tuple[Path, ...] = ()
    sidecars: tuple[Path, ...] = ()
    foreign: tuple[Path, ...] = ()


def folders(root: Path) -> Iterator[Folder]:
    """Every folder of a ledger, in order; what lies beside them comes as the foreign files of the root."""
    try:
        entries = sorted(os.scandir(root), key=lambda e: e.name)
    except OSError as error:
        raise IncompleteError(f"cannot read {root}: {error.strerror}") from error
    ours = [e for e in entries if is_hash(e.name) and e.is_dir()]
    beside = [Path(e.path) for e in entries if e not in ours and e.name != INCOMING and not e.name.startswith(".git")]
    yield Folder(root, foreign=tuple(beside))
    for entry in ours:
        yield _folder(Path(entry.path))


def _folder(path: Path) -> Folder:
    found: dict[str, list[Path]] = {".json": [], ".safetensors": [], "": []}
    try:
        for entry in sorted(os.scandir(path), key=lambda e: e.name):
            stem, ending = os.path.splitext(entry.name)
            found[ending if ending in found and is_hash(stem) else ""].append(Path(entry.path))
    except FileNotFoundError:  # an empty folder that was removed meanwhile
        pass
    except OSError as error:
        raise IncompleteError(f"cannot read {path}: {error.strerror}") from error
    return Folder(path, tuple(found[".json"]), tuple(found[".safetensors"]), tuple(found[""]))


def is_hash(name: str) -> bool:
    """Whether a name is a sha256."""
    return re.fullmatch("[0-9a-f]{64}", name) is not None


def read(path: Path) -> Document | Finding:
    """The document of a file, or what is wrong with it."""
    content = read_bytes(path)
    if isinstance(content, Finding):
        return content
    try:
        document = read_document(content)
    except ValidationError as error:
        if of_other_version(error):
            said = "it was written by another version, whose schema this one does not know"
            return Finding("unknown", str(path), said)
        return Finding("damaged", str(path), f"it is no record: {error.errors()[0]['msg']}")
    if document.key != path.parent.name:
        return Finding("damaged", str(path), f"it lies in the folder of another cell; its own is {document.key}")
    return document


def read_bytes(path: Path) -> bytes | Finding:
    """The content of a file that is named by its hash, or what is wrong with it."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Finding("missing", str(path), "it is missing, and a record names it")
    except OSError as error:
        return Finding("missing", str(path), f"it cannot be read: {error.strerror}")
    if hashlib.sha256(content).hexdigest() == path.stem:
        return content
    said = "its content does not have the hash that it is named by"
    if hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest() == path.stem:
        said += "; only the ends of its lines were changed, as git does without `* -text` in .gitattributes"
    return Finding("damaged", str(path), said)


def unreadable(content: bytes) -> str:
    """Why a sidecar cannot be read; nothing where it can."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        return f"it is no file of tensors: {error}"
    return ""


def fits(record: Record, content: bytes) -> str:
    """What is wrong with a sidecar of this record; nothing where it holds a value an image, and its sums are right."""
    import numpy as np
    from safetensors.numpy import load

    if said := unreadable(content):
        return said
    arrays: dict[str, Any] = load(content)
    if absent := [name for name in FIGURES if name not in arrays]:
        return f"it lacks {', '.join(absent)}"
    for name in FIGURES:
        if arrays[name].shape != (len(record.asked),):
            return f"{name} is {arrays[name].shape}; its record asks {len(record.asked)} images"
    for name in ("forwards", "backwards"):
        if (total := float(arrays[name].sum())) != getattr(record.cost, name):
            return f"its {name} add up to {total:,.0f}; its record says {getattr(record.cost, name):,}"
    if record.threat is not None and ":" not in record.threat:  # a minimum-norm attack's distance is finite if it fell
        found = np.asarray(record.asked)[np.isfinite(arrays["distance"])]
        if set(found.tolist()) != set(record.fell):
            return "its distances are of other images than those that fell"
    return ""


@dataclass
class _Needs:
    """What documents name and what there is, by kind and name."""

    there: dict[str, set[str]] = field(default_factory=dict)
    wanted: dict[str, Counter[str]] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)  # images of a test part
    furthest: dict[str, tuple[int, str]] = field(default_factory=dict)  # place that is asked of it, and where

    def see(self, document: Document, path: Path) -> None:
        """Take in one document."""
        match document:
            case Record():
                self._want("weights", document.weights)
                self._want("dataset", document.test)
                self._want("exam", document.test)
                self._want("column", document.attack)
                most = max(document.asked), str(path)
                self.furthest[document.test] = max(self.furthest.get(document.test, most), most)
            case TrainingRecord():
                for weights in document.weights.values():
                    self._have("weights", weights)
            case Picture():
                self._want("dataset", document.test)
            case DatasetCard():
                self._have("dataset", document.key)
                self.labels[document.key] = len(document.labels)
            case ColumnCard():
                for attack in document.attacks:
                    self._have("column", attack)
            case ExamCard():
                self._have("exam", document.test)

    def _want(self, kind: str, name: str) -> None:
        self.wanted.setdefault(kind, Counter())[name] += 1

    def _have(self, kind: str, name: str) -> None:
        self.there.setdefault(kind, set()).add(name)

    def findings(self) -> Iterator[Finding]:
        """What is wanted and not there, and images that a test part does not have."""
        said = {
            "weights": "no training is recorded that made these weights",
            "dataset": "there is no card of the test part with this hash",
            "exam": "there is no card of an exam on the test part with this hash",
            "column": "no card of a column has this attack",
        }
        for kind, wanted in self.wanted.items():
            for name, count in sorted(wanted.items()):
                if name not in self.there.get(kind, set()):
                    yield Finding("missing", name, f"{said[kind]}, and {count:,} records need it")
        for test, (place, path) in self.furthest.items():
            if place >= self.labels.get(test, place + 1):
                yield Finding(
                    "damaged", path, f"it asks about image {place}; the card of its test part has {self.labels[test]}"
                )


def check(ledger: Ledger, store: Store | None = None, report: Callable[[int], None] = lambda _n: None) -> Check:
    """Look at every file; with a store also at the weights and bundles that records name there."""
    kinds: Counter[str] = Counter()
    findings: list[Finding] = []
    tensors: dict[str, str] = {}  # the hash of each, and a document that names it
    needs, sidecars = _Needs(), 0
    for folder in folders(ledger.root):
        named: set[Path] = set()
        readable = True
        for path in folder.documents:
            document = read(path)
            if isinstance(document, Finding):
                findings.append(document)
                readable = False
                continue
            kinds[document.schema_] += 1
            report(kinds.total())
            needs.see(document, path)
            findings += _of_card(document, path)
            tensors |= dict.fromkeys(tensors_of(document), str(path))
            if isinstance(document, Record):
                named.add(beside := path.with_name(f"{document.images}.safetensors"))
                findings += _of_sidecar(document, path, beside)
            if isinstance(document, Picture):
                named.add(beside := path.with_name(f"{document.arrays}.safetensors"))
                findings += _of_arrays(path, beside)
        sidecars += len(folder.sidecars)
        for path in set(folder.sidecars) - named:
            findings += _of_lone(path, readable=readable)
        findings += [Finding("note", str(path), "it is no file of a ledger's") for path in folder.foreign]
    findings += _unfinished(ledger.root)
    findings += needs.findings()
    if store is not None:
        findings += _of_store(store, tensors)
    return Check(dict(kinds), sidecars, tuple(findings))


def _of_sidecar(record: Record, path: Path, beside: Path) -> Iterator[Finding]:
    content = read_bytes(beside)
    if isinstance(content, Finding):
        yield content
    elif said := fits(record, content):
        yield Finding("damaged", str(path), f"it does not fit its sidecar {beside.name}: {said}")


def _of_arrays(path: Path, beside: Path) -> Iterator[Finding]:
    content = read_bytes(beside)
    if isinstance(content, Finding):
        yield content
    elif said := unreadable(content):
        yield Finding("damaged", str(path), f"its arrays {beside.name} cannot be read: {said}")


def _of_lone(path: Path, *, readable: bool) -> Iterator[Finding]:
    """A sidecar that no record names; where not all are readable, one may."""
    content = read_bytes(path)
    if isinstance(content, Finding):
        yield content
    elif readable:
        yield Finding("note", str(path), "no record names it")


def _of_card(document: Document, path: Path) -> Iterator[Finding]:
    """A card is named by what it says."""
    if isinstance(document, ColumnCard | ExamCard):
        facts = document.model_dump(exclude={"schema_", "key"}, exclude_unset=True)
        if digest(facts) != document.key:
            yield Finding("damaged", str(path), "its key is not the hash of what it says: a field was changed")


def tensors_of(document: Document) -> Iterable[str]:
    """The hashes of weights and bundles that a document names."""
    if isinstance(document, TrainingRecord):
        return document.weights.values()
    if isinstance(document, Record):
        return [document.weights, *([document.bundle] if document.bundle else [])]
    return ()


def _unfinished(root: Path) -> Iterator[Finding]:
    """Temporary files: those of the living, and what killed processes left."""
    left = set(sweep(root / INCOMING, delete=False))
    for path in sorted((root / INCOMING).glob("*")):
        said = "a killed process left it; the next run removes it" if path in left else "it is being written"
        yield Finding("note", str(path), said)


def _of_store(store: Store, tensors: dict[str, str]) -> Iterator[Finding]:
    """The weights and bundles that documents name."""
    for name, by in sorted(tensors.items()):
        content = read_bytes(store.path(name))
        if isinstance(content, Finding):
            said = f"it is missing, and {by} names it" if content.said.startswith("it is missing") else content.said
            yield Finding(content.state, content.path, said)
