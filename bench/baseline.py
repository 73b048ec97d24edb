"""A baseline: what the gate compares with.  A ledger, a commit's, or one small file, here or behind an address."""

from __future__ import annotations

import http.client
import io
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.errors import IncompleteError, IntegrityError, UsageError
from bench.exam import digest
from bench.files import write_atomically
from bench.ledger import Ledger
from bench.records import Hash
from bench.standing import Cost, Model, Question, Standing, Standings

PATIENCE = 30.0  # seconds without a byte, after which an address is given up
LARGEST = 1 << 28  # bytes of a baseline from elsewhere


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


class Entry(_Document):
    """A standing, in plain values."""

    defense: str
    net: str
    trained_on: str
    trained_for: str
    seed: int | None
    which: str
    weights: Hash
    dataset: str
    test: Hash
    condition: str
    threat: str | None
    column: str
    attacks: list[str] = Field(min_length=1)
    strict: bool
    first: Annotated[int, Field(ge=0)]
    n: Annotated[int, Field(ge=1)]  # the first n test images were asked
    fell: list[Annotated[int, Field(ge=0)]]  # and these of them fell
    doubts: list[str]
    made: str

    @model_validator(mode="after")
    def _whole(self) -> Entry:
        if len(set(self.fell)) != len(self.fell) or any(image >= self.n for image in self.fell):
            raise ValueError(f"fell must be distinct places of the first {self.n} images")
        return self

    @classmethod
    def of(cls, s: Standing) -> Entry:
        """A standing's."""
        return cls(
            **s.model._asdict(), **(s.question._asdict() | {"attacks": list(s.question.attacks)}),
            weights=s.weights, dataset=s.dataset, column=s.column,
            n=s.n, fell=sorted(s.fell), doubts=list(s.doubts), made=s.made,
        )  # fmt: skip

    @property
    def standing(self) -> Standing:
        """The standing."""
        return Standing(
            Model(self.defense, self.net, self.trained_on, self.trained_for, self.seed, self.which),
            Question(
                self.test, self.condition, self.threat, tuple(sorted(self.attacks)), self.strict, self.first
            ),
            self.dataset, self.column, self.weights, self.n, frozenset(self.fell), tuple(self.doubts), self.made,
        )  # fmt: skip


class CostEntry(_Document):
    """What a model costs, in plain values."""

    defense: str
    net: str
    trained_on: str
    trained_for: str
    seed: int
    training: Annotated[int, Field(ge=0)]
    forward: Annotated[int, Field(ge=0)] | None


class Baseline(_Document):
    """The file."""

    schema_: Literal["rampart/baseline-1"] = Field("rampart/baseline-1", alias="schema")
    digest: Hash  # of the entries and costs: a change by hand or by accident is seen
    entries: list[Entry]
    costs: list[CostEntry] = []  # files of older versions have none

    @model_validator(mode="after")
    def _unchanged(self) -> Baseline:
        if self.digest != _digest(self.entries, self.costs):
            raise ValueError("the digest is not that of the entries: something was changed")
        return self


def _digest(entries: list[Entry], costs: list[CostEntry]) -> str:
    return digest([e.model_dump() for e in (*entries, *costs)])


def record(standings: Standings, path: Path) -> None:
    """Write the baseline file of these standings."""
    entries = [Entry.of(s) for s in standings.every]
    costs = [CostEntry(**asdict(c)) for c in standings.costs]
    made = Baseline(digest=_digest(entries, costs), entries=entries, costs=costs)
    lists = [",\n".join(e.model_dump_json() for e in some) for some in (entries, costs)]  # a change shows in a diff
    text = f'{{"schema":"{made.schema_}","digest":"{made.digest}","entries":[\n{lists[0]}\n]'
    text += f',"costs":[\n{lists[1]}\n]}}\n' if costs else "}\n"
    write_atomically(path, text.encode())


def recordable(where: str, standings: Standings) -> bool:
    """Whether the first baseline can be written where it was looked for: a name that only a file has."""
    elsewhere = where.startswith(("git:", "https://", "http://"))
    return where.endswith(".json") and not elsewhere and bool(standings.every)


def read(where: str) -> Standings | None:
    """The baseline that a folder, a file, git:REF:PATH or https://… holds; None where there is nothing yet."""
    for start, bring in (("git:", _from_git), ("https://", _from_web), ("http://", _from_web)):
        if where.startswith(start):
            with tempfile.TemporaryDirectory() as folder:
                return _read(bring(where, Path(folder)), where)
    return _read(Path(where), where)


def _read(path: Path, where: str) -> Standings | None:
    try:
        if path.is_dir():
            return Standings.of(Ledger(path)) if any(path.iterdir()) else None
        if not path.exists():
            return None
        content = path.read_bytes()
    except OSError as error:
        raise IncompleteError(f"--baseline {where}: cannot read it: {error.strerror}") from error
    try:
        found = Baseline.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise IntegrityError(
            f"--baseline {where} is not a baseline that this version reads: {place}: {first['msg']}; "
            "expected what bench gate --record wrote"
        ) from error
    costs = tuple(Cost(**c.model_dump()) for c in found.costs)
    return Standings(tuple(e.standing for e in found.entries), costs=costs)


def _from_web(url: str, folder: Path) -> Path:
    """A file behind an address, as an asset of a release; the place where it lies, if it was there at all."""
    path = folder / "baseline.json"
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:  # noqa: S310 - read() checks the scheme
            content = answer.read(LARGEST + 1)
    except urllib.error.HTTPError as error:
        with error:
            if error.code in (404, 410):
                return path
            raise IncompleteError(f"--baseline {url}: it answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise IncompleteError(f"--baseline {url}: cannot be had: {getattr(error, 'reason', error)!s}") from error
    if len(content) > LARGEST:
        raise IntegrityError(f"--baseline {url} is larger than the {LARGEST:,} bytes that a baseline may have")
    path.write_bytes(content)
    return path


def _from_git(where: str, folder: Path) -> Path:
    """A file or folder as it was at a commit, unpacked; the place where it lies, if it was there at all."""
    _, ref, path = (*where.split(":", 2), "")[:3]
    if not ref or not path or ref.startswith("-"):
        raise UsageError(f"--baseline {where}: expected git:REF:PATH, as in git:main:results/ledger")
    known = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    if known.returncode:
        said = known.stderr.decode(errors="replace").strip()
        raise UsageError(
            f"--baseline {where}: {said or f'git knows no commit {ref!r} here; a shallow checkout lacks older ones'}"
        )
    commit = known.stdout.decode().strip()
    # From the repository's root, in whatever folder of it this runs.
    top = _git("rev-parse", "--show-toplevel").stdout.decode().rstrip("\n")
    packed = _git("-C", top, "archive", "--format=tar", commit, "--", path)
    if packed.returncode == 0:
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tar:
            tar.extractall(folder, filter="data")
    return folder / path


def _git(*words: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", *words], capture_output=True, check=False, timeout=600)
    except (OSError, subprocess.SubprocessError) as error:
        raise IncompleteError(f"git cannot be run: {error}") from error
