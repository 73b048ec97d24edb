"""Where questions are answered and lessons learnt: in this process, or in several."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from bench.errors import IncompleteError, RampartError
from bench.records import Document

if TYPE_CHECKING:
    from bench.place import Place


class Task(Protocol):
    """Work that writes its own record: a question or a lesson.  Doing it twice does no harm."""

    def do(self, place: Place) -> list[Document]:
        """Do it here, and give the records."""
        ...


T = TypeVar("T", bound=Task)
Done = tuple[T, list[Document] | RampartError]


class Executor(Protocol):
    """Does tasks, in any order; `width` is how many at once."""

    @property
    def width(self) -> int:
        """How many tasks at once."""
        ...

    def __call__(self, place: Place, tasks: Sequence[T]) -> Iterator[Done[T]]:
        """Do the tasks and yield each with its records, or with the error that explains why there is none."""
        ...


@dataclass(frozen=True)
class Inline:
    """One after the other, here."""

    width: int = 1

    def __call__(self, place: Place, tasks: Sequence[T]) -> Iterator[Done[T]]:
        """In the order given."""
        for task in tasks:
            yield task, _try(place, task)


@dataclass(frozen=True)
class Process:
    """Among so many processes of this machine; each writes its own records."""

    width: int

    def __call__(self, place: Place, tasks: Sequence[T]) -> Iterator[Done[T]]:
        """As they are done."""
        workers = min(self.width, len(tasks))
        if workers <= 1:
            yield from Inline()(place, tasks)
            return
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _quiet)
        try:
            futures = {pool.submit(_work, place, task): task for task in tasks}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise IncompleteError(
                "a worker was killed (out of memory?); what was recorded stays, and the same command continues"
            ) from None
        except BaseException:
            # There is no public way to stop the workers at once.
            for worker in list((pool._processes or {}).values()):  # noqa: SLF001
                worker.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _quiet() -> None:
    """Keep a worker's prints off standard output, which belongs to one JSON document; end with the parent."""
    sys.stdout = sys.stderr
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _work(place: Place, task: Task) -> list[Document] | RampartError:
    """In a worker: as _try; one that is interrupted ends, and does not go on with the next task."""
    try:
        return _try(place, task)
    except KeyboardInterrupt:
        os._exit(130)


def _try(place: Place, task: Task) -> list[Document] | RampartError:
    """The records, or the error that explains why there is none."""
    try:
        return task.do(place)
    except RampartError as error:
        return error
