"""Where tasks are done: the contract of all executors, and the plainest of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar

from bench.errors import IncompleteError, RampartError, WorkerError
from bench.files import write_atomically
from bench.records import Document

if TYPE_CHECKING:
    from bench.place import Place

TRIES = 2  # of a task whose worker dies, hangs or raises what nobody explained
TAIL = 65536  # bytes of what a worker said that are kept


class Task(Protocol):
    """Work that writes its own record: a question, a lesson or a check.

    It is plain values, so that it travels to other processes and machines, and doing it twice does no harm: what is in
    the ledger is not done again.  As text it says for a person what it is.
    """

    @property
    def name(self) -> str:
        """Its key and what else tells it from others, as a file may be called."""
        ...

    def do(self, place: Place) -> list[Document]:
        """Do it here, and give the records."""
        ...


T = TypeVar("T", bound=Task)
Done = tuple[T, list[Document] | RampartError]


@dataclass(frozen=True)
class Moment:
    """Something that happened to a task: a worker took it up, ended it, or was lost with it."""

    what: Literal["started", "ended", "lost"]
    task: Task
    worker: str
    seconds: float = 0.0  # since it was taken up
    said: str = ""  # why the worker was lost, or the error that explains why there is no record


Tell = Callable[[Moment], None]


def nobody(_moment: Moment) -> None:
    """Who is told where nobody asked."""


def unlimited(_task: Task, _seconds: float) -> float:
    """The limit that so many seconds are beyond: none ever is."""
    return 0.0


class Executor(Protocol):
    """Does tasks, in any order.

    width: how many at once.  shared: whether those share the cores of one machine, so that trainings of large nets,
    which use all of them, go one after the other.
    """

    @property
    def width(self) -> int:
        """How many tasks at once."""
        ...

    @property
    def shared(self) -> bool:
        """Whether tasks share the cores of one machine."""
        ...

    def __call__(self, place: Place, tasks: Sequence[T], at_once: int = 0) -> Iterator[Done[T]]:
        """Do the tasks and yield each with its records, or with the error that explains why there is none.

        at_once: fewer than width; 0 is width.
        """
        ...

    def close(self) -> None:
        """Let go of workers; a later call gets new ones."""
        ...


@dataclass(frozen=True)
class Inline:
    """One after the other, here."""

    width: int = 1
    shared: bool = True
    tell: Tell = nobody

    def __call__(self, place: Place, tasks: Sequence[T], at_once: int = 0) -> Iterator[Done[T]]:
        """In the order given."""
        del at_once
        for task in tasks:
            self.tell(Moment("started", task, "here"))
            began = time.monotonic()
            result = attempt(place, task)
            self.tell(ended(task, "here", time.monotonic() - began, result))
            yield task, result

    def close(self) -> None:
        """There is nothing to let go of."""


def attempt(place: Place, task: Task) -> list[Document] | RampartError:
    """The records, or the error that explains why there is none."""
    try:
        return task.do(place)
    except RampartError as error:
        return error


def ended(task: Task, worker: str, seconds: float, result: list[Document] | RampartError) -> Moment:
    """The moment in which a task has its result."""
    return Moment("ended", task, worker, seconds, str(result) if isinstance(result, RampartError) else "")


@dataclass
class Attempt(Generic[T]):
    """A task on its way: why its workers were lost so far, and what they said last."""

    task: T
    reasons: list[str] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)

    @property
    def short_of_memory(self) -> bool:
        """Whether its worker may have been killed for that: it is tried again with nothing beside it."""
        return any("SIGKILL" in reason for reason in self.reasons)

    def lost(self, reason: str, log: str) -> bool:
        """Take down that a worker was lost with it; whether it may be tried again."""
        self.reasons.append(reason)
        self.logs.append(log)
        return len(self.reasons) < TRIES

    def failure(self, place: Place) -> WorkerError:
        """That it was tried often enough; what its workers said is written beside the store's files."""
        reasons = " and ".join(dict.fromkeys(self.reasons))
        times = {1: "once", 2: "twice"}.get(len(self.reasons), f"{len(self.reasons)} times")
        return WorkerError(f"{self.task}: tried {times}: {reasons}; {self._kept(place)}; no record was written")

    def _kept(self, place: Place) -> str:
        parts = [f"{self.task}\n{self.task.name}\n{os.uname().nodename}, {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n"]
        for number, (reason, log) in enumerate(zip(self.reasons, self.logs, strict=True), 1):
            parts.append(f"\n=== try {number}: {reason}\n{log}")
        path = log_of(place, self.task)
        try:
            write_atomically(path, "".join(parts).encode(errors="replace"))
        except IncompleteError as error:
            return f"its log could not be kept ({error})"
        return f"its log is {path}"


def log_of(place: Place, task: Task) -> Path:
    """Where the log of a task lies that failed: beside the store's files, for it is no record of the ledger's."""
    return place.store_root / "logs" / f"{task.name}.log"
