"""What the options of run and its kin mean: the exam, the place, and where the work is done."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.console import prints_aside, say
from bench.errors import UsageError, nearest

if TYPE_CHECKING:
    from bench.events import EventLog
    from bench.executors import Executor
    from bench.fence import Fence
    from bench.place import Place
    from bench.plan import Line
    from bench.request import Exam


CLUSTERS = ("slurm", "ray")
SLURM_WIDTH = 32  # jobs of an array that run at once, where nobody says

RAY_WIDTH = 1000  # tasks at once, where nobody says and the cluster has room


def place_of(options: Mapping[str, Any], tensorboard: str = "") -> Place:
    """The place that the options name; without a device the processor, without a batch what fits there."""
    from bench.place import Place, pick_batch, pick_device

    fence = fence_of(options)
    elsewhere = options.get("executor") in CLUSTERS
    if fence and options["device"] == "auto":
        device = "cpu"
    else:
        device = _device_there(options) if elsewhere else pick_device(options.get("device", "cpu"))
    if fence and device != "cpu":
        raise UsageError(f"--sandbox keeps models on the processor; --device {device} contradicts it")
    at = Path.absolute if elsewhere else Path  # another machine has another working folder
    return Place(
        at(Path(options.get("ledger", ""))), at(Path(options.get("store", ""))), at(Path(options["data"])),
        tuple(str(Path(f).resolve()) for f in options["plugin"]), device,
        options.get("batch") or pick_batch(device), tensorboard, fence,
    )  # fmt: skip


def fence_of(options: Mapping[str, Any]) -> Fence | None:
    """How plugins are kept apart, if they are to be; UsageError where this machine cannot."""
    mode = options.get("sandbox")
    if not mode:
        return None
    from bench.fence import MODES, Fence

    if mode not in MODES:
        raise UsageError(f"--sandbox={mode}: there is no such sandbox{nearest(mode, MODES)}")
    hidden = tuple(str(Path(options[name]).absolute()) for name in ("ledger", "store", "data"))
    fence = Fence(mode, int(options["sandbox_memory"] * 2**30), options["sandbox_seconds"], hidden)
    fence.check()
    return fence


def _device_there(options: Mapping[str, Any]) -> str:
    """The device on the machines of a cluster, which may have cards where this one has none."""
    from bench.clusters import ray_settings, slurm_settings

    if options["device"] != "auto":
        return str(options["device"])
    if options["executor"] == "slurm":
        settings, _ = slurm_settings(options["slurm"])
        return "cuda" if "gpus" in settings or "gpu" in settings.get("gres", "") else "cpu"
    return "cuda" if float(ray_settings(options["ray"])["gpus"]) else "cpu"


def resolved(options: dict[str, Any]) -> tuple[Exam, Place]:
    """The exam and the place that the options name."""
    from bench.registry import split_list
    from bench.request import Request, resolve

    place = place_of(options, _folder_for_tensorboard(options["tensorboard"]))
    request = Request(
        defenses=tuple(text for given in options["defenses"] for text in split_list(given)),
        net=options["net"], dataset=options["dataset"], threat=options["threat"], seeds=options["seeds"],
        suite=options["suite"], columns=tuple(split_list(options["columns"])),
        conditions=tuple(split_list(options["conditions"])), n=options["n"] or 0,
        weights=options["weights"], attack_seed=options["attack_seed"],
        precision=options["precision"],
    )  # fmt: skip
    return resolve(request, place), place


def followed(options: Mapping[str, Any]) -> bool:
    """Whether torchrun started this process beside one that leads: then it has trained with that one, and is done."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return False
    from bench.place import pick_device
    from bench.together import follow, leads

    if leads(pick_device(options["device"])):
        return False
    with prints_aside():
        follow(place_of(options))
    return True


