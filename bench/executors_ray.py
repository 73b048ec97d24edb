"""Tasks on a Ray cluster, here or elsewhere; the ledger and the store lie on storage that all machines share."""

from __future__ import annotations

import faulthandler
import logging
import math
import os
import signal
import socket
import sys
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.clusters import RAY
from bench.errors import IncompleteError, RampartError, UsageError
from bench.executors import TAIL, Attempt, Done, Moment, T, Task, Tell, attempt, ended, log_of, nobody, unlimited
from bench.executors_process import Limit
from bench.place import cores

if TYPE_CHECKING:
    from bench.place import Place
    from bench.records import Document

LOOK = 1.0  # seconds between looks at limits


@dataclass
class Ray:
    """As tasks of Ray, which finds them room; one whose worker is lost, or that takes too long, is tried once more.

    width: how many at once; 0 is what the cluster has room for.  settings: those of --ray.
    """

    width: int
    settings: Mapping[str, str] = field(default_factory=lambda: dict(RAY))
    limit: Limit = unlimited
    tell: Tell = nobody
    shared: bool = False
    _ray: Any = field(default=None, init=False, repr=False)
    _ours: bool = field(default=False, init=False)
    _running: dict[Any, _Running] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, place: Place, tasks: Sequence[T], at_once: int = 0) -> Iterator[Done[T]]:
        """As they are done; what was lost comes again after all others."""
        if not tasks:
            return
        waiting = deque(Attempt(task) for task in tasks)
        try:
            width = self._connected(at_once)
            do = self._remote()
            while waiting or self._running:
                while waiting and len(self._running) < width:
                    tried = waiting.popleft()
                    log = place.store_root / "logs" / f"{tried.task.name}.{uuid.uuid4().hex[:8]}.running"
                    self._running[do.remote(place, tried.task, log)] = _Running(tried, log)
                done, _ = self._ray.wait(list(self._running), timeout=LOOK)
                self._look_at_limits()
                for ref in done:
                    running = self._running.pop(ref)
                    worker, result = self._result(ref, running)
                    tried = running.attempt
                    if isinstance(result, str):
                        self.tell(Moment("lost", tried.task, worker, running.seconds, result))
                        if tried.lost(result, running.said()):
                            waiting.append(tried)
                            continue
                        result = tried.failure(place)
                    elif tried.reasons:
                        log_of(place, tried.task).unlink(missing_ok=True)
                    self.tell(ended(tried.task, worker, running.seconds, result))
                    yield tried.task, result
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cancel what runs, and leave the cluster; one that was started here ends."""
        running, self._running = self._running, {}
        for ref in running:
            with suppress(Exception):  # it may be over, or the cluster gone
                self._ray.cancel(ref, force=True)
        if self._ours:
            self._ray.shutdown()
            self._ours = False

    def _connected(self, at_once: int) -> int:
        """Join the cluster; how many tasks it has room for, as far as was asked."""
        address = self.settings["address"] or os.environ.get("RAY_ADDRESS", "")
        self._ray = _library(address)
        if not self._ray.is_initialized():
            quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
            here = {
                "address": "local",
                "num_cpus": cores(),
                "include_dashboard": False,
                "_node_ip_address": "127.0.0.1",
            }
            try:
                _answers(address)
                with _own_signals():
                    self._ray.init(**({"address": address} if address else here), **quiet)
            except Exception as error:
                said = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise IncompleteError(f"no Ray cluster answers at {address or 'this machine'}: {said}") from error
            self._ours = True
        room = self._ray.cluster_resources()
        needs = {"CPU": float(self.settings["cpus"]), "GPU": float(self.settings["gpus"])}
        fits = [math.floor(room.get(kind, 0.0) / need + 1e-9) for kind, need in needs.items() if need]
        if fits and min(fits) < 1:
            asked = ", ".join(f"{need:g} {kind}" for kind, need in needs.items() if need)
            there = ", ".join(f"{room.get(kind, 0.0):g} {kind}" for kind in needs)
            raise UsageError(f"--ray: a task asks for {asked}, and the whole cluster has {there}")
        return int(min([n for n in (*fits, self.width, at_once) if n] or [1]))

    def _remote(self) -> Any:
        """Our function as Ray runs it; whether it is tried again is decided here and not by Ray."""
        memory = float(self.settings["memory"])
        return self._ray.remote(_do).options(
            num_cpus=float(self.settings["cpus"]), num_gpus=float(self.settings["gpus"]), max_retries=0,
            **({"memory": memory * 1e9} if memory else {}),
        )  # fmt: skip

    def _look_at_limits(self) -> None:
        """Stop what takes too long; it has begun when its log is there."""
        for ref, running in self._running.items():
            if running.since is None and running.log.exists():
                running.since = time.monotonic()
                self.tell(Moment("started", running.attempt.task, "ray"))
            if running.since is not None and not running.over:
                running.over = self.limit(running.attempt.task, time.monotonic() - running.since)
                if running.over:
                    self._ray.cancel(ref, force=True)

    def _result(self, ref: Any, running: _Running) -> tuple[str, list[Document] | RampartError | str]:
        """The worker and what it gave, or why it gave nothing."""
        errors = self._ray.exceptions
        try:
            worker, result = self._ray.get(ref)
        except errors.RayTaskError as error:
            return "ray", f"it raised {error.cause!r}"
        except errors.RayError as error:
            if running.over:
                return "ray", f"it took longer than {running.over:,.0f} s, its limit (--task-limit)"
            return "ray", f"its worker was lost ({type(error).__name__})"
        return worker, result


@dataclass
class _Running:
    """A task that was given to Ray."""

    attempt: Attempt[Any]
    log: Path
    since: float | None = None
    over: float = 0.0  # the limit that it is beyond

    @property
    def seconds(self) -> float:
        """Since it began, as far as was seen."""
        return 0.0 if self.since is None else time.monotonic() - self.since

    def said(self) -> str:
        """The end of its log, which is then removed."""
        try:
            text = self.log.read_text(errors="replace")[-TAIL:]
            self.log.unlink(missing_ok=True)
        except OSError:
            return "it said nothing\n"
        return text


def _do(place: Place, task: Task, log: Path) -> tuple[str, list[Document] | RampartError]:
    """In a worker of Ray's: do the task, with all that it says in a log, which goes where the task ends well."""
    with _speaking_to(log):
        result = attempt(place, task)
    log.unlink(missing_ok=True)
    return f"{os.uname().nodename}:{os.getpid()}", result


@contextmanager
def _speaking_to(log: Path) -> Iterator[None]:
    """Everything that is said inside, also by a crash, goes to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    kept = os.dup(1), os.dup(2)
    with log.open("ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        faulthandler.enable(file=2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, before in zip((1, 2), kept, strict=True):
                os.dup2(before, number)
                os.close(before)


def _answers(address: str) -> None:
    """An error in seconds where nobody listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10.0).close()


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself; here it ends a run as Ctrl-C does."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with suppress(ValueError, TypeError):  # in a thread signals are not ours
            signal.signal(signal.SIGTERM, before)


def _library(address: str) -> Any:
    """Ray, which sends no usage statistics; or what to install."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not address or address.startswith(("127.", "localhost:")):
        # Its word for a cluster that keeps to the loopback, where it else would listen for other machines.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError:
        raise UsageError("--executor ray needs Ray: pip install 'rampart-bench[ray]'") from None
    return ray
