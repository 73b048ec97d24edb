"""What a run would do: passes and time of what is missing.  Writes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from bench.exam import CLEAN
from bench.obtain import existing
from bench.outcomes import still_open
from bench.place import build
from bench.recipe import Recipe
from bench.request import passes
from bench.victim import Victim, be_exact, freeze, tile_size

if TYPE_CHECKING:
    from bench.exam import Cell
    from bench.obtain import Lesson
    from bench.outcomes import Mask
    from bench.place import Place
    from bench.request import Exam


class Speed(NamedTuple):
    """Seconds an image of a forward, and of a forward with its gradient."""

    forward: float
    gradient: float


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a plan: a training, or a cell of it."""

    what: str
    done: int
    missing: int  # epochs or images; for images an upper bound, since fallen ones are not asked again
    forwards: int
    backwards: int
    seconds: float
    column: str = ""  # empty of a training

    def of(self, label: str) -> Line:
        """The same for a model of this label."""
        return Line(
            label + self.what, self.done, self.missing, self.forwards, self.backwards, self.seconds, self.column
        )


def is_small(exam: Exam, place: Place) -> bool:
    """At most one training and about a minute of attacks: not worth starting other processes for."""
    trainings = sum(existing(place, lesson.training) is None for lesson in exam.lessons)
    each = (exam.attacks[key] for name, _ in exam.questions for key in exam.columns[name].attacks)
    count = sum(sum(passes(attack, exam.dataset.shape)) for attack in each)
    return trainings <= 1 and count * exam.n * len(exam.lessons) * len(exam.weights) < 2_000_000


def measure(exam: Exam, place: Place) -> dict[str, Speed]:
    """How fast each net of an exam is here, on one tile of it."""
    return {key: measure_net(net, exam, place) for key, net in exam.nets.items()}


def plan(exam: Exam, place: Place, speeds: Mapping[str, Speed] | None = None) -> list[Line]:
    """What a run would do, with passes and seconds at the speeds given or measured; writes nothing.

    What the ledger does not know of a model under a condition is planned once for a net, and copied: a plan may have
    very many lines.
    """
    lines = []
    speeds = speeds or measure(exam, place)
    known = place.ledger.keys()
    untouched: dict[tuple[str, str], list[Line]] = {}
    for lesson in exam.lessons:
        net = lesson.training.net
        speed = speeds[net]
        record = existing(place, lesson.training)
        lines.append(training_line(lesson, exam, record is not None, speed))
        for which in exam.weights:
            label = f"{lesson.label} seed {lesson.training.seed} {which}: "
            weights = "" if record is None else record.weights[which]
            for condition, names in exam.by_condition.items():
                cells = (
                    [(name, exam.cells(net, weights, name, condition)) for name in names] if weights and known else ()
                )
                if any(cell.key in known for _, several in cells for cell in several):
                    lines += _attack_lines(exam, place, label, cells, speed)
                    continue
                if (net, condition) not in untouched:
                    every = [(name, exam.cells(net, "", name, condition)) for name in names]
                    untouched[net, condition] = list(_attack_lines(exam, place, "", every, speed))
                lines += [line.of(label) for line in untouched[net, condition]]
    return lines


def costly(lines: Iterable[Line], seconds: float) -> list[Line]:
    """The lines that take longer than so many seconds on one worker."""
    return [line for line in lines if line.seconds > seconds]


def _attack_lines(
    exam: Exam, place: Place, label: str, cells: Sequence[tuple[str, Sequence[Cell]]], speed: Speed
) -> Iterator[Line]:  # fmt: skip
    """A line for each attack of each column, of one model under one condition.

    What several columns share is counted once, for the first of them; what a longer run of its kin answers, not at all.
    """
    planned: dict[str, Mask] = {}
    longest: dict[tuple[str, ...], Cell] = {}
    for cell in (cell for _, several in cells for cell in several):
        run = exam.run_of(cell)
        if run not in longest or exam.length(cell) > exam.length(longest[run]):
            longest[run] = cell
    runs = {cell.key for cell in longest.values()}
    for name, several in cells:
        column, condition = exam.columns[name], several[0].condition
        clean = exam.clean(place, several[0].net, several[0].weights, condition)
        outcomes = [exam.outcome(place, cell) for cell in several]
        open_ = still_open(column, clean, outcomes)
        for cell, outcome in zip(several, outcomes, strict=True):
            before = planned.setdefault(cell.key, outcome.asked)
            missing = open_ & ~before
            planned[cell.key] = before | missing
            attack, count = exam.attacks[cell.attack], int(missing.sum())
            forwards, backwards = exam.passes_of(cell.attack) if cell.key in runs else (1, 0)
            under = "" if condition == CLEAN else f" under {condition}"
            member = "" if len(several) == 1 else f", {attack}"
            seconds = count * (backwards * speed.gradient + max(0, forwards - backwards) * speed.forward)
            yield Line(
                f"{label}{name}{member}{under}", int(outcome.asked.sum()), count,
                forwards * count, backwards * count, seconds, name,
            )  # fmt: skip


def training_line(lesson: Lesson, exam: Exam, done: bool, speed: Speed) -> Line:
    """Passes of a training, from its settings: epochs x images x replays x (attack steps and two more)."""
    settings = exam.defenses[lesson.training.defense].settings
    epochs, steps, replays = settings.get("epochs"), settings.get("steps", 0), settings.get("replays", 1)
    what = f"train {lesson.label} on {exam.nets[lesson.training.net]}, seed {lesson.training.seed}"
    if not isinstance(epochs, int) or not isinstance(steps, int) or not isinstance(replays, int):
        return Line(what, int(done), int(not done), 0, 0, 0.0)
    images = 0 if done else epochs * replays * len(exam.dataset.train)
    # A pass that also differentiates the weights costs about two.
    seconds = images * (steps * speed.gradient + 2 * (speed.gradient + (speed.forward if steps else 0)))
    return Line(what, epochs * done, epochs * (not done), images * (steps + 2), images * (steps + 1), seconds)


def measure_net(net: Recipe, exam: Exam, place: Place) -> Speed:
    """Seconds an image of a forward, and of a forward with its gradient, on an untrained net."""
    there = place.device.type != "cuda" or torch.cuda.is_available()
    device = place.device if there else torch.device("cpu")  # a cluster's cards may not be this machine's
    be_exact(1)
    module = freeze(build(net, exam.dataset.shape), device)
    tile = tile_size(device, module)
    victim = Victim(module, tile=tile, access="gradients", images=tile)
    x = torch.rand(tile, *exam.dataset.test.x.shape[1:], device=device)
    y = torch.zeros(tile, dtype=torch.long, device=device)

    def timed(once: Callable[[], object], times: int) -> float:
        started = time.perf_counter()
        for _ in range(times):
            once()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / times / tile

    def seconds(once: Callable[[], object]) -> float:
        first = timed(once, 1)
        return first if first * tile > 2 and device.type == "cpu" else timed(once, 3)  # nothing left to warm up

    return Speed(seconds(lambda: victim(x)), seconds(lambda: victim.gradient(x, y, lambda z, _y: z[:, 0])))
