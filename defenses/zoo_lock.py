"""The lock file of what was pulled: the first pull of an address trusts what comes, every later one must agree."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import IncompleteError, IntegrityError, RampartError, Store, TrainJob, download, locked, write_atomically
from defenses.checkpoint import file_hash, opened
from defenses.zoo_names import Weights

SCHEMA = "rampart/zoo-lock-1"
FILE = "zoo.lock.json"


@dataclass(frozen=True)
class Pulled:
    """A file that was pulled: where from, what came, and its weights in the store, as safetensors, by entry."""

    url: str
    sha256: str
    size: int
    format: str
    licence: str  # empty where it is not known
    pulled: str  # UTC, ISO 8601
    weights: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A file to be had: the address that names it, those that are tried (else that one), and what is known of it."""

    url: str
    tried: tuple[str, ...] = ()
    sha256: str = ""
    licence: Callable[[], str] = str  # asked once the file is there; empty where it is not known
    manual: str = ""  # how to go on without a network
    name: str = ""  # of the file; else the address's last word


@dataclass(frozen=True)
class Lock:
    """The lock file, beside the store."""

    root: Path

    @property
    def path(self) -> Path:
        """The file."""
        return self.root / FILE

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else on this machine pulls meanwhile."""
        with locked(self.root / "locks" / "zoo"):
            yield

    def read(self) -> dict[str, Pulled]:
        """What was pulled, by address; a damaged file is an IntegrityError that names it."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise IncompleteError(f"{self.path} cannot be read: {error}") from error
        try:
            found = json.loads(text)
            if found["schema"] != SCHEMA:
                raise ValueError(f"its schema is {found['schema']!r}; expected {SCHEMA!r}")
            return {p.url: p for p in (_pulled(entry) for entry in found["pulled"])}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise IntegrityError(
                f"{self.path} is damaged ({error}); mend it, or delete it to trust anew what is pulled"
            ) from error

    def add(self, pulled: Pulled) -> None:
        """Write an entry, in place of the address's old one."""
        entries = {**self.read(), pulled.url: pulled}
        document = {"schema": SCHEMA, "pulled": [asdict(entries[url]) for url in sorted(entries)]}
        write_atomically(self.path, (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())


def _pulled(entry: dict[str, Any]) -> Pulled:
    """An entry, with every field of the right kind."""
    if not isinstance(entry, dict) or {f.name for f in fields(Pulled)} != entry.keys():
        raise ValueError("an entry does not have the fields of one")
    kinds = {"size": int, "weights": dict}
    for name, value in entry.items():
        if not isinstance(value, kinds.get(name, str)):
            raise ValueError(f"{name} is {value!r}")  # noqa: TRY004 - all are told alike
    return Pulled(**entry)


def pull(job: TrainJob, source: Source, entry: str = "") -> Weights:
    """The weights of a source under the file's own names; what was pulled before comes from the store."""
    root = job.scratch.parents[1]  # the store's; scratch folders lie in `scratch` under it
    lock, store = Lock(root), Store(root)
    with lock.held():
        known = lock.read().get(source.url)
        agreed = known is not None and source.sha256 in {"", known.sha256}
        if known is not None and agreed and known.weights.get(entry, "-") in store:
            job.report(f"{source.url}: pulled before ({known.pulled[:10]}), sha256 {known.sha256[:12]}…")
            return Weights(store.get(known.weights[entry]))
        path = _fetch(job, source)
        try:
            sha256 = file_hash(path)
            _agree(lock, source, known, sha256)
            found, weights = opened(path, entry)
        except RampartError:
            path.unlink(missing_ok=True)  # a better one may come another time
            raise
        kept = {**(known.weights if known and known.sha256 == sha256 else {}), entry: store.put(weights.state)}
        now = datetime.now(UTC).isoformat(timespec="seconds")
        lock.add(Pulled(source.url, sha256, found.size, found.format, source.licence(), now, kept))
    if known is None and not source.sha256:
        job.report(f"{source.url}: first pull, trusted as it came: sha256 {sha256}, written to {lock.path}")
    return weights


def _fetch(job: TrainJob, source: Source) -> Path:
    """The file in the scratch folder; without a network, an error that tells the manual way."""
    last = source.name or re.sub(r"[^\w.-]", "_", source.url.partition("?")[0].rpartition("/")[2])[-80:].strip(".")
    to = job.scratch / "pulled" / hashlib.sha256(source.url.encode()).hexdigest()[:8] / (last or "weights")
    if to.is_file():  # by this run, for another entry of the file, or by one that was killed
        return to
    try:
        return download(source.tried or (source.url,), to, sha256=source.sha256 or None, md5=None, size=None)
    except IncompleteError as error:
        raise IncompleteError(f"{error}; {source.manual}") from error
    except IntegrityError as error:
        raise IntegrityError(f"{error}; {source.manual}") from error


def _agree(lock: Lock, source: Source, known: Pulled | None, sha256: str) -> None:
    """What came is what was asked for; where no hash was given, what came the first time."""
    if source.sha256:
        if sha256 != source.sha256:
            raise IntegrityError(f"{source.url} has the sha256 {sha256}; expected {source.sha256}")
    elif known is not None and known.sha256 != sha256:
        raise IntegrityError(
            f"{source.url} has the sha256 {sha256}; when it was first pulled ({known.pulled[:10]}) it "
            f"was {known.sha256} ({lock.path}). Give sha256='{sha256}' if the new file is the right one"
        )


def several(text: Sequence[str] | str | None) -> tuple[str, ...]:
    """One text or several, as a tuple."""
    return () if not text else (text,) if isinstance(text, str) else tuple(text)
