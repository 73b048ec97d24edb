"""What the options of run and its kin mean: the exam, the place, and where the work is done."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.console import prints_aside
from bench.errors import UsageError, nearest

if TYPE_CHECKING:
    from bench.events import EventLog
    from bench.executors import Executor
    from bench.fence import Fence
    from bench.place import Place
    from bench.plan import Line
    from bench.request import Exam


def place_of(options: Mapping[str, Any], tensorboard: str = "") -> Place:
    """The place that the options name; without a device the processor, without a batch what fits there."""
    from bench.place import Place, pick_batch, pick_device

    fence = fence_of(options)
    device = "cpu" if fence and options["device"] == "auto" else pick_device(options.get("device", "cpu"))
    if fence and device != "cpu":
        raise UsageError(f"--sandbox keeps models on the processor; --device {device} contradicts it")
    return Place(
        Path(options.get("ledger", "")), Path(options.get("store", "")), Path(options["data"]),
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
        raise UsageError(f"--sandbox={mode}: expected one of {', '.join(MODES)}{nearest(mode, MODES)}")
    hidden = tuple(str(Path(options[name]).absolute()) for name in ("ledger", "store", "data"))
    fence = Fence(mode, int(options["sandbox_memory"] * 2**30), options["sandbox_seconds"], hidden)
    fence.check()
    return fence


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


def executor_of(name: str, workers: int | None, exam: Exam, place: Place) -> Executor:
    """The executor by name; auto takes processes for several trainings, or about a minute of attacks or more."""
    from bench.executors import Inline, Process
    from bench.place import cores
    from bench.plan import is_small

    small = name == "auto" and workers is None and is_small(exam, place)
    return Inline() if name == "inline" or small else Process(workers or cores())
