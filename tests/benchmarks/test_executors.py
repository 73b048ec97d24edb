"""How workers scale, what scheduling costs a cell, and how long a very large plan takes; figures are in extra_info."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import pytest

from bench.answer import Question
from bench.executors import Moment
from bench.executors_process import Process
from bench.request import Request, resolve
from bench.run import run
from tests.bench.tasks import Job

WAIT = 0.5  # seconds of a cell that waits
EACH = 12  # cells for each worker


@dataclass(frozen=True)
class Nothing:
    """A cell that is answered at once."""

    number: int

    @property
    def name(self):
        return f"nothing-{self.number}"

    def do(self, place):
        return []


def test_workers_scale_on_cells_that_wait(benchmark, place):
    """2 and 4 workers answer cells that wait at 90 % or more of 2 and 4 times the rate of one."""
    rates = {}

    def measure():
        for workers in (1, 2, 4):
            executor = Process(workers)
            list(executor(place, [Job(1000 + n, pause=1.0) for n in range(workers)]))  # all have started
            began = time.perf_counter()
            list(executor(place, [Job(n, pause=WAIT) for n in range(workers * EACH)]))
            rates[workers] = workers * EACH / (time.perf_counter() - began)
            executor.close()

    benchmark.pedantic(measure, rounds=1)
    benchmark.extra_info["cells_a_second"] = {k: round(v, 2) for k, v in rates.items()}
    benchmark.extra_info["linear"] = {k: round(rates[k] / (k * rates[1]), 3) for k in (2, 4)}
    assert all(rates[workers] >= 0.9 * workers * rates[1] for workers in (2, 4))


def test_ten_thousand_tiny_cells_cost_little_each(benchmark, place):
    """Handing out and taking back a cell costs at most 5 ms, as a worker waits for it."""
    executor = Process(2)
    list(executor(place, [Job(n, pause=1.0) for n in range(2)]))
    spent = {}

    def measure():
        began, cpu = time.perf_counter(), time.process_time()
        assert sum(result == [] for _, result in executor(place, [Nothing(n) for n in range(10_000)])) == 10_000
        spent.update(wall=time.perf_counter() - began, cpu=time.process_time() - cpu)

    benchmark.pedantic(measure, rounds=1)
    executor.close()
    benchmark.extra_info["ms_a_cell"] = {k: round(v / 10, 3) for k, v in spent.items()}
    assert spent["wall"] / 10_000 <= 0.005


def test_real_tiny_cells_are_handed_out_as_fast(benchmark, place):
    """300 cells of a tiny net through a whole run: what a worker waits between two of them, planning too."""
    moments: list[Moment] = []
    columns = ("clean", *(f"slow(pause={1e-6 * n})" for n in range(1, 100)))
    request = Request(defenses=("quick(epochs=1)",), net="tiny", columns=columns, n=20, seeds=(0, 1, 2))
    exam = resolve(request, place)
    run(replace(exam, questions=exam.questions[:1]), place, Process(2), report=lambda _line: None)  # trains, checks
    executor = Process(2, tell=moments.append)
    list(executor(place, [Job(n, pause=1.0) for n in range(2)]))
    spent = {}

    def measure():
        began = time.perf_counter()
        run(exam, place, executor, report=lambda _line: None)
        spent["wall"] = time.perf_counter() - began

    benchmark.pedantic(measure, rounds=1)
    cells = [m for m in moments if m.what == "ended" and isinstance(m.task, Question)]
    assert len(cells) >= 100
    idle = 2 * spent["wall"] - sum(m.seconds for m in cells)
    benchmark.extra_info["cells"] = len(cells)
    benchmark.extra_info["ms_a_cell"] = round(1000 * idle / len(cells), 3)
    benchmark.extra_info["own_ms_a_cell"] = round(1000 * sum(m.seconds for m in cells) / len(cells), 3)


@pytest.mark.parametrize("trained", ["untrained", "trained"])
def test_half_a_million_cells_are_planned_in_seconds(benchmark, trained):
    """275 models x 20 columns x 91 conditions: at most 20 s of CPU and 2 GiB, with all that is imported."""
    found = {}

    def measure():
        words = [sys.executable, "-m", "tests.benchmarks.big_plan", "55", "5", trained]
        found.update(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))

    benchmark.pedantic(measure, rounds=1)
    benchmark.extra_info.update(found)
    assert found["cells"] >= 500_000 and found["cpu_seconds"] <= 20 and found["peak_mib"] <= 2048
