"""What the options of run and its kin mean: the exam, the place, and where the work is done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.executors import Executor
    from bench.place import Place
    from bench.request import Exam


def resolved(options: dict[str, Any]) -> tuple[Exam, Place]:
    """The exam and the place that the options name."""
    from bench.place import Place, pick_batch, pick_device
    from bench.registry import split_list
    from bench.request import Request, resolve

    device = pick_device(options["device"])
    place = Place(
        Path(options["ledger"]), Path(options["store"]), Path(options["data"]),
        tuple(str(Path(f).resolve()) for f in options["plugin"]), device, options["batch"] or pick_batch(device),
        _folder_for_tensorboard(options["tensorboard"]),
    )  # fmt: skip
    request = Request(
        defenses=tuple(text for given in options["defenses"] for text in split_list(given)),
        net=options["net"], dataset=options["dataset"], threat=options["threat"], seeds=options["seeds"],
        suite=options["suite"], columns=tuple(split_list(options["columns"])),
        conditions=tuple(split_list(options["conditions"])), n=options["n"] or 0,
        weights=options["weights"], attack_seed=options["attack_seed"],
        precision=options["precision"],
    )  # fmt: skip
    return resolve(request, place), place


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
