"""What nobody refers to in a ledger and its store: listed, and removed when that is asked for."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.errors import IntegrityError, UsageError
from bench.files import INCOMING, remove_lock, sweep
from bench.ledger import Ledger
from bench.ledger_check import Finding, folders, is_hash, read
from bench.records import TrainingRecord
from bench.store import Store

DAY = 86400.0  # seconds
_HASHES = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


@dataclass(frozen=True)
class Waste:
    """Something that nobody refers to."""

    kind: str
    path: str
    size: int  # bytes


@dataclass(frozen=True)
class _Known:
    """What the documents of all ledgers name."""

    hashes: frozenset[str]  # every one in their text: also those of fields that this version does not know
    trained: frozenset[str]  # keys of trainings whose weights are all in the store


def gc(ledgers: Sequence[Ledger], store: Store, days: float, *, delete: bool) -> list[Waste]:
    """Everything that no document names and that is older than so many days; with `delete` it is removed.

    What killed processes left goes at any age, and what a living one holds never does.  IntegrityError where a
    document cannot be read: nobody knows then what it named.
    """
    before = time.time() - days * DAY
    known, age = _known(ledgers, store), days * DAY
    every = _waste(ledgers, store, known, before, age)
    return [waste for waste in every if not delete or _remove(waste, before, age)]


def _known(ledgers: Sequence[Ledger], store: Store) -> _Known:
    hashes: set[str] = set()
    trained: set[str] = set()
    for ledger in ledgers:
        documents = 0
        for folder in folders(ledger.root):
            for path in folder.documents:
                document = read(path)
                if isinstance(document, Finding) and document.state != "unknown":
                    raise IntegrityError(
                        f"{document}\nNothing is removed while nobody knows what it named: bench ledger verify "
                        "names all that is damaged"
                    )
                documents += 1
                hashes.update(h.decode() for h in _HASHES.findall(path.read_bytes()))
                if isinstance(document, TrainingRecord) and all(w in store for w in document.weights.values()):
                    trained.add(document.key)
        if not documents:
            raise UsageError(f"--ledger {ledger.root} holds no record, so that everything would count as waste")
    for path in store.root.glob("*.json"):  # what was pulled, which no document may name yet
        hashes.update(h.decode() for h in _HASHES.findall(path.read_bytes()))
    return _Known(frozenset(hashes), frozenset(trained))


def _waste(ledgers: Sequence[Ledger], store: Store, known: _Known, before: float, age: float) -> Iterator[Waste]:
    for ledger in ledgers:
        yield from _of_ledger(ledger, known, before)
        yield from _unfinished(ledger.root / INCOMING, age)
    for path in sorted(store.root.glob("[0-9a-f][0-9a-f]/*.safetensors")):
        if is_hash(path.stem) and path.stem not in known.hashes and _older(path, before):
            yield from _as_waste("weights or a bundle that no record names", path)
    for path in sorted((store.root / "scratch").glob("*")):
        if is_hash(path.name) and (path.name in known.trained or _older(path, before)):
            said = "is recorded" if path.name in known.trained else "was given up"
            yield from _as_waste(f"a scratch folder of a training that {said}", path)
    for path in sorted((store.root / "histories").glob("*.jsonl")):
        unfinished = (store.root / "scratch" / path.stem).exists()
        if is_hash(path.stem) and path.stem not in known.hashes and not unfinished and _older(path, before):
            yield from _as_waste("a history of no training", path)
    for path in sorted((store.root / "locks").glob("*")):
        if is_hash(path.name) and path.is_file() and _older(path, before):
            yield from _as_waste("a lock", path)
    for path in sorted((store.root / "logs").glob("*")):
        if path.is_file() and _older(path, before):
            yield from _as_waste("a log of a task that failed", path)
    for path in sorted((store.root / "slurm").glob("rampart-*")):
        if _older(path, before):
            yield from _as_waste("files of a run's jobs", path)
    for folder in (store.root, store.root / INCOMING, store.root / "histories", store.root / "logs"):
        yield from _unfinished(folder, age)


def _of_ledger(ledger: Ledger, known: _Known, before: float) -> Iterator[Waste]:
    """Sidecars that no record names, and empty folders."""
    for folder in folders(ledger.root):
        for path in folder.sidecars:
            if path.stem not in known.hashes and _older(path, before):
                yield from _as_waste("a sidecar that no record names", path)
        empty = not (folder.documents or folder.sidecars or folder.foreign)
        if empty and folder.path != ledger.root and _older(folder.path, before):
            yield from _as_waste("an empty folder", folder.path)


def _unfinished(folder: Path, age: float) -> Iterator[Waste]:
    for path in sweep(folder, age, delete=False):
        yield from _as_waste("a temporary file of a killed process", path)


def _as_waste(kind: str, path: Path) -> Iterator[Waste]:
    """It, unless somebody removed it meanwhile."""
    with suppress(OSError):
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        yield Waste(kind, str(path), sum(file.stat().st_size for file in files))


def _older(path: Path, before: float) -> bool:
    """Whether a file, and everything in a folder, was written before that time."""
    try:
        if not path.is_dir():
            return path.stat().st_mtime < before
        files = [Path(root, name) for root, _, names in os.walk(path) for name in names]
        return all(file.stat().st_mtime < before for file in [path, *files])
    except OSError:  # it went meanwhile
        return False


def _remove(waste: Waste, before: float, age: float) -> bool:
    """Remove it, unless somebody took it up since it was found; whether it was."""
    path = Path(waste.path)
    try:
        if waste.kind.startswith("a temporary file"):
            return path in sweep(path.parent, age)
        if waste.kind == "a lock":
            return remove_lock(path)
        if waste.kind == "an empty folder":
            path.rmdir()
        elif path.is_dir():
            return _remove_scratch(path)
        elif _older(path, before):
            path.unlink()
        else:
            return False
    except OSError:
        return False
    return True


def _remove_scratch(path: Path) -> bool:
    """Remove a training's folder, unless the training is going on."""
    lock = path.parent.parent / "locks" / path.name
    lock.parent.mkdir(exist_ok=True)
    lock.touch()
    return remove_lock(lock, lambda: shutil.rmtree(path))
