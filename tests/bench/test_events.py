"""The event log of a run, and what bench watch says of it."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.errors import AttackError, IncompleteError, UsageError
from bench.events import EventLog, listening, lives, parsed, read
from bench.executors import Inline, Moment
from bench.ledger import Ledger
from bench.place import Place
from bench.records import Record, TrainingRecord
from bench.request import Request, resolve
from bench.run import run
from bench.watch import find, watched
from tests.conftest import TINY

ROOT = Path(__file__).parents[2]
Bench = Callable[..., "subprocess.CompletedProcess[str]"]
QUICK = ("run", "--defense", "quick", "--net", "tiny", "--plugin", str(TINY), "-n", "50", "--executor", "inline")


@dataclass(frozen=True)
class Telling:
    """The inline executor, which tells what happens."""

    width: int = 1
    shared: bool = True
    tell: Callable[[Any], None] = print

    def close(self) -> None:
        """There is nothing to let go of."""

    def __call__(self, place: Place, tasks: Sequence[Any], at_once: int = 0) -> Iterator[Any]:
        """One after the other."""
        for task in tasks:
            self.tell(Moment("started", task, "here"))
            began = time.monotonic()
            for done in Inline()(place, [task]):
                said = "" if isinstance(done[1], list) else str(done[1])
                self.tell(Moment("ended", task, "here", time.monotonic() - began, said))
                yield done


def test_a_run_keeps_a_log_of_all_that_it_does(bench: Bench, tmp_path: Path) -> None:
    """From its start to its end: every record of the ledger once, with what it cost."""
    assert bench(*QUICK, "--columns", "clean, slow").returncode == 0
    (log,) = tmp_path.glob("results/events/*.jsonl")
    events = list(read(log))
    assert [events[0]["event"], events[-1]["event"], events[-1]["code"]] == ["run-started", "run-ended", 0]
    assert events[0]["words"] == [*QUICK, "--columns", "clean, slow"]
    told = [record for e in events if e["event"] == "task-recorded" for record in e["records"]]
    records = [d for d in Ledger(tmp_path / "results/ledger").all() if isinstance(d, Record | TrainingRecord)]
    assert sorted(r["key"] for r in told if "check" not in r["schema"]) == sorted(d.key for d in records)
    assert sum(r.get("asked", 0) for r in told) == sum(len(d.asked) for d in records if isinstance(d, Record))
    assert [e["since"] for e in events] == sorted(e["since"] for e in events)


def test_what_fails_is_in_the_log_and_ends_with_its_code(bench: Bench, tmp_path: Path) -> None:
    """The run, and the watch of it."""
    done = bench(*QUICK, "--columns", "raises", "--events", "here.jsonl")
    assert done.returncode == 1
    (failed,) = (e for e in read(tmp_path / "here.jsonl") if e["event"] == "task-failed")
    assert "ZeroDivisionError" in failed["said"]
    shown = bench("watch", "here.jsonl")
    assert (shown.returncode, "ended with 1" in shown.stderr, "failed: raises" in shown.stderr) == (4, True, True)


def test_writers_do_not_mix_their_lines(tmp_path: Path) -> None:
    """Three processes with 300 lines each into one file: 900 whole lines, each writer's in its order."""
    path = tmp_path / "log.jsonl"
    code = (
        "import sys; from pathlib import Path; from bench.events import EventLog\n"
        "log = EventLog(Path(sys.argv[1]))\n"
        "for i in range(300): log.write('x', of=sys.argv[2], i=i, text='é' * (i % 97))\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), str(k)], cwd=ROOT) for k in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    lines = [line for line in path.read_bytes().splitlines() if line]
    events = [event for line in lines if (event := parsed(line)) is not None]
    assert len(lines) == len(events) == 900
    for k in range(3):
        assert [e["i"] for e in events if e["of"] == str(k)] == list(range(300))


def test_a_line_that_a_full_disk_cut_short_spoils_no_other(tmp_path: Path) -> None:
    """The file may grow no more in the middle of a line; later there is room again: all lines but that are whole."""
    log = EventLog(tmp_path / "log.jsonl")
    log.write("first")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.path.stat().st_size + 20, hard))
        log.write("cut")
        log.write("none")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.write("after")
    log.end(0)
    assert [e["event"] for e in read(log.path)] == ["first", "after", "run-ended"]
    assert b'"cut"' in log.path.read_bytes()


