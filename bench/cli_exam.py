"""What the options of run and its kin mean: the exam, the place, and where the work is done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.executors import Executor
    from bench.place import Place
    from bench.request import Exam


CLUSTERS = ("slurm", "ray")
SLURM_WIDTH = 32  # jobs of an array that run at once, where nobody says


def place_of(options: Mapping[str, Any], tensorboard: str = "") -> Place:
    """The place that the options name; without a device the processor, without a batch what fits there."""
    from bench.place import Place, pick_batch, pick_device

    elsewhere = options.get("executor") in CLUSTERS
    device = _device_there(options) if elsewhere else pick_device(options.get("device", "cpu"))
    at = Path.absolute if elsewhere else Path  # another machine has another working folder
    return Place(
        at(Path(options.get("ledger", ""))), at(Path(options.get("store", ""))), at(Path(options["data"])),
        tuple(str(Path(f).resolve()) for f in options["plugin"]), device,
        options.get("batch") or pick_batch(device), tensorboard,
    )  # fmt: skip


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
    gpus = cards() if place.device_name == "cuda" else ()
    return Process(workers or len(gpus) or cores(), times.passed, gpus=gpus)
