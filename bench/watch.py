"""What an event log says of its run: who works on what, how fast, and how long it may take.  Needs no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from bench.errors import IncompleteError, UsageError
from bench.events import FOLDER, lives, read

State = Literal["running", "ended", "killed", "unknown"]


@dataclass
class Worker:
    """One that does tasks, one after the other."""

    name: str
    first: float = 0.0  # when it was first heard of, in seconds since the run began
    busy: float = 0.0  # seconds of the tasks that it has ended
    tasks: int = 0
    images: int = 0
    passes: int = 0
    lost: int = 0
    now: str = ""  # what it does
    task: str = ""
    key: str = ""
    epochs: int = 0  # of the training that it does
    since: float = 0.0


@dataclass
class Watched:
    """A run as far as its log goes."""

    path: str
    state: State = "unknown"
    words: list[str] = field(default_factory=list)
    host: str = ""
    began: str = ""
    seconds: float = 0.0  # of the run, to its end or to now
    width: int = 0
    store: str = ""
    code: int | None = None
    trainings: int = 0
    questions: int = 0
    records: int = 0
    images: int = 0
    fell: int = 0
    passes: int = 0
    planned: int = 0  # passes, at most; 0 where the run was too small to plan
    failed: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    workers: dict[str, Worker] = field(default_factory=dict)
    of: dict[str, str] = field(default_factory=dict)  # the worker of each task that ended
    spent: float = 0.0  # seconds of model passes, over all workers

    def take(self, event: dict[str, Any]) -> None:
        """Take in the next event; kinds that another version wrote are passed over."""
        self.seconds = max(self.seconds, float(event.get("since", 0.0)))
        take = getattr(self, "_" + event["event"].replace("-", "_"), None)
        if take is not None:
            take(event)

    def _run_started(self, event: dict[str, Any]) -> None:
        fresh = Watched(self.path)  # a command that went on in the same file
        vars(self).update(vars(fresh))
        self.words, self.host, self.began = event.get("words", []), event.get("host", ""), event["at"]
        self.store = event.get("store", "")
        planned = event.get("planned", {})
        self.planned = int(planned.get("forwards", 0)) + int(planned.get("backwards", 0))

    def _tasks_planned(self, event: dict[str, Any]) -> None:
        self.width = int(event["width"])

    def _run_ended(self, event: dict[str, Any]) -> None:
        self.code = int(event["code"])
        for worker in self.workers.values():
            worker.now = worker.task = ""

    def _task_started(self, event: dict[str, Any]) -> None:
        worker = self._worker(event)
        worker.now, worker.task, worker.since = event["what"], event["task"], float(event["since"])
        worker.key, worker.epochs = event.get("key", ""), int(event.get("epochs", 0))

    def _task_ended(self, event: dict[str, Any]) -> None:
        worker = self._worker(event)
        worker.busy += float(event["seconds"])
        worker.tasks += 1
        worker.now = worker.task = ""
        self.of[event["task"]] = worker.name

    def _task_lost(self, event: dict[str, Any]) -> None:
        worker = self._worker(event)
        worker.busy += float(event["seconds"])
        worker.lost += 1
        worker.now = worker.task = ""
        self.lost.append(f"{event['what']}: {event.get('said', '')}")

    def _task_failed(self, event: dict[str, Any]) -> None:
        self.failed.append(f"{event['what']}: {event.get('said', '')}")

    def _task_recorded(self, event: dict[str, Any]) -> None:
        worker = self.workers.get(self.of.pop(event["task"], ""))
        self.trainings += event["kind"] == "training"
        self.questions += event["kind"] == "question"
        for record in event["records"]:
            passes = int(record.get("forwards", 0)) + int(record.get("backwards", 0))
            counted = passes if event["kind"] != "check" else 0  # checks are not planned
            self.records += 1
            self.images += int(record.get("asked", 0))
            self.fell += int(record.get("fell", 0))
            self.passes += counted
            self.spent += float(record.get("seconds", 0.0)) if counted else 0.0
            self.doubts += [d for d in record.get("doubts", ()) if d not in self.doubts]
            if worker is not None:
                worker.images += int(record.get("asked", 0))
                worker.passes += passes

    def _worker(self, event: dict[str, Any]) -> Worker:
        name = event["worker"]
        if name not in self.workers:
            self.workers[name] = Worker(name, first=float(event["since"]))
        return self.workers[name]

    @property
    def rate(self) -> float:
        """Passes a second of one worker that is busy."""
        return self.passes / self.spent if self.spent else 0.0

    @property
    def busy(self) -> int:
        """How many workers do something."""
        return sum(bool(worker.now) for worker in self.workers.values())

    @property
    def left(self) -> float | None:
        """Seconds to the end, at most: the planned passes at the measured rate; None where nothing is known."""
        if not self.planned or not self.rate or self.state != "running":
            return None
        return max(0, self.planned - self.passes) / self.rate / max(1, self.width)

    def occupancy(self, worker: Worker) -> float:
        """The share of its time in which a worker did something."""
        busy = worker.busy + (self.seconds - worker.since if worker.now else 0.0)
        return min(1.0, busy / max(self.seconds - worker.first, 1e-9))

    def document(self) -> dict[str, Any]:
        """As plain values."""
        hidden = {"of", "spent", "workers"}
        unsaid = {"task", "key", "since", "first"}
        workers = [
            {
                **{k: v for k, v in asdict(worker).items() if k not in unsaid}, "progress": progress(self, worker),
                "occupancy": round(self.occupancy(worker), 4),
                "passes_per_second": round(worker.passes / worker.busy if worker.busy else 0.0, 1),
            }
            for worker in self.workers.values()
        ]  # fmt: skip
        return {
            **{k: v for k, v in vars(self).items() if k not in hidden}, "rate": round(self.rate, 1), "left": self.left,
            "workers": workers,
        }  # fmt: skip


def progress(run: Watched, worker: Worker) -> str:
    """How far the training is that a worker does, by its history, where that can be read from here."""
    if not worker.now or not run.store:
        return ""
    try:
        lines = (Path(run.store) / "histories" / f"{worker.key}.jsonl").read_text(encoding="utf-8").splitlines()
        last = json.loads(lines[-1])
        whole = f"/{worker.epochs}" if worker.epochs else ""
        return f"epoch {last['epoch']}{whole}, {last['val_pgd10']:.1%} under PGD-10"
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def watched(path: Path, events: Iterable[dict[str, Any]] | None = None) -> Watched:
    """A run by its log, now."""
    run = Watched(str(path))
    try:
        for event in read(path) if events is None else events:
            try:
                run.take(event)
            except (KeyError, TypeError, ValueError, AttributeError):
                continue  # an event of another version
    except OSError as error:
        raise IncompleteError(f"cannot read {path}: {error.strerror}") from error
    if not run.began:
        raise UsageError(f"{path} is not the event log of a run; expected lines of JSON, the first a run-started")
    run.state = "ended" if run.code is not None else _state(path, run)
    if run.state == "running":
        run.seconds = max(run.seconds, (datetime.now(UTC) - datetime.fromisoformat(run.began)).total_seconds())
    return run


def _state(path: Path, run: Watched) -> State:
    """Of a run that has not said that it ended."""
    alive = lives(path)
    if alive is None or (not alive and run.host != os.uname().nodename):
        return "unknown"  # a lock of another machine may not be seen here
    return "running" if alive else "killed"


def find(given: str, ledger: Path) -> Path:
    """The log that is named, or the newest one: of a folder, or beside the ledger."""
    place = Path(given) if given else ledger.absolute().parent / FOLDER
    if place.is_file():
        return place
    logs = sorted(place.glob("*.jsonl"), key=lambda path: path.stat().st_mtime) if place.is_dir() else []
    if not logs:
        raise UsageError(f"{place}: there is no event log; bench run writes one, or name it: bench watch FILE")
    return logs[-1]