@contextmanager
def logged(file: str, planned: Sequence[Line], exam: Exam, place: Place) -> Iterator[EventLog]:
    """The event log of a run, which is told how that ends."""
    from bench.errors import RampartError
    from bench.events import new_log

    log = new_log(file, place.ledger_root)
    log.begin(
        sys.argv[1:], planned, ledger=str(place.ledger_root.absolute()), store=str(place.store_root.absolute()),
        trainings=len(exam.lessons), device=place.device_name,
    )  # fmt: skip
    try:
        yield log
    except BaseException as error:
        code = 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)
        log.end(code, said=str(error) if isinstance(error, RampartError) else repr(error))
        raise
    log.end(log.code)


def _folder_for_tensorboard(folder: str) -> str:
    """The folder, once it is known that it can be written."""
    from bench.history import summary_writer

    if folder:
        summary_writer()
    return str(Path(folder).resolve()) if folder else ""


def executor_of(options: Mapping[str, Any], exam: Exam, place: Place) -> Executor:
    """The executor by name; auto takes processes for several trainings, or about a minute of attacks or more."""
    from bench.executors import Inline
    from bench.executors_process import Process
    from bench.limits import Times
    from bench.place import cards, cores
    from bench.plan import is_small

    name, workers = options["executor"], options["workers"]
    if name == "inline" or (name == "auto" and workers is None and is_small(exam, place)):
        return Inline()
    asked = options.get("task_limit") or 0.0
    times = Times(exam, place, asked)
    if name == "slurm":
        from bench.clusters import slurm_settings
        from bench.executors_slurm import Slurm

        settings, own = slurm_settings(options["slurm"])
        return Slurm(workers or SLURM_WIDTH, times.expected, times.limit, settings, own, asked)
    if name == "ray":
        from bench.clusters import ray_settings
        from bench.executors_ray import Ray

        return Ray(workers or RAY_WIDTH, ray_settings(options["ray"]), times.passed)
    gpus = cards() if place.device_name == "cuda" else ()
    return Process(workers or len(gpus) or cores(), times.passed, gpus=gpus)


def lines_json(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """A plan as plain values."""
    names = ("what", "done", "missing", "forwards", "backwards", "seconds", "column")
    return [{name: getattr(line, name) for name in names} for line in lines]


def arrays_of(options: Mapping[str, Any], lines: Sequence[Line]) -> list[dict[str, Any]]:
    """What would be submitted to Slurm for a plan, at most; nothing for other executors."""
    if options["executor"] != "slurm":
        return []
    from math import inf

    from bench.clusters import packed, slurm_settings
    from bench.run import range_size

    _, own = slurm_settings(options["slurm"])
    width, asked = options["workers"] or SLURM_WIDTH, options.get("task_limit") or 0.0
    seconds: dict[str, list[float]] = {"trainings": [], "attacks": []}
    for line in (line for line in lines if line.missing):
        if not line.column:
            seconds["trainings"].append(line.seconds or inf)
        elif line.forwards > line.missing or line.backwards:  # a longer run of its kin answers the others
            ranges = -(-line.missing // range_size((line.forwards + line.backwards) // line.missing, line.missing))
            seconds["attacks"] += [line.seconds / ranges] * ranges
        else:
            seconds["attacks"].append(line.seconds)
    return [
        {"of": of, "jobs": len(array.jobs), "tasks": sum(map(len, array.jobs)), "minutes": array.minutes}
        for of, each in seconds.items() for array in packed(each, width, own, asked)
    ]  # fmt: skip


def say_arrays(arrays: Sequence[Mapping[str, Any]]) -> None:
    """What would be submitted, in words."""
    for a in arrays:
        say(
            f"slurm: an array of {a['jobs']:,} {'job' if a['jobs'] == 1 else 'jobs'} for {a['tasks']:,} {a['of']}, "
            f"each with a limit of {a['minutes']} minutes"
        )
    if arrays:
        say("slurm: nothing was submitted; attacks follow trainings, and each asks only what its forerunners left.")
