"""Tasks among processes of this machine: any of them may die, hang or be killed, and the run goes on."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any

from bench.errors import RampartError, WorkerError
from bench.executors import TAIL, Attempt, Done, Moment, T, Task, Tell, attempt, ended, log_of, nobody, unlimited

if TYPE_CHECKING:
    from bench.place import Place
    from bench.records import Document

BEAT = 5.0  # seconds between a worker's signs of life
SILENCE = 600.0  # seconds without one, after which it counts as hanging; a long call into a library may take some
GRACE = 30.0  # seconds that a worker has to write its checkpoint, once it is asked to end
STARTS = 3  # how many workers of each place may end in a row before they are ready for any task
LATE = 5.0  # seconds between two looks at the workers, from which on the time between does not count


Limit = Callable[[Task, float], float]  # the limit that so many seconds of a task are beyond, or 0


@dataclass
class Process:
    """Among so many processes of this machine; each writes its own records.

    A worker that dies, or is beyond the limit of its task, is replaced, and its task tried once more in a
    fresh one, after all others; then the task has failed, and its error names the log.  gpus: what
    CUDA_VISIBLE_DEVICES is for each worker, in turn.
    """

    width: int
    limit: Limit = unlimited
    tell: Tell = nobody
    gpus: tuple[str, ...] = ()
    silence: float = SILENCE
    beat: float = BEAT
    _crew: list[_Worker] = field(default_factory=list, init=False, repr=False)
    _looked: float = field(default=0.0, init=False, repr=False)
    _at_exit: Finalize | None = field(default=None, init=False, repr=False)

    @property
    def shared(self) -> bool:
        """Workers that have a card each do not compete for it."""
        return len(self.gpus) < self.width

    def __call__(self, place: Place, tasks: Sequence[T], at_once: int = 0) -> Iterator[Done[T]]:
        """As they are done; what is tried again comes last, and alone where memory may have been short."""
        first, again = deque(Attempt(task) for task in tasks), deque[Attempt[T]]()
        width = min(at_once or self.width, self.width)
        unready = 0
        try:
            while first or again or self._busy:
                self._hand_out(place, first, again, width)
                for worker, found in self._news():
                    tried: Attempt[T] | None = worker.attempt
                    if isinstance(found, Lost):
                        self._crew.remove(worker)
                        unready = 0 if worker.ready else unready + 1
                        if unready >= STARTS * width:
                            raise WorkerError(f"workers end before they can work: {found.reason}\n{worker.log}")
                        if tried is None:
                            continue
                        self.tell(Moment("lost", tried.task, worker.name, worker.busy_for, found.reason))
                        if not worker.ready:  # it never began
                            first.append(tried)
                            continue
                        if tried.lost(found.reason, worker.log):
                            again.append(tried)
                            continue
                        result: list[Document] | RampartError = tried.failure(place)
                    else:
                        unready, result = 0, found.result
                        worker.attempt = None
                    assert tried is not None
                    if not isinstance(result, WorkerError) and tried.reasons:
                        log_of(place, tried.task).unlink(missing_ok=True)
                    self.tell(ended(tried.task, worker.name, worker.busy_for, result))
                    yield tried.task, result
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ask all workers to end, and see to it."""
        crew, self._crew = self._crew, []
        if self._at_exit is not None:
            self._at_exit.cancel()
            self._at_exit = None
        try:
            for worker in crew:
                worker.ask_to_end()
            deadline = time.monotonic() + GRACE
            for worker in crew:
                worker.end(deadline)
        except BaseException:  # a second Ctrl-C
            for worker in crew:
                worker.process.kill()
            raise

    @property
    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._crew if worker.attempt is not None]

    def _hand_out(self, place: Place, first: deque[Attempt[T]], again: deque[Attempt[T]], width: int) -> None:
        """Give tasks to those who have none; workers are started as they are needed."""
        while (first or again) and len(busy := self._busy) < width:
            tried = first[0] if first else again[0]
            if busy and any(a.short_of_memory for a in (tried, *(w.attempt for w in busy if w.attempt))):
                return  # it is, or waits to be, alone
            idle = next((worker for worker in self._crew if worker.attempt is None), None) or self._start()
            if idle.take(place, tried):
                (first or again).popleft()
                self.tell(Moment("started", tried.task, idle.name))
            else:  # it died while it had nothing to do
                self._crew.remove(idle)
                idle.end(0.0)

    def _start(self) -> _Worker:
        taken = {worker.number for worker in self._crew}
        number = next(n for n in range(self.width) if n not in taken)
        if self._at_exit is None:  # before multiprocessing waits for those that still work
            self._at_exit = Finalize(None, self.close, exitpriority=100)
        worker = _Worker(number, self.gpus[number % len(self.gpus)] if self.gpus else None, self.beat)
        self._crew.append(worker)
        return worker

    def _news(self) -> list[tuple[_Worker, Finished | Lost]]:
        """What has become of workers since the last look; at the latest after a second."""
        wait([thing for worker in self._crew for thing in worker.things], 1.0)
        now = time.monotonic()
        if self._looked and now - self._looked > LATE:  # this process was stopped meanwhile, or busy: nobody's fault
            for worker in self._crew:
                worker.forgive(now - self._looked)
        self._looked = now
        news = [(worker, worker.look(self.limit, self.silence)) for worker in self._crew]
        return [(worker, found) for worker, found in news if found is not None]


@dataclass(frozen=True)
class Finished:
    """What a worker gave for its task."""

    result: list[Document] | RampartError


@dataclass(frozen=True)
class Lost:
    """Why a worker is no more."""

    reason: str


