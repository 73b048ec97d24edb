"""Full and read-only disks, machines without locks, clocks that jump, little memory, signals."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.errors import IncompleteError
from bench.files import check_writable, locked, range_locked
from bench.ledger import Ledger
from bench.records import Record, TrainingRecord
from tests.conftest import TINY

ROOT = Path(__file__).parents[2]
Bench = Callable[..., "subprocess.CompletedProcess[str]"]
QUICK = ("run", "--defense", "quick", "--net", "tiny", "--plugin", str(TINY), "-n", "50", "--executor", "inline",
         "--columns", "clean, slow")  # fmt: skip


def scenario(name: str, folder: Path) -> dict[str, Any]:
    """What was found on machines where something is amiss."""
    words = [sys.executable, "-m", "tests.bench.faulty", name, str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_two_machines_share_a_ledger(tmp_path: Path) -> None:
    """By paths of their own, at the same time: each image is asked once, and the verdicts are those of one machine."""
    found = scenario("two-machines", tmp_path)
    assert found["codes"] == [0, 0, 0], found["said"]
    assert found["verdicts"] and found["figures"] and found["trainings"]
    assert (found["doubled"], found["left"], found["logs"]) == (0, [], ["one", "two"])


def test_without_locks_work_is_done_twice_and_never_lost(tmp_path: Path) -> None:
    """Where every lock is refused, as on NFS without its lock service: the same verdicts, some of them twice."""
    found = scenario("no-locks", tmp_path)
    assert found["codes"] == [0, 0, 0], found["said"]
    assert found["verdicts"] and found["figures"] and found["trainings"]
    assert found["left"] == []


def test_a_clock_that_jumps_decides_nothing(tmp_path: Path) -> None:
    """By years at every look, with a kill -9 in between: the same hash, and a further run finds nothing to do."""
    found = scenario("clock", tmp_path)
    assert found["codes"] == [0, -signal.SIGKILL, 0, 0], found["said"]
    assert found["hash"] and (found["doubled"], found["left"]) == (0, [])
    assert found["years"] > 1, "the clock did jump"
    assert "Nothing to do" in found["said"]


def test_little_memory_is_a_named_error(tmp_path: Path) -> None:
    """A batch that the machine cannot hold: the error names it, nothing is published, and there is no traceback."""
    found = scenario("memory", tmp_path)
    assert (found["codes"], found["held"]) == ([1], 0)
    assert "a batch of 1000 images does not fit in memory" in found["said"]
    assert "Traceback" not in found["said"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A disk of a megabyte, mounted anew with given options at each call; the test is skipped where that is refused."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def mount(options: str) -> Path:
        nonlocal mounted
        words = ["mount", "-o", f"remount,{options}", str(folder)]
        words = words if mounted else ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a disk cannot be mounted here: {done.stderr.strip()}")
        mounted = True
        return folder

    yield mount
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_with_4_and_the_same_command_continues(
    bench: Bench, disk: Callable[[str], Path], tmp_path: Path
) -> None:
    """Wherever it fills up: what was written is whole; with room again all is there once."""
    root = disk("size=1m")
    words = (*QUICK, "--ledger", str(root / "ledger"), "--store", str(root / "store"))
    filler, stops = root / "filler", 0
    for room in (4, 8, 16, 32, 48):  # pages of 4 KiB: full in the training, in its record, in the sidecars
        filler.write_bytes(b"")
        free = os.statvfs(root).f_bavail * 4096
        filler.write_bytes(bytes(max(0, free - room * 4096)))
        done = bench(*words)
        if done.returncode == 0:
            break
        stops += 1
        assert done.returncode == 4, done.stderr
        assert "the disk is full; what was written before is whole" in done.stderr or "cannot write" in done.stderr
        assert "Traceback" not in done.stderr
        list(Ledger(root / "ledger").all())  # whatever has its name is whole
        assert list(root.rglob("*.part")) == []
    assert stops, "the disk was full at least once"
    filler.unlink()
    disk("size=16m")
    assert bench(*words).returncode == 0
    found = [*Ledger(root / "ledger").all()]
    asked = [i for d in found if isinstance(d, Record) and "clean" in d.attack for i in d.asked]
    assert sorted(asked) == [*range(50)]
    assert sum(isinstance(d, TrainingRecord) for d in found) == 1


def test_a_read_only_ledger_is_known_before_any_work(bench: Bench, disk: Callable[[str], Path], tmp_path: Path) -> None:
    """Exit 4 and nothing trained; where all is done already, a run shows the board."""
    root = disk("size=4m")
    (root / "ledger").mkdir()
    disk("ro")
    words = (*QUICK, "--ledger", str(root / "ledger"))
    done = bench(*words)
    assert done.returncode == 4
    assert f"cannot write into {root}/ledger/.incoming: Read-only file system; nothing was begun" in done.stderr
    assert not list(tmp_path.glob("results/store/scratch/*")) and not list(tmp_path.glob("results/store/histories/*"))
    disk("rw")
    assert bench(*words).returncode == 0
    disk("ro")
    done = bench(*words)
    assert done.returncode == 0, done.stderr
    assert "Nothing to do" in done.stderr


def test_a_folder_that_is_a_file_is_not_writable(tmp_path: Path) -> None:
    """The error says what and why."""
    (tmp_path / "file").write_text("")
    with pytest.raises(IncompleteError, match=r"cannot write into .*file/x: Not a directory; nothing was begun"):
        check_writable(tmp_path / "file" / "x")
    check_writable(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_refused_lock_counts_as_held(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds; another error is named."""

    def refuse(*_words: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)
    with locked(tmp_path / "a"), range_locked(tmp_path / "b", 1, 2, wait=False) as held:
        assert held
    code = errno.EPERM
    with pytest.raises(IncompleteError, match=r"cannot lock .*: Operation not permitted"), locked(tmp_path / "a"):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
@pytest.mark.parametrize("pause", ["quick(epochs=40, pause=0.02)", "quick"])
def test_asked_to_end_it_ends_with_130_and_goes_on(number: int, pause: str, bench: Bench, tmp_path: Path) -> None:
    """In a training, and in an attack: exit 130; the same command ends in what an undisturbed one finds."""
    words = ("run", "--defense", pause, "--net", "tiny", "--plugin", str(TINY), "-n", "100", "--executor", "inline")
    words += ("--columns", "clean, slow(pause=0.3)", "--batch", "32")
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from bench.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", program, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        sign = "results/store/scratch/*/checkpoint.pt" if "pause" in pause else "results/ledger/*/*.safetensors"
        while not list(tmp_path.glob(sign)):
            time.sleep(0.01)
            assert process.poll() is None
        time.sleep(0.1)
        process.send_signal(number)
        said = process.communicate(timeout=100)[1]
    assert process.returncode == 130, said
    assert said.endswith("bench: interrupted; the same command continues\n")
    done = bench(*words)
    assert done.returncode == 0, done.stderr
    records = [d for d in Ledger(tmp_path / "results/ledger").all() if isinstance(d, Record)]
    for attack in ("clean", "slow"):
        asked = [i for d in records if d.attack.startswith(attack) for i in d.asked]
        assert len(asked) == len(set(asked)) > 0
