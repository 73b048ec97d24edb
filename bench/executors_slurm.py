"""Tasks as job arrays of Slurm, by submitit; the ledger and the store lie on storage that all machines share."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from bench.clusters import SLURM, packed
from bench.errors import IncompleteError, RampartError, UsageError
from bench.executors import TAIL, Attempt, Done, Moment, T, Task, Tell, ended, log_of, nobody
from bench.executors_process import Process
from bench.records import write_document
from bench.report import Reporter

if TYPE_CHECKING:
    import submitit

    from bench.place import Place
    from bench.records import Document

SOON, LATE = 1.0, 30.0  # seconds between looks at the queue: at first, and when nothing happened for long
ABSENT = 3  # looks at which a job is neither queued nor has given anything, after which it counts as lost
VISIBLE = 90.0  # seconds that a file system may take to show what another machine wrote


@dataclass
class Slurm:
    """As jobs of Slurm: queued again when they are preempted or run out of time, and tried twice when they are lost.

    width: how many jobs of an array run at once.  settings: what sbatch is told; own: our own words of --slurm.
    """

    width: int
    expected: Callable[[Task], float]  # seconds
    limit: Callable[[Task], float]  # seconds, inside a job
    settings: Mapping[str, str] = field(default_factory=dict)
    own: Mapping[str, int] = field(default_factory=dict)
    asked: float = 0.0  # seconds that a person allowed each task
    tell: Tell = nobody
    shared: bool = False
    _name: str = field(default="", init=False)

    def __call__(self, place: Place, tasks: Sequence[T], at_once: int = 0) -> Iterator[Done[T]]:
        """As their jobs are done; what was lost with its job is submitted once more, each task in a job of its own."""
        if not tasks:
            return
        self._name = f"rampart-{uuid.uuid4().hex[:12]}"
        folder = place.store_root / "slurm" / self._name
        attempts = [Attempt(task) for task in tasks]
        failed = False
        try:
            while attempts:
                again: list[Attempt[T]] = []
                arrays = packed([self.expected(a.task) for a in attempts], at_once or self.width, self.own, self.asked)
                jobs = [job for a in arrays for job in self._submit(place, folder, a.minutes, a.jobs, attempts)]
                for job, results in self._followed(jobs):
                    if isinstance(results, str):
                        for attempt in job.attempts:
                            self.tell(Moment("lost", attempt.task, job.id, said=results))
                            if attempt.lost(results, job.log()):
                                again.append(attempt)
                            else:
                                failed = True
                                yield self._end(attempt, job, attempt.failure(place))
                    else:
                        _until_visible(place, results)
                        for attempt, result in zip(job.attempts, results, strict=True):
                            yield self._end(attempt, job, result)
                            if attempt.reasons:
                                log_of(place, attempt.task).unlink(missing_ok=True)
                attempts = again
        except BaseException:
            self.close()
            raise
        self._name = ""
        if not failed:
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Cancel what is queued or runs."""
        if self._name:
            subprocess.run(["scancel", f"--name={self._name}"], check=False, capture_output=True)
            self._name = ""

    def _end(self, attempt: Attempt[T], job: _Job[T], result: list[Document] | RampartError) -> Done[T]:
        self.tell(ended(attempt.task, job.id, time.monotonic() - job.since, result))
        return attempt.task, result

    def _submit(
        self, place: Place, folder: Path, minutes: int, jobs: Sequence[Sequence[int]], attempts: Sequence[Attempt[T]]
    ) -> list[_Job[T]]:  # fmt: skip
        """An array; after a first loss its tasks come one a job, so that none is blamed for another."""
        slurm = _submitit().SlurmExecutor(folder=folder, max_num_timeout=self.own["timeouts"])
        known = {SLURM[key]: value for key, value in self.settings.items() if key != "reservation"}
        more = {key: value for key, value in self.settings.items() if key == "reservation"}
        packs = [[attempts[i] for i in job] for job in jobs]
        packs = [part for pack in packs for part in ([[a] for a in pack] if pack[0].reasons else [pack])]
        try:
            slurm.update_parameters(
                time=minutes, job_name=self._name, array_parallelism=self.width, additional_parameters=more, **known
            )
            with slurm.batch():
                submitted = [slurm.submit(self._bundle(place, pack)) for pack in packs]
        except Exception as error:
            raise _refused(error) from error
        return [_Job(job, pack) for job, pack in zip(submitted, packs, strict=True)]

    def _bundle(self, place: Place, pack: Sequence[Attempt[T]]) -> Bundle:
        tasks = tuple(attempt.task for attempt in pack)
        return Bundle(place, tasks, {task.name: self.limit(task) for task in tasks}, self.own["workers"])

    def _followed(self, jobs: Sequence[_Job[T]]) -> Iterator[tuple[_Job[T], list[list[Document] | RampartError] | str]]:
        """Each job when it has ended: its results, or why there are none."""
        reporter, pause, left = Reporter(), SOON, list(jobs)
        while left:
            states = self._queue()
            over = [(job, found) for job in left if (found := job.look(states)) is not None]
            for job in left:
                if not job.running and states is not None and states.get(job.id) == "RUNNING":
                    job.running, job.since = True, time.monotonic()
                    for attempt in job.attempts:
                        self.tell(Moment("started", attempt.task, job.id))
            yield from over
            left = [job for job in left if all(job is not other for other, _ in over)]
            pause = SOON if over else min(LATE, 1.5 * pause)
            if left:
                running = sum(job.running for job in left)
                reporter.line(f"slurm: {len(jobs) - len(left)} of {len(jobs)} jobs ended, {running} running")
                time.sleep(pause)

    def _queue(self) -> dict[str, str] | None:
        """The states of our jobs in the queue, by id; None where Slurm does not answer now."""
        asked = ["squeue", "--noheader", "--array", f"--name={self._name}", "--format=%i %T"]
        with suppress(OSError, subprocess.TimeoutExpired):
            found = subprocess.run(asked, check=False, capture_output=True, text=True, timeout=60)
            if found.returncode == 0:
                return {line.split()[0]: line.split()[1] for line in found.stdout.splitlines() if line.strip()}
        return None