class _Worker:
    """A process that does one task at a time, as its parent sees it."""

    def __init__(self, number: int, gpu: str | None, beat: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.number, self.ready = number, False
        self.attempt: Attempt[Any] | None = None
        self.conn, theirs = context.Pipe()
        self.speaker, said = context.Pipe(duplex=False)
        os.set_blocking(self.speaker.fileno(), False)
        self.process = context.Process(target=_work, args=(theirs, said, gpu, beat), name=f"worker {number}")
        self.process.start()
        theirs.close()
        said.close()
        self.name = f"{os.uname().nodename}:{self.process.pid}"
        self.said, self.line = b"", b""
        self.since = self.heard = time.monotonic()

    @property
    def things(self) -> list[Any]:
        """What may be waited for."""
        return [thing for thing in (self.conn, self.speaker) if not thing.closed] + [self.process.sentinel]

    @property
    def busy_for(self) -> float:
        """Seconds since it took up its task."""
        return time.monotonic() - self.since

    @property
    def log(self) -> str:
        """The last of what it said since it took up its task."""
        return self.said.decode(errors="replace")

    def take(self, place: Place, tried: Attempt[Any]) -> bool:
        """Give it a task; whether it lives to take it."""
        self.said = b""
        self.since = self.heard = time.monotonic()
        try:
            self.conn.send((place, tried.task))
        except OSError:
            return False
        self.attempt = tried
        return True

    def forgive(self, seconds: float) -> None:
        """Time that does not count."""
        self.since += seconds
        self.heard += seconds

    def look(self, limit: Limit, silence: float) -> Finished | Lost | None:
        """What it has to give; or that it is lost, and then it is no more when this returns."""
        alive = self.process.is_alive()  # before what it sent is read: nothing comes after that
        found = self._read()
        self._listen()
        if found is None and not alive:
            found = Lost(_cause(self.process.exitcode))
        if found is None and self.attempt is not None and (self.ready or self.busy_for > SILENCE):
            if longest := limit(self.attempt.task, self.busy_for):
                found = Lost(f"it took longer than {longest:,.0f} s, its limit (--task-limit)")
            elif time.monotonic() - self.heard > silence:
                found = Lost(f"its worker gave no sign of life for {silence:,.0f} s")
            if found is not None:
                self._say_where()
        if isinstance(found, Lost):
            self.end(0.0)
        return found

    def _read(self) -> Finished | Lost | None:
        """What it sent."""
        try:
            while self.conn.poll():
                kind, content = self.conn.recv()
                self.heard = time.monotonic()
                if not self.ready:  # now it begins with what it was given
                    self.ready, self.since = True, self.heard
                if kind == "done":
                    return Finished(content)
                if kind == "raised":
                    return Lost(f"it raised {content}")
        except (EOFError, OSError):
            return None
        except Exception as error:  # noqa: BLE001  what was sent is a plugin's
            return Lost(f"what it gave cannot be read: {error!r}")
        return None

    def _listen(self) -> None:
        """Take in what it said, and pass whole lines on to this process's standard error."""
        if self.speaker.closed:
            return
        try:
            while piece := os.read(self.speaker.fileno(), TAIL):
                self.said = (self.said + piece)[-TAIL:]
                *lines, self.line = (self.line + piece).split(b"\n")
                for line in lines:
                    sys.stderr.write(line.decode(errors="replace") + "\n")
            self.speaker.close()
        except BlockingIOError:
            pass

    def _say_where(self) -> None:
        """Have it write where it is, which tells why it hangs."""
        with suppress(OSError):
            os.kill(self.process.pid or 0, signal.SIGUSR2)
            time.sleep(0.5)
        self._listen()

    def ask_to_end(self) -> None:
        """At once where it has nothing to do; a training writes its checkpoint first."""
        self.conn.close()
        if self.attempt is not None:
            self.process.terminate()

    def end(self, deadline: float) -> None:
        """Wait for its end until then, and kill it."""
        while self.process.is_alive() and time.monotonic() < deadline:
            self._listen()  # else it might wait for us
            self.process.join(0.05)
        self.process.kill()
        self.process.join()
        self._listen()
        for connection in (self.conn, self.speaker):
            connection.close()


def _cause(code: int | None) -> str:
    """Why a process ended, as far as its exit code says."""
    if code is None or code >= 0:
        return f"its worker ended with exit code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        return f"its worker was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
    return f"its worker was killed by signal {-code}"


def _work(conn: Connection, said: Connection, gpu: str | None, beat: float) -> None:
    """A worker's life: tasks come through a pipe, and results go back."""
    os.dup2(said.fileno(), 2)
    os.dup2(2, 1)  # standard output belongs to one JSON document
    said.close()
    sys.stdout = sys.stderr
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR2)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    one = threading.Lock()

    def send(kind: str, content: object = None) -> None:
        with one:
            conn.send((kind, content))

    def live() -> None:
        with suppress(OSError):
            while True:
                send("alive")
                time.sleep(beat)

    threading.Thread(target=_follow, daemon=True).start()
    try:
        import bench.place  # noqa: F401  before it counts as ready

        threading.Thread(target=live, daemon=True).start()
        while True:
            _next(conn, send)
    except (EOFError, OSError):  # nobody waits for it any more
        os._exit(0)
    except KeyboardInterrupt:
        os._exit(130)


def _next(conn: Connection, send: Callable[..., None]) -> None:
    """Do the next task."""
    place, task = conn.recv()
    try:
        result = attempt(place, task)
    except Exception as error:  # noqa: BLE001  whatever it is, it is this task's, and others go on
        traceback.print_exc()
        send("raised", repr(error))
    else:
        send("done", result)


def _follow() -> None:
    """End with the parent, however that ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
