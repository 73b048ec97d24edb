"""A real Ray cluster of two nodes gives what one process gives; workers that are lost are tried again."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.clusters import RAY, ray_settings
from bench.errors import IncompleteError, UsageError, WorkerError
from bench.executors import Inline
from bench.executors_ray import Ray
from bench.place import Place
from bench.request import Request, resolve
from bench.run import run
from tests.bench.tasks import Job
from tests.bench.verdicts import elsewhere, verdict_hash
from tests.conftest import TINY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray: not installed (the extra ray)"),
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]
ASK = Request(defenses=("quick",), net="tiny", columns=("clean", "slow", "walks", "pgd(steps=3)"), n=300, seeds=(0, 1))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster of two nodes with a core each, on this machine's loopback."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # else 127.0.0.1 is taken for the machine's other address
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "node_ip_address": "127.0.0.1"})
    cluster.add_node(num_cpus=1, object_store_memory=80_000_000, node_ip_address="127.0.0.1")
    yield cluster.address
    cluster.shutdown()


def over(_task: object, seconds: float) -> float:
    return 4.0 if seconds > 4.0 else 0.0


def test_ray_gives_the_same_verdicts_as_one_process(place: Place, address: str) -> None:
    """Two nodes, two trainings and eight columns on digits: the same verdict on every image, each asked once."""
    there = elsewhere(place, "there")
    plain = run(resolve(ASK, place), place, Inline(), report=lambda _line: None)
    summary = run(resolve(ASK, there), there, Ray(2, RAY | {"address": address}), report=lambda _line: None)
    assert summary.failures == [] and summary.trained == plain.trained == 2
    assert summary.asked == plain.asked > 1000
    assert verdict_hash(there) == verdict_hash(place)
    assert not list((there.store_root / "logs").glob("*"))


def test_what_is_lost_twice_has_failed_and_the_rest_goes_on(place: Place, address: str) -> None:
    """Killed, crashed, broken and hanging tasks are tried twice and keep their log; the others are done."""
    words = ["", "killed", "crashes", "raises", "explains", "killed once", "hangs", "", ""]
    executor = Ray(2, RAY | {"address": address}, over)
    found = {task.number: result for task, result in executor(place, [Job(n, w) for n, w in enumerate(words)])}
    executor.close()
    assert [n for n, result in found.items() if result == []] and all(found[n] == [] for n in (0, 5, 7, 8))
    for number, reason in {1: "was lost", 2: "was lost", 3: "ZeroDivisionError", 6: "longer than 4 s"}.items():
        assert isinstance(found[number], WorkerError) and reason in str(found[number])
        assert (place.store_root / "logs" / f"job-{number}.log").exists()
    assert "about to crash" in (place.store_root / "logs" / "job-2.log").read_text()
    assert isinstance(found[4], UsageError)
    assert not list((place.store_root / "logs").glob("*.running"))


def test_the_command_line_joins_a_cluster(tmp_path: Path, address: str) -> None:
    """bench run --executor ray --ray ADDRESS from a folder: records lie in its own ledger, and exit is 0."""
    words = ["--defense", "quick", "--net", "tiny", "--plugin", str(TINY), "-n", "100", "--columns", "clean,slow"]
    ended = subprocess.run(
        [sys.executable, "-m", "bench", "run", *words, "--executor", "ray", "--ray", address, "--json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert len(list((tmp_path / "results" / "ledger").rglob("*.json"))) >= 5


def test_what_cannot_be_is_said(place: Place, address: str) -> None:
    """More cores than the cluster has, no cluster, and a misspelt setting."""
    executor = Ray(2, RAY | {"address": address, "gpus": "0.5"})
    with pytest.raises(UsageError, match=r"asks for 1 CPU, 0.5 GPU, and the whole cluster has 2 CPU, 0 GPU"):
        list(executor(place, [Job(0)]))
    with pytest.raises(IncompleteError, match=r"no Ray cluster answers at 127.0.0.1:1"):
        list(Ray(2, RAY | {"address": "127.0.0.1:1"})(place, [Job(0)]))
    with pytest.raises(UsageError, match="mean 'address'"):
        ray_settings("adress=x")
