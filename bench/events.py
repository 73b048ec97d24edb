"""The event log of a run: a line of JSON for each thing that happens, which `bench watch` follows.

Nothing is decided by it: a run without its log goes on, and its records are the same.  Times are those of the clock on
the wall and of one that only rises; what lasts is measured by the second.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.errors import RampartError
    from bench.executors import Executor, Moment
    from bench.plan import Line
    from bench.records import Document

SCHEMA = "rampart/event-1"
FOLDER = "events"  # beside the ledger


@dataclass
class EventLog:
    """The file that one process appends to; each line is one write, so that no two are ever mixed."""

    path: Path
    code: int = 0  # the exit code that its run will have
    _file: int | None = None
    _torn: bool = False  # a line was cut short, by a full disk
    _began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        with suppress(OSError):  # a log that cannot be written stops no run
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            self._torn = os.fstat(self._file).st_size > 0
            fcntl.flock(self._file, fcntl.LOCK_SH)  # says that its writer lives

    @property
    def writable(self) -> bool:
        """Whether it could be opened."""
        return self._file is not None

    def write(self, event: str, **facts: Any) -> None:
        """Append a line."""
        if self._file is None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"event": event, "at": now, "since": round(time.monotonic() - self._began, 3), **facts}
        text = json.dumps(line, ensure_ascii=False, default=str).encode() + b"\n"
        text = b"\n" + text if self._torn else text
        with suppress(OSError):
            self._torn = True
            self._torn = os.write(self._file, text) < len(text)

    def begin(self, words: Sequence[str], planned: Sequence[Line], **facts: Any) -> None:
        """The run starts: its command, where, and what it may cost at most."""
        from importlib.metadata import version

        with suppress(ImportError):
            facts["version"] = version("rampart-bench")
        sums = {name: sum(getattr(line, name) for line in planned) for name in ("forwards", "backwards", "seconds")}
        self.write(
            "run-started", schema=SCHEMA, words=list(words), host=os.uname().nodename, pid=os.getpid(), **facts,
            planned=sums if planned else {},
        )  # fmt: skip

    def plan(self, tasks: Sequence[object], width: int) -> None:
        """Note how many tasks follow now, for how many at once."""
        if tasks:
            self.write("tasks-planned", tasks=len(tasks), width=width)

    def tell(self, moment: Moment) -> None:
        """Note what an executor tells."""
        facts = {"seconds": round(moment.seconds, 3)} if moment.what != "started" else {}
        said = {"said": moment.said[:2000]} if moment.said else {}
        self.write(f"task-{moment.what}", **named(moment.task), worker=moment.worker, **facts, **said)

    def recorded(self, task: object, result: list[Document] | RampartError) -> None:
        """Note what the records of a task say, or why there is none."""
        if not isinstance(result, list):
            self.code = self.code or result.exit_code
            self.write("task-failed", **named(task), said=str(result)[:2000])
            return
        self.write("task-recorded", **named(task), records=[_told(document) for document in result])

    def end(self, code: int, **facts: Any) -> None:
        """The run ends by itself, with an exit code."""
        self.write("run-ended", code=code, **facts)
        if self._file is not None:
            os.close(self._file)
            self._file = None


def listening(executor: Executor, log: EventLog) -> Executor:
    """The executor, which tells the log what happens; as it is where it tells nothing."""
    if is_dataclass(executor) and "tell" in {f.name for f in fields(executor)}:
        told: Any = replace(executor, tell=log.tell)
        return told
    return executor


def named(task: Any) -> dict[str, Any]:
    """What a task is, for people and programs."""
    from bench.answer import Question
    from bench.checked import Check
    from bench.obtain import Lesson

    match task:
        case Lesson():
            key, what = task.training.key, f"train {task.label}, seed {task.training.seed}"
            return {"kind": "training", "key": key, "task": key, "what": what, "epochs": _epochs(task.defense)}
        case Question():
            first, last = task.asked[0], task.asked[-1]
            under = "" if task.cell.condition == "clean" else f" under {task.cell.condition}"
            what = f"{task.cell.attack.partition('@')[0]} on {task.cell.weights[:8]}{under}, images {first} to {last}"
            key = task.cell.key
            return {
                "kind": "question",
                "key": key,
                "task": f"{key}:{first}-{last}",
                "what": what,
                "images": len(task.asked),
            }
        case Check():
            return {"kind": "check", "key": "", "task": f"check:{task.weights}", "what": f"check {task.weights[:8]}"}
    name = str(getattr(task, "name", repr(task)))
    return {"kind": type(task).__name__.lower(), "key": "", "task": name[:200], "what": str(task)[:80]}


def _epochs(defense: str) -> int:
    """The epochs that a recipe names; 0 where it names none."""
    found = re.search(r"\bepochs=(\d+)", defense)
    return int(found[1]) if found else 0


def _told(document: Any) -> dict[str, Any]:
    """What a log says of a record."""
    cost = getattr(document, "cost", None)
    asked, fell = getattr(document, "asked", None), getattr(document, "fell", None)
    doubts = [doubt if isinstance(doubt, str) else doubt.text for doubt in getattr(document, "doubts", ())]
    return {
        "schema": document.schema_, "key": document.key,
        **({"asked": len(asked), "fell": len(fell)} if asked is not None and fell is not None else {}),
        **({"forwards": cost.forwards, "backwards": cost.backwards, "seconds": cost.seconds} if cost else {}),
        **({"doubts": doubts} if doubts else {}),
    }  # fmt: skip


def new_log(given: str, ledger: Path) -> EventLog:
    """The log of a run that starts now: the file that is given, or one of its own beside the ledger."""
    if given:
        return EventLog(Path(given))
    host = re.sub("[^A-Za-z0-9-]", "-", os.uname().nodename)[:64]
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{host}-{os.getpid()}.jsonl"
    return EventLog(ledger.absolute().parent / FOLDER / name)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a log; what is no whole line of it, as a crash or a full disk may leave, is passed over."""
    with path.open("rb") as file:
        for line in file:
            event = parsed(line)
            if event is not None:
                yield event


def parsed(line: bytes) -> dict[str, Any] | None:
    """An event, or None where the line is not a whole one."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(event, dict) and isinstance(event.get("event"), str) and isinstance(event.get("at"), str)
    return event if whole else None


def lives(path: Path) -> bool | None:
    """Whether the process that writes a log lives; None where that cannot be told."""
    try:
        mine = os.access(path, os.W_OK)
        with path.open("r+b" if mine else "rb") as file:  # on NFS only what is opened for writing can be locked
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return None
    return False
