"""Executors go on when a worker dies, hangs or breaks; a task that does it twice has failed, and its log is kept."""

from __future__ import annotations

import multiprocessing.spawn
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.errors import RampartError, UsageError, WorkerError
from bench.executors import Moment
from bench.executors_process import Process
from bench.place import Place
from tests.bench.tasks import Job


def limit(_task: object, seconds: float) -> float:
    """Three seconds."""
    return 3.0 if seconds > 3.0 else 0.0


def tries(place: Place, number: int) -> int:
    return len([p for p in place.ledger_root.glob(f"{number}.*") if p.suffix != ".done"])


def done(place: Place) -> set[int]:
    return {int(p.stem) for p in place.ledger_root.glob("*.done")}


def test_what_fails_twice_has_failed_and_all_else_is_done(place: Place) -> None:
    """Killed, crashed, ended and broken tasks are tried twice and say why; the others are done, once each."""
    words = ["", "killed", "crashes", "exits", "raises", "explains", "killed once", *[""] * 20]
    moments: list[Moment] = []
    executor = Process(3, tell=moments.append)
    found = {task.number: result for task, result in executor(place, [Job(n, w) for n, w in enumerate(words)])}
    executor.close()
    assert done(place) == set(range(27)) - {1, 2, 3, 4, 5}
    assert [tries(place, n) for n in range(8)] == [1, 2, 2, 2, 2, 1, 2, 1]
    for number, reason in {1: "SIGKILL", 2: "SIGSEGV", 3: "exit code 7", 4: "ZeroDivisionError('nine')"}.items():
        error = found[number]
        assert isinstance(error, WorkerError) and error.exit_code == 4
        log = place.store_root / "logs" / f"job-{number}.log"
        assert reason in str(error) and "tried twice" in str(error) and str(log) in str(error)
        assert log.read_text().count("=== try") == 2
    said = (place.store_root / "logs" / "job-2.log").read_text()
    assert "about to crash" in said and "tasks.py" in said
    assert "Traceback" in (place.store_root / "logs" / "job-4.log").read_text()
    assert isinstance(found[5], UsageError) and not isinstance(found[5], WorkerError)
    assert found[6] == [] and not (place.store_root / "logs" / "job-6.log").exists()
    assert sorted(m.task.number for m in moments if m.what == "ended") == list(range(27))  # type: ignore[attr-defined]
    assert sum(m.what == "lost" for m in moments) == 9
    assert not list(place.ledger_root.glob("*.json"))


def test_what_hangs_is_stopped_and_says_where(place: Place) -> None:
    """A task beyond its limit, and a worker without a sign of life, are stopped; the log shows where it hung."""
    executor = Process(2, limit, silence=2.0, beat=0.2)
    began = time.monotonic()
    found = dict(executor(place, [Job(0, "hangs"), Job(1, "stops"), Job(2), Job(3)]))
    executor.close()
    assert done(place) == {2, 3} and time.monotonic() - began < 60
    assert "longer than 3 s, its limit" in str(found[Job(0, "hangs")])
    assert "no sign of life for 2 s" in str(found[Job(1, "stops")])
    assert "in do" in (place.store_root / "logs" / "job-0.log").read_text()
    assert [tries(place, n) for n in range(4)] == [2, 2, 1, 1]


def test_workers_that_others_kill_are_replaced(place: Place) -> None:
    """kill -9 of whoever works, again and again: every task is done, and what was cut off is done again."""
    executor = Process(2)
    stop = threading.Event()

    def kill() -> None:
        for _ in range(2):
            if stop.wait(1.5):
                return
            for worker in executor._crew[:1]:
                os.kill(worker.process.pid or 0, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    found = []
    for task, result in executor(place, [Job(n, pause=0.1) for n in range(60)]):
        if not found:
            killer.start()
        found.append((task, result))
    stop.set()
    killer.join()
    executor.close()
    assert done(place) == set(range(60)) and all(result == [] for _, result in found)


def test_each_worker_has_a_card_of_its_own(place: Place) -> None:
    """CUDA_VISIBLE_DEVICES is one card in each worker, and trainings then need not wait for each other."""
    executor = Process(2, gpus=("5", "GPU-7"))
    assert not executor.shared and Process(2).shared and Process(4, gpus=("5", "GPU-7")).shared
    list(executor(place, [Job(n, "shows its card", pause=0.5) for n in range(8)]))
    executor.close()
    assert {p.name for p in place.ledger_root.glob("card-*")} == {"card-5", "card-GPU-7"}


def test_workers_end_with_their_parent_and_with_the_loop(place: Place) -> None:
    """A loop that is left ends its workers; so does the end of the process, by kill -9 too."""
    executor = Process(2)
    for _ in executor(place, [Job(n, pause=0.05) for n in range(20)]):
        break
    assert executor._crew == []
    text = (
        "import sys; from pathlib import Path; from bench.place import Place; from tests.bench.tasks import Job\n"
        "from bench.executors_process import Process\n"
        "if __name__ == '__main__':\n"
        f"    place = Place(Path({str(place.ledger_root / 'b')!r}), Path('s'), Path('d'))\n"
        "    list(Process(2)(place, [Job(0, pause=60.0), Job(1, pause=60.0)]))\n"
    )
    script = place.ledger_root / "script.py"
    script.write_text(text)
    parent = subprocess.Popen([sys.executable, str(script)], env=os.environ | {"PYTHONPATH": str(Path.cwd())})
    folder = place.ledger_root / "b"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(folder.glob("*"))) < 2:
        time.sleep(0.1)
    workers = [int(p.name.split(".")[1]) for p in folder.glob("*")]
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in workers):
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


@pytest.mark.slow
def test_a_run_that_was_stopped_blames_no_worker(place: Place) -> None:
    """Stopped for longer than limit and silence allow, and continued: the task is done, at its first try."""
    text = (
        "from pathlib import Path; from bench.place import Place; from tests.bench.tasks import Job\n"
        "from bench.executors_process import Process\n"
        "def limit(_task, seconds): return 7.0 if seconds > 7.0 else 0.0\n"
        "if __name__ == '__main__':\n"
        f"    place = Place(Path({str(place.ledger_root)!r}), Path('s'), Path('d'))\n"
        "    found = list(Process(1, limit, silence=7.0, beat=0.2)(place, [Job(0, 'works in steps')]))\n"
        "    assert [result for _, result in found] == [[]], found\n"
    )
    script = place.ledger_root.parent / "script.py"
    script.write_text(text)
    run = subprocess.Popen(
        [sys.executable, str(script)], env=os.environ | {"PYTHONPATH": str(Path.cwd())}, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not tries(place, 0):
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGSTOP)
    time.sleep(9.0)
    os.killpg(run.pid, signal.SIGCONT)
    assert run.wait(60) == 0
    assert tries(place, 0) == 1 and done(place) == {0}


def test_workers_that_cannot_start_end_the_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no worker lives long enough to take a task, the run stops and says so, and tries nothing for ever."""
    python = place.ledger_root.parent / "python"
    python.write_text(f'#!/bin/sh\ncase "$*" in *resource_tracker*) exec {sys.executable} "$@";; esac\nexit 3\n')
    python.chmod(0o755)
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", bytes(python))
    executor = Process(1)
    with pytest.raises(RampartError, match="before they can work"):
        list(executor(place, [Job(0)]))