@dataclass
class Bundle:
    """What a job does: tasks, in a worker beside it, so that none ends the others."""

    place: Place
    tasks: tuple[Task, ...]
    limits: dict[str, float]
    workers: int
    _process: Process | None = field(default=None, init=False)

    def __call__(self) -> list[list[Document] | RampartError]:
        """Their results, in order."""
        from bench.place import cards

        gpus = cards() if self.place.device_name == "cuda" and self.workers > 1 else ()
        self._process = Process(self.workers, self._passed, gpus=gpus)
        try:
            found = {task.name: result for task, result in self._process(self.place, self.tasks)}
        finally:
            self._process.close()
        return [found[task.name] for task in self.tasks]

    def checkpoint(self) -> object:
        """Preempted, or out of time: let the worker write its checkpoint; the same bundle is queued again."""
        if self._process is not None:
            self._process.close()
        return _submitit().helpers.DelayedSubmission(replace(self))

    def _passed(self, task: Task, seconds: float) -> float:
        limit = self.limits[task.name]
        return limit if seconds > limit else 0.0


class _Job(Generic[T]):
    """A job and its tasks, as the one sees it who submitted it."""

    def __init__(self, job: submitit.Job[Any], attempts: list[Attempt[T]]) -> None:
        self.job, self.attempts = job, attempts
        self.id = str(job.job_id)
        self.running, self.absent, self.since = False, 0, time.monotonic()

    def look(self, states: Mapping[str, str] | None) -> list[list[Document] | RampartError] | str | None:
        """Its results, why there are none, or None while it goes on."""
        _fresh(self.job.paths.result_pickle.parent)
        if self.job.paths.result_pickle.exists():
            error = self.job.exception()
            if error is None:
                return self.job.results()[0]  # type: ignore[no-any-return]
            return f"its job {self.id} failed: {_last_line(str(error))}"
        if states is None or self.id in states:
            self.absent = 0
            return None
        self.absent += 1
        return f"its job {self.id} was lost: {self._state()}" if self.absent >= ABSENT else None

    def log(self) -> str:
        """The end of what it said."""
        try:
            return str(self.job.paths.stderr.read_text(errors="replace")[-TAIL:])
        except OSError:
            return f"{self.job.paths.stderr} is not there\n"

    def _state(self) -> str:
        """What Slurm still knows of it."""
        asked = ["scontrol", "show", "job", self.id, "--oneliner"]
        with suppress(OSError, subprocess.TimeoutExpired):
            said = subprocess.run(asked, check=False, capture_output=True, text=True, timeout=60).stdout
            if found := re.search(r"JobState=(\S+) Reason=(\S+)", said):
                code = re.search(r"ExitCode=(\S+)", said)
                return f"{found[1]}, {found[2]}" + (f", exit code {code[1]}" if code else "")
        return "Slurm no longer knows it"


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "it does not say why")


def _submitit() -> Any:
    """The library, or what to install."""
    try:
        import submitit
    except ImportError:
        raise UsageError("--executor slurm needs submitit: pip install 'rampart-bench[slurm]'") from None
    return submitit


def _refused(error: Exception) -> RampartError:
    """Why nothing was submitted."""
    if isinstance(error, RampartError):
        return error
    said = getattr(error, "stderr", "") or str(error)
    said = said.decode(errors="replace") if isinstance(said, bytes) else said
    return IncompleteError(f"Slurm took no job: {_last_line(said)}; bench doctor looks at the cluster")


def _until_visible(place: Place, results: Sequence[list[Document] | RampartError]) -> None:
    """Wait until what another machine wrote is seen here: a network file system may take its time."""
    deadline = time.monotonic() + VISIBLE
    for document in (document for result in results if isinstance(result, list) for document in result):
        name = hashlib.sha256(write_document(document).encode()).hexdigest()
        path = place.ledger_root / document.key / f"{name}.json"
        while not path.exists():
            if time.monotonic() > deadline:
                raise IncompleteError(
                    f"a job wrote {path}, and it is not seen here: --ledger must lie on storage that all machines share"
                )
            _fresh(path.parent)
            _fresh(place.ledger_root)
            time.sleep(1.0)


def _fresh(folder: Path) -> None:
    """Have a network file system look again: it asks its server where a folder is opened."""
    with suppress(OSError):
        os.listdir(folder)
