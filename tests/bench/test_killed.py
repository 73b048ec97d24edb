"""What processes that are killed leave behind, and who removes it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.files import INCOMING, remove_lock, sweep, write_atomically
from bench.ledger import Ledger
from bench.store import Store
from tests.conftest import TINY

ROOT = Path(__file__).parents[2]


def killed(folder, records, kills, seed=0):
    """Two writers of so many records each, killed so many times at random moments; what was found."""
    words = [sys.executable, "-m", "tests.bench.killed", str(folder), *map(str, (records, kills, seed))]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_two_writers_killed_at_random_moments(tmp_path):
    """Every record is whole or absent after each kill, all are there in the end, and no temporary file is."""
    found = killed(tmp_path / "ledger", 150, 20)
    assert (found["records"], found["files"], found["ended_before"]) == (300, 600, 0)
    assert found["exit_codes"] == found["left_after_a_start"] == 0


@pytest.mark.slow
def test_a_thousand_records_each_and_a_hundred_kills(tmp_path):
    """The same, long; many of the kills fell into the middle of a file."""
    found = killed(tmp_path / "ledger", 1000, 100)
    assert (found["records"], found["files"], found["ended_before"]) == (2000, 4000, 0)
    assert found["exit_codes"] == found["left_after_a_start"] == 0
    assert found["seen_unfinished"] > 20


HOLDER = """
import sys, time
from pathlib import Path
from bench.files import writing
with writing(Path(sys.argv[1]), Path(sys.argv[2])) as file:
    file.write(b"half"), file.flush(), print("half", flush=True), time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process in the middle of a file of a ledger."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "ledger" / "x"), str(tmp_path / "ledger" / INCOMING)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"half\n"
        yield process
        process.kill()


def test_a_living_writer_keeps_its_file(tmp_path, holder):
    """Neither a start nor another writer removes it, however old it looks; once killed, the next start does."""
    ledger = Ledger(tmp_path / "ledger")
    (half,) = (ledger.root / INCOMING).iterdir()
    os.utime(half, (0, 0))
    write_atomically(ledger.root / "y", b"", ledger.root / INCOMING)
    assert ledger.tidy() == [] and half.read_bytes() == b"half"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert ledger.tidy() == [half] and sorted(p.name for p in ledger.root.rglob("*")) == [INCOMING, "y"]


def test_the_next_writer_removes_it_too(tmp_path, holder):
    """A record added after the kill leaves no temporary file either."""
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    write_atomically(tmp_path / "ledger" / "y", b"", tmp_path / "ledger" / INCOMING)
    assert list((tmp_path / "ledger" / INCOMING).iterdir()) == []


def test_a_run_starts_by_removing_what_was_left(bench, tmp_path):
    """In the ledger, the store, its histories and its scratch folders; a run with nothing else to do does it too."""
    words = ("run", "--defense", "quick", "--net", "tiny", "--plugin", str(TINY), "-n", "20", "--executor", "inline")
    words += ("--columns", "clean", "--ledger", "ledger", "--store", "store")
    assert bench(*words).returncode == 0
    folders = [f"ledger/{INCOMING}", f"store/{INCOMING}", "store", "store/histories", "store/scratch/a/snapshots"]
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / f".{os.uname().nodename}.abcd.part").write_bytes(b"half")
    assert bench(*words).returncode == 0
    assert list(tmp_path.rglob("*.part")) == []


def test_files_of_other_machines_must_be_old(tmp_path):
    """Their locks may not be seen here: one of a minute stays, one of two days goes; foreign files stay."""
    names = (".elsewhere.abcd.part", ".elsewhere.efgh.part", ".abcd.part", "images.part", ".part.json")
    for name in names:
        (tmp_path / name).write_bytes(b"")
    for name in names[1:]:
        os.utime(tmp_path / name, (time.time() - 2 * 86400,) * 2)
    assert {p.name for p in sweep(tmp_path, delete=False)} == {".elsewhere.efgh.part", ".abcd.part"}
    assert len(list(tmp_path.iterdir())) == 5
    sweep(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {".elsewhere.abcd.part", "images.part", ".part.json"}
    assert sweep(tmp_path / "none") == [] == Store(tmp_path / "none").tidy()


LOCKER = """
import sys
from pathlib import Path
from bench.files import {0}
for _ in range(300):
    with {1}:
        number = int(Path(sys.argv[2]).read_text())
        Path(sys.argv[2]).write_text(str(number + 1))
"""


@pytest.mark.parametrize(
    "how",
    [("locked", "locked(Path(sys.argv[1]))"), ("range_locked", "range_locked(Path(sys.argv[1]), 3, 9, wait=True)")],
)
def test_a_lock_may_be_removed_while_others_take_it(tmp_path, how):
    """Two processes count under a lock whose file a third keeps removing: none of 600 counts is lost."""
    lock, number = tmp_path / "lock", tmp_path / "number"
    number.write_text("0")
    command = [sys.executable, "-c", LOCKER.format(*how), str(lock), str(number)]
    with subprocess.Popen(command, cwd=ROOT) as one, subprocess.Popen(command, cwd=ROOT) as two:
        removed = 0
        while None in {one.poll(), two.poll()}:
            removed += removed < 100 and remove_lock(lock)
            time.sleep(0.001)
    assert (one.returncode, two.returncode, number.read_text()) == (0, 0, "600") and removed > 0