def test_a_log_that_cannot_be_written_stops_no_run(bench: Bench, tmp_path: Path) -> None:
    """Its place is a folder: the run ends well and its records are there."""
    (tmp_path / "taken").mkdir()
    assert bench(*QUICK, "--columns", "clean", "--events", "taken").returncode == 0
    assert list(Ledger(tmp_path / "results/ledger").all())


def test_a_killed_run_is_known_as_one(bench: Bench, tmp_path: Path) -> None:
    """While it lives it runs; after kill -9 its log is whole, and bench watch says killed with exit 4."""
    words = (*QUICK[:2], "quick(epochs=500, pause=0.02)", *QUICK[3:], "--columns", "clean")
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from bench.cli import main; main()"
    with subprocess.Popen([sys.executable, "-c", program, *words], cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        while not list(tmp_path.glob("results/store/scratch/*/checkpoint.pt")):
            time.sleep(0.02)
            assert process.poll() is None
        (path,) = tmp_path.glob("results/events/*.jsonl")
        assert lives(path) is True and watched(path).state == "running"
        done = bench("watch", "--once")
        assert (done.returncode, "running after" in done.stderr) == (0, True), done.stderr
        process.send_signal(signal.SIGKILL)
    assert watched(path).state == "killed"
    done = bench("watch", "--json")
    assert (done.returncode, json.loads(done.stdout)["state"]) == (4, "killed")
    assert [parsed(line) is not None for line in path.read_bytes().splitlines()].count(False) == 0


LOG = [
    {"event": "run-started", "since": 0, "words": ["run"], "host": "h", "planned": {"forwards": 3e3, "backwards": 1e3}},
    {"event": "tasks-planned", "since": 0, "tasks": 4, "width": 2},
    {"event": "task-started", "since": 0, "worker": "a", "task": "1", "what": "one", "kind": "question"},
    {"event": "task-started", "since": 5, "worker": "b", "task": "2", "what": "two", "kind": "question"},
    {"event": "task-ended", "since": 10, "worker": "a", "task": "1", "what": "one", "kind": "question", "seconds": 10},
    {"event": "task-recorded", "since": 10, "task": "1", "kind": "question", "what": "one", "records": [
        {"key": "k", "asked": 100, "fell": 40, "forwards": 600, "backwards": 400, "seconds": 8.0, "doubts": ["odd"]}]},
    {"event": "of-a-later-version", "since": 11, "records": 3},
    {"event": "task-lost", "since": 15, "worker": "b", "task": "2", "what": "two", "seconds": 10, "said": "killed"},
    {"event": "task-started", "since": 15, "worker": "b", "task": "2", "what": "two", "kind": "question"},
    {"event": "task-ended", "since": 16},  # not as this version writes it
]  # fmt: skip


def written(path: Path, events: list[dict[str, Any]]) -> Path:
    """A log of these events."""
    began = {"at": "2026-01-01T00:00:00.000+00:00"}
    path.write_text("".join(json.dumps({**began, **event}) + "\n" for event in events) + '{"event": "cut sh')
    return path


def test_throughput_occupancy_and_time_left_are_counted(tmp_path: Path) -> None:
    """Two workers: one ended a task of 10 s and waits, one lost one and is at it again; known sums."""
    path = written(tmp_path / "log.jsonl", [*LOG, {"event": "x", "since": 20}])
    found = watched(path)
    a, b = found.workers["a"], found.workers["b"]
    assert (a.tasks, a.images, a.passes, a.busy, b.tasks, b.lost, b.now) == (1, 100, 1000, 10, 0, 1, "two")
    assert (found.occupancy(a), found.occupancy(b)) == (10 / 20, 15 / 15)
    assert (found.images, found.fell, found.passes, found.planned, found.rate) == (100, 40, 1000, 4000, 1000 / 8)
    assert (found.lost, found.doubts, found.busy) == (["two: killed"], ["odd"], 1)
    found.state = "running"
    assert found.left == (4000 - 1000) / 125 / 2


def test_a_finished_log_is_shown_as_it_ended(bench: Bench, tmp_path: Path) -> None:
    """Nobody is busy, no time is left, and the command that was run is named."""
    written(tmp_path / "log.jsonl", [*LOG, {"event": "run-ended", "since": 20, "code": 0}])
    found = watched(tmp_path / "log.jsonl")
    assert (found.state, found.busy, found.left, found.seconds) == ("ended", 0, None, 20)
    done = bench("watch", "log.jsonl")
    assert (done.returncode, done.stdout) == (0, "")
    assert "bench run" in done.stderr and "ended with 0 after 20 s" in done.stderr


def test_it_follows_a_run_to_its_end(tmp_path: Path) -> None:
    """Without a terminal in lines; it ends with the run."""
    log = EventLog(tmp_path / "log.jsonl")
    log.begin(["run"], [])
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from bench.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", program, "watch", "log.jsonl"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("running after")
        log.end(0)
        assert process.stderr.read().startswith("ended with 0")
    assert process.returncode == 0


def test_another_machine_may_not_tell_whether_a_run_lives(tmp_path: Path) -> None:
    """Its lock may not be seen here: neither running nor killed is said."""
    assert watched(written(tmp_path / "log.jsonl", LOG)).state == "unknown"
    mine = [{**LOG[0], "host": os.uname().nodename}, *LOG[1:]]
    assert watched(written(tmp_path / "mine.jsonl", mine)).state == "killed"


def test_what_is_no_log_is_an_error(bench: Bench, tmp_path: Path) -> None:
    """Exit 2 with what was expected: no log at all, another file, an empty one; 4 where it cannot be read."""
    assert "there is no event log" in bench("watch").stderr
    for content in (b"", b"[1]\n", b"\xff\xfe\n", b'{"event": 3, "at": 4}\n', b'{"event": "run-started"}\n'):
        (tmp_path / "odd").write_bytes(content)
        done = bench("watch", "odd")
        assert (done.returncode, "is not the event log of a run" in done.stderr) == (2, True)
    with pytest.raises(UsageError):
        find("nowhere", tmp_path)
    with pytest.raises(IncompleteError, match="cannot read"):
        watched(tmp_path)


def test_watching_needs_no_torch(tmp_path: Path) -> None:
    """Nor numpy nor pydantic: it answers on a login node."""
    written(tmp_path / "log.jsonl", LOG)
    code = (
        "import sys; sys.argv = ['bench', 'watch', 'log.jsonl']\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from bench.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'pandas', 'scipy', 'pydantic', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.rstrip() == "[]"


def test_an_executor_that_tells_is_heard(place: Place) -> None:
    """Each task is started and ended by its worker, and its records are counted there."""
    path = place.ledger_root.parent / "log.jsonl"
    log = EventLog(path)
    log.begin(["run"], [])
    exam = resolve(Request(defenses=("quick",), net="tiny", columns=("clean", "slow"), n=100), place)
    summary = run(exam, place, listening(Telling(), log), report=lambda _line: None, log=log)
    log.end(log.code)
    found = watched(path)
    (worker,) = found.workers.values()
    assert (worker.name, worker.images) == ("here", summary.asked)
    assert worker.tasks == found.trainings + found.questions + 1, "the check, too"
    assert 0 < found.occupancy(worker) <= 1
    assert listening(Inline(), log) == Inline() or "tell" in vars(Inline())


def test_an_error_gives_the_run_its_code(tmp_path: Path) -> None:
    """The first one does."""
    log = EventLog(tmp_path / "log.jsonl")
    log.recorded(None, AttackError("broke"))
    log.recorded(None, IncompleteError("more"))
    assert log.code == 1


def test_how_far_a_training_is_comes_from_its_history(tmp_path: Path) -> None:
    """The last epoch that its worker has written; none where there is no history yet."""
    started = {"event": "task-started", "since": 1, "worker": "a", "task": "t", "what": "train at", "kind": "training",
               "key": "k", "epochs": 9}  # fmt: skip
    path = written(tmp_path / "log.jsonl", [{**LOG[0], "store": str(tmp_path)}, started])
    assert watched(path).document()["workers"][0]["progress"] == ""
    (tmp_path / "histories").mkdir()
    (tmp_path / "histories" / "k.jsonl").write_text('{"epoch": 1}\n{"epoch": 2, "val_pgd10": 0.25}\n')
    assert watched(path).document()["workers"][0]["progress"] == "epoch 2/9, 25.0% under PGD-10"
