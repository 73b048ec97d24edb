"""What --slurm and --ray say, how tasks are packed into jobs, and what a run does with tasks that nobody survives."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.answer import Question
from bench.clusters import LEAST, MOST, OWN, packed, ray_settings, slurm_settings
from bench.errors import UsageError
from bench.ledger import Ledger
from bench.limits import LEAST as HOUR
from bench.limits import Times
from bench.place import Place
from bench.plan import Speed
from bench.records import Record
from bench.request import Request, resolve
from bench.run import range_size
from tests.conftest import TINY

Bench = Callable[..., subprocess.CompletedProcess[str]]
POISON = """
import os, signal
from bench import attack

@attack(norms=("linf",), access="scores", cost=lambda: (1, 0))
def poison(model, x, y, threat, draws):
    "Kills whoever runs it."
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_every_task_is_in_one_job_and_jobs_last_half_an_hour_at_most() -> None:
    """10,000 tasks of 10 s: jobs of 180 of them, in arrays of at most 1,000, whose limit holds three times that."""
    arrays = packed([10.0] * 10_000, 4, OWN)
    assert sorted(i for array in arrays for job in array.jobs for i in job) == list(range(10_000))
    assert {len(job) for array in arrays for job in array.jobs} == {180, 10_000 % 180}
    assert max(array.minutes for array in arrays) == 160 and all(len(array.jobs) <= 1000 for array in arrays)


def test_long_and_unknown_tasks_have_a_job_of_their_own_and_tiny_ones_share() -> None:
    """A day asks for three; what says nothing counts as ten minutes; half a thousand tiny ones are one job."""
    arrays = packed([86_400.0, math.inf, math.inf], 2, OWN)
    assert [len(array.jobs) for array in arrays] == [1, 2] or [len(a.jobs) for a in arrays] == [1, 1]
    assert arrays[0].minutes >= 3 * 1440 and arrays[-1].minutes >= 30
    tiny = packed([0.001] * 1200, 8, OWN)
    assert [len(job) for array in tiny for job in array.jobs] == [MOST, MOST, 200] and tiny[0].minutes == LEAST
    assert packed([86_400.0], 2, OWN | {"time": 600})[0].minutes == 600
    assert packed([1.0], 1, OWN, limit=7200.0)[0].minutes >= 125
    assert len(packed([60.0] * 100, 2, OWN | {"array": 7})[0].jobs) == 7
    assert packed([], 2, OWN) == []


def test_settings_are_read_and_misspelt_ones_named() -> None:
    """Words with values; the nearest of a wrong one, and what is expected, are said."""
    assert slurm_settings("partition=gpu, gpus=2,nodelist=n[1,2],workers=2") == (
        {"partition": "gpu", "gpus": "2", "nodelist": "n[1,2]"}, OWN | {"workers": 2},
    )  # fmt: skip
    assert ray_settings("10.0.0.1:6379")["address"] == "10.0.0.1:6379"
    assert ray_settings("gpus=0.25")["gpus"] == "0.25"
    for text, said in {
        "acount=x": "mean 'account'", "gpus": "expected gpus=VALUE", "gpus=many": "a whole number from 1",
        "time=0": "a whole number from 1", "mem=1,mem=2": "said twice",
    }.items():  # fmt: skip
        with pytest.raises(UsageError, match=said):
            slurm_settings(text)
    with pytest.raises(UsageError, match="expected a number"):
        ray_settings("gpus=half")


def test_limits_are_an_hour_or_twenty_times_the_passes(place: Place) -> None:
    """Of known speeds: ten passes of a minute each are limited to 200 minutes; what a person says comes first."""
    exam = resolve(Request(defenses=("quick",), net="tiny", columns=("slow", "leaves-box"), n=64), place)
    net, slow = next(iter(exam.nets)), next(key for key in exam.attacks if key.startswith("slow"))
    costless = next(key for key in exam.attacks if key.startswith("leaves-box"))

    def question(attack: str) -> Question:
        (cell,) = exam.cells(net, "0" * 64, attack.partition("@")[0], "clean")
        return Question(cell, tuple(range(10)), "digits", exam.dataset.shape)

    times = Times(exam, place, speeds={net: Speed(0.0, 60.0)})
    assert times.expected(question(slow)) == 600.0 and times.limit(question(slow)) == 12_000.0
    assert times.passed(question(slow), 11_999.0) == 0.0 and times.passed(question(slow), 12_001.0) == 12_000.0
    assert math.isinf(times.limit(question(costless)))
    assert Times(exam, place, speeds={net: Speed(0.0, 1e-6)}).limit(question(slow)) == HOUR
    assert Times(exam, place, 5.0).passed(question(costless), 6.0) == 5.0


def test_cells_are_split_only_where_workers_would_be_idle() -> None:
    """A thousand images a record, in parts of 64 or more for many workers; the parts are multiples of a tile."""
    assert [range_size(1, 1000, width) for width in (1, 2, 4, 1000)] == [1000, 512, 256, 64]
    assert range_size(10**9, 1000) == 64


@pytest.mark.slow
def test_poison_and_a_hanging_attack_end_in_exit_4_and_the_rest_is_recorded(bench: Bench, tmp_path: Path) -> None:
    """bench run names both, with their logs; the other column is on the board, and nothing of them in the ledger."""
    (tmp_path / "poison.py").write_text(POISON)
    words = ("run", "--defense", "quick", "--net", "tiny", "--plugin", str(TINY), "poison.py", "-n", "60", "--columns")
    assert bench(*words, "clean", "--executor", "inline").returncode == 0
    there = ("--executor", "process", "--workers", "2", "--task-limit", "10", "--json")
    ended = bench(*words, "clean, slow, poison, slow(pause=999.0)", *there)
    assert ended.returncode == 4, ended.stderr
    failures = json.loads(ended.stdout)["failures"]
    assert len(failures) == 2 and any("SIGKILL" in f for f in failures) and any("its limit" in f for f in failures)
    logs = list((tmp_path / "results" / "store" / "logs").glob("*.log"))
    assert len(logs) == 2 and all(any(log.name in f for f in failures) for log in logs)
    ledger = Ledger(tmp_path / "results" / "ledger")
    attacks = [document.attack for document in ledger.all() if isinstance(document, Record)]
    assert sorted(attack.partition("@")[0] for attack in attacks) == ["clean", "slow"]


def test_plan_says_what_slurm_would_get_and_submits_nothing(bench: Bench, tmp_path: Path) -> None:
    """Arrays with jobs, tasks and minutes; nothing is written; a misspelt word is a usage error."""
    words = ("plan", "--defense", "quick", "--net", "tiny", "--plugin", str(TINY), "--columns", "clean, slow")
    words = (*words, "-n", "100", "--executor", "slurm", "--json", "--slurm")
    ended = bench(*words, "partition=gpu")
    arrays = json.loads(ended.stdout)["arrays"]
    assert [(a["of"], a["jobs"], a["tasks"], a["minutes"]) for a in arrays] == [
        ("trainings", 1, 1, LEAST), ("attacks", 1, 2, LEAST),
    ]  # fmt: skip
    assert "nothing was submitted" in ended.stderr and not list(tmp_path.glob("results"))
    ended = bench(*words, "partitoin=gpu")
    assert ended.returncode == 2 and "'partition'" in ended.stderr
