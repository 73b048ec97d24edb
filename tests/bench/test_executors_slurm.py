"""A real Slurm of one machine gives what one process gives; its jobs may be cancelled, queued again and poisoned."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench.clusters import OWN, slurm_settings
from bench.errors import IncompleteError, UsageError, WorkerError
from bench.executors import Inline, Moment
from bench.executors_slurm import Slurm
from bench.place import Place
from bench.request import Request, resolve
from bench.run import run
from tests.bench.slurm import absent, cluster, hurry, running
from tests.bench.tasks import Job
from tests.bench.verdicts import elsewhere, verdict_hash

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(absent()), reason=absent() or "slurm")]
ASK = Request(defenses=("quick",), net="tiny", columns=("clean", "slow", "walks", "pgd(steps=3)"), n=300, seeds=(0, 1))


@pytest.fixture(scope="module")
def conf() -> Iterator[Path]:
    with cluster() as found:
        yield found


@pytest.fixture(autouse=True)
def here(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(conf))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def slurm(**settings: object) -> Slurm:
    return Slurm(2, lambda _task: 60.0, lambda _task: 600.0, {}, dict(OWN), **settings)  # type: ignore[arg-type]


def test_slurm_gives_the_same_verdicts_as_one_process(place: Place) -> None:
    """Two trainings and eight columns on digits: the same verdict on every image, each asked once."""
    there = elsewhere(place, "there")
    plain = run(resolve(ASK, place), place, Inline(), report=lambda _line: None)
    summary = run(resolve(ASK, there), there, slurm(), report=lambda _line: None)
    assert summary.failures == [] and summary.trained == plain.trained == 2
    assert summary.asked == plain.asked > 1000
    assert verdict_hash(there) == verdict_hash(place)
    assert not list((there.store_root / "slurm").glob("*"))
    again = run(resolve(ASK, there), there, slurm(), report=lambda _line: None)
    assert (again.trained, again.asked) == (0, 0)


def test_what_kills_its_worker_fails_twice_and_the_rest_goes_on(place: Place) -> None:
    """In one job: a poisoned task has failed, with its log, and its neighbours are done."""
    found = {t.number: r for t, r in slurm()(place, [Job(0), Job(1, "killed"), Job(2), Job(3, "raises")])}
    assert found[0] == found[2] == []
    assert isinstance(found[1], WorkerError) and "SIGKILL" in str(found[1])
    assert isinstance(found[3], WorkerError) and (place.store_root / "logs" / "job-3.log").exists()


def test_cancelled_and_requeued_jobs_are_done_all_the_same(place: Place) -> None:
    """A job that is cancelled is lost, and submitted once more; one that Slurm queues again just goes on."""
    moments: list[Moment] = []
    executor = slurm(tell=moments.append)
    executor.expected = lambda _task: 1000.0  # a job each

    def disturb() -> None:
        deadline = time.monotonic() + 120
        done: set[str] = set()
        while not over.wait(0.5) and time.monotonic() < deadline:
            for job in set(running()) - done:
                if len(list(place.ledger_root.glob("*"))) >= 2 and len(done) < 2:
                    subprocess.run(["scancel", job] if done else ["scontrol", "requeue", job], check=False)
                    done.add(job)
            hurry()

    over = threading.Event()
    thread = threading.Thread(target=disturb)
    thread.start()
    found = dict(executor(place, [Job(0, pause=15.0), Job(1, pause=15.0)]))
    over.set()
    thread.join()
    assert list(found.values()) == [[], []]
    assert sum(m.what == "lost" for m in moments) == 1
    assert sum(m.what == "ended" for m in moments) == 2


def test_preempted_jobs_write_and_queue_themselves_again(place: Place) -> None:
    """submitit's own signal, as before a time limit: the task is begun again, and done."""
    executor = slurm()
    sent = threading.Event()

    def preempt() -> None:
        deadline = time.monotonic() + 120
        while not over.wait(0.5) and time.monotonic() < deadline:
            if list(place.ledger_root.glob("0.*")) and not sent.is_set():
                for job in running():
                    subprocess.run(["scancel", "--signal=USR2", job], check=True)
                    sent.set()
            hurry()

    over = threading.Event()
    thread = threading.Thread(target=preempt)
    thread.start()
    found = dict(executor(place, [Job(0, pause=6.0)]))
    over.set()
    thread.join()
    assert sent.is_set() and list(found.values()) == [[]]
    assert len([p for p in place.ledger_root.glob("0.*") if p.suffix != ".done"]) == 2


def test_what_slurm_refuses_is_said(place: Place) -> None:
    """A partition that is not there is an error in one line, before anything runs."""
    executor = replace(slurm(), settings={"partition": "nowhere"})
    with pytest.raises(IncompleteError, match=r"Slurm took no job.*[Ii]nvalid partition"):
        list(executor(place, [Job(0)]))
    with pytest.raises(UsageError, match="mean 'partition'"):
        slurm_settings("partitoin=gpu")
