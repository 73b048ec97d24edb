"""What --slurm and --ray say, and how tasks are packed into jobs of a cluster."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.errors import UsageError, nearest

SLURM = {  # our word: what sbatch calls it, as submitit spells it
    "partition": "partition", "account": "account", "qos": "qos", "constraint": "constraint", "gres": "gres",
    "gpus": "gpus_per_node", "cpus": "cpus_per_task", "mem": "mem", "nodelist": "nodelist", "exclude": "exclude",
    "comment": "comment", "reservation": "reservation",
}  # fmt: skip
OWN = {"time": 0, "timeouts": 3, "array": 1000, "workers": 1}  # whole numbers with their defaults; time: minutes
RAY = {"address": "", "gpus": "0", "cpus": "1", "memory": "0"}

START = 300.0  # seconds that a job has for starting Python and loading weights and data
SLACK = 3.0  # times what its passes take here: another machine may be slower; what runs out is queued again
SHORT, LONG = 120.0, 1800.0  # seconds of work that a job has, at least where there is so much, and at most
UNKNOWN = 600.0  # seconds that a task counts as of which nothing is known
LEAST = 20  # minutes that a job asks for: of fewer, submitit takes every preemption for the end of its time
MOST = 500  # tasks of a job


@dataclass(frozen=True)
class Array:
    """Jobs that are submitted together: the places of each one's tasks, and the minutes that each may take."""

    minutes: int
    jobs: tuple[tuple[int, ...], ...]


def slurm_settings(text: str) -> tuple[dict[str, str], dict[str, int]]:
    """`partition=gpu,account=x,gpus=1` to what sbatch is told, and to our own words' numbers."""
    given = _pairs("--slurm", text, [*SLURM, *OWN])
    numbers = {key: _number("--slurm", key, given.pop(key)) if key in given else OWN[key] for key in OWN}
    for key in ("gpus", "cpus"):
        if key in given:
            _number("--slurm", key, given[key])
    return given, numbers


def ray_settings(text: str) -> dict[str, str]:
    """`address=10.0.0.1:6379,gpus=0.5`, or an address alone."""
    given = {"address": text} if text and "=" not in text else _pairs("--ray", text, [*RAY])
    for key in ("gpus", "cpus", "memory"):
        try:
            float(given.get(key, "0"))
        except ValueError:
            raise UsageError(f"--ray: {key}={given[key]}: expected a number (gpus=0.5)") from None
    return RAY | given


def _pairs(option: str, text: str, known: Sequence[str]) -> dict[str, str]:
    """Words with values."""
    from bench.registry import split_list

    found: dict[str, str] = {}
    for part in split_list(text):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key not in known:
            raise UsageError(f"{option}: there is no setting {key!r}{nearest(key, known)}")
        if not equals or not value:
            raise UsageError(f"{option}: {part!r}: expected {key}=VALUE")
        if key in found:
            raise UsageError(f"{option}: {key} is said twice")
        found[key] = value
    return found


def _number(option: str, key: str, value: str) -> int:
    if not value.isdigit() or int(value) < 1:
        raise UsageError(f"{option}: {key}={value}: expected a whole number from 1")
    return int(value)


def packed(seconds: Sequence[float], width: int, own: Mapping[str, int], limit: float = 0.0) -> list[Array]:
    """How tasks that take so long are submitted: short ones share a job, and jobs of like length an array.

    limit: seconds that each may take, where a person said so.
    """
    jobs: dict[int, list[tuple[int, ...]]] = {}
    for job in _jobs([UNKNOWN if math.isinf(s) else s for s in seconds], width):
        each = [limit or SLACK * (UNKNOWN if math.isinf(seconds[i]) else seconds[i]) for i in job]
        needed = math.ceil((START + sum(each) / own["workers"]) / 60)
        minutes = LEAST
        while minutes < needed:
            minutes *= 2
        jobs.setdefault(min(minutes, own["time"] or minutes), []).append(job)
    return [
        Array(minutes, tuple(several[start : start + own["array"]]))
        for minutes, several in sorted(jobs.items(), reverse=True)
        for start in range(0, len(several), own["array"])
    ]


def _jobs(seconds: Sequence[float], width: int) -> Iterator[tuple[int, ...]]:
    """Tasks in order, as many a job as are worth starting Python for, and no fewer jobs than workers."""
    enough = min(LONG, max(SHORT, sum(seconds) / (4 * width)))
    job: list[int] = []
    work = 0.0
    for place, each in enumerate(seconds):
        if job and (len(job) >= MOST or work + each > enough):
            yield tuple(job)
            job, work = [], 0.0
        job.append(place)
        work += each
    if job:
        yield tuple(job)
