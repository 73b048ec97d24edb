"""Ledgers come together by copying: what is not there is checked and copied, and nothing is ever overwritten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.errors import UsageError
from bench.files import INCOMING, write_atomically
from bench.ledger import Ledger
from bench.ledger_check import Finding, fits, folders, read, read_bytes, tensors_of, unreadable
from bench.records import Document, Picture, Record, TrainingRecord

if TYPE_CHECKING:
    from bench.store import Store


class Conflict(NamedTuple):
    """Records of one cell that disagree about images, or trainings of one key that gave other weights."""

    what: str  # for a person
    key: str
    images: tuple[int, ...]  # none of trainings
    alike: bool  # made on the same kind of machine, by the same versions and source

    def __str__(self) -> str:
        if not self.images:
            return f"{self.what}: trained more than once, to different weights; both are kept"
        said = f"{self.what}: records disagree about {len(self.images)} images; fallen wins"
        if self.alike:
            said += ", and it is a doubt: machine, versions and source are the same, so only a random model may do so"
        return said


@dataclass
class Merged:
    """What a merge did."""

    came: Counter[str] = field(default_factory=Counter)  # documents by kind, and sidecars and tensors
    there: int = 0  # documents that were there already
    refused: list[Finding] = field(default_factory=list)
    foreign: int = 0
    conflicts: list[Conflict] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """5 where something was refused since it is damaged; 4 where something is missing, or of another version."""
        states = {finding.state for finding in self.refused}
        return 5 if "damaged" in states else 4 if states else 0


def merge(sources: Sequence[Path], ledger: Ledger, report: Callable[[str], None]) -> Merged:
    """Copy what is not there.  It may be stopped and started again, and two may do it at once."""
    for source in sources:
        if not source.is_dir():
            raise UsageError(f"{source}: there is no such folder; expected a ledger")
        if source.resolve() == ledger.root.resolve():
            raise UsageError(f"{source} is the ledger that is merged into")
    ledger.tidy()
    done, keys = Merged(), set[str]()
    for source in sources:
        documents = 0
        found = list(folders(source))
        if len(found) == 1 and found[0].foreign:
            hint = f"; did you mean {source / 'ledger'}?" if (source / "ledger").is_dir() else ""
            raise UsageError(f"{source} is no ledger: it has files, and no folder is named by a key{hint}")
        for folder in found:
            done.foreign += len(folder.foreign)
            for path in folder.documents:
                documents += 1
                _copy(path, ledger, done)
                keys.add(path.parent.name)
                report(f"{source}: {documents:,} documents, {done.came.total():,} files came")
    for key in sorted(keys):
        done.conflicts += _conflicts(ledger, key)
    return done


def _copy(path: Path, ledger: Ledger, done: Merged) -> None:
    """Copy a document, after its sidecar."""
    place = ledger.root / path.parent.name / path.name
    document = read(path)
    if isinstance(document, Finding):
        done.refused.append(document)
        return
    if isinstance(document, Record | Picture) and (found := _copy_sidecar(document, path, place, done)) is not None:
        done.refused.append(found)
        return
    if place.exists():
        there = read(place)
        if isinstance(there, Finding):  # it stays as it is: never overwritten
            done.refused.append(there)
        else:
            done.there += 1
        return
    write_atomically(place, path.read_bytes(), ledger.root / INCOMING)
    done.came[document.schema_.removeprefix("rampart/").rpartition("-")[0]] += 1


def _copy_sidecar(document: Record | Picture, path: Path, place: Path, done: Merged) -> Finding | None:
    """Copy a document's sidecar, if it is not there; what is wrong with it."""
    name = f"{document.images if isinstance(document, Record) else document.arrays}.safetensors"
    there = place.with_name(name)
    content = read_bytes(there if there.exists() else path.with_name(name))
    if isinstance(content, Finding):
        return content
    if said := fits(document, content) if isinstance(document, Record) else unreadable(content):
        return Finding("damaged", str(path), f"its sidecar does not fit: {said}")
    if not there.exists():
        write_atomically(there, content, place.parent.parent / INCOMING)
        done.came["sidecar"] += 1
    return None


def merge_store(sources: Sequence[Store], ledger: Ledger, store: Store, done: Merged) -> None:
    """Copy the weights and bundles that the ledger's documents name, from wherever they are whole."""
    for source in sources:
        if not source.root.is_dir():
            raise UsageError(f"--from-store {source.root}: there is no such folder")
    store.tidy()
    for name in sorted({name for document in ledger.all() for name in tensors_of(document)}):
        if name in store:
            continue
        found = [source.path(name) for source in sources if name in source]
        for path in found:
            content = read_bytes(path)
            if isinstance(content, Finding):
                done.refused.append(content)
                continue
            write_atomically(store.path(name), content, store.root / INCOMING)
            done.came["tensor file"] += 1
            break


def _conflicts(ledger: Ledger, key: str) -> Iterator[Conflict]:
    """Where the documents of a key disagree."""
    paths = sorted((ledger.root / key).glob("*.json"))
    if len(paths) < 2:
        return
    documents: list[Document] = [d for d in map(read, paths) if not isinstance(d, Finding)]
    trainings = [d for d in documents if isinstance(d, TrainingRecord)]
    if len({tuple(sorted(t.weights.items())) for t in trainings}) > 1:
        first = trainings[0]
        yield Conflict(f"{first.label} on {first.net_label}, seed {first.seed}", key, (), _alike(trainings))
    records = [d for d in documents if isinstance(d, Record)]
    fell = {i for r in records for i in r.fell}
    stood = {i for r in records for i in set(r.asked) - set(r.fell)}
    if both := sorted(fell & stood):
        known = set(both)
        involved = [r for r in records if known & set(r.asked)]
        one = records[0]
        threat = f" {one.threat}" if one.threat else ""
        what = f"{one.attack.partition('@')[0]}{threat} on weights {one.weights[:12]} ({one.dataset}, {one.condition})"
        yield Conflict(what, key, tuple(both), _alike(involved))


def _alike(documents: Sequence[Record] | Sequence[TrainingRecord]) -> bool:
    """Whether all were made on one kind of machine, by the same versions from the same source."""
    return len({(d.machine, tuple(sorted(d.versions.items())), d.source) for d in documents}) == 1
