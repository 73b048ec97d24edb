"""plan() and run(): what is missing for an exam, then do it.

What the ledger holds is not done again, so the same command continues after any interruption.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from bench.answer import Question
from bench.errors import IncompleteError, RampartError, UsageError
from bench.exam import CLEAN, Cell, Column, Condition, Dataset, Suite, Training, Which
from bench.executors import Executor, Inline
from bench.obtain import Lesson, existing, training_threads
from bench.outcomes import Outcome, next_question
from bench.place import build
from bench.recipe import Attack, DatasetLoader, Defense, Recipe
from bench.records import Document, Record, TrainingRecord
from bench.registry import Registry
from bench.threat import ThreatModel
from bench.victim import Victim, be_exact, freeze, tile_size

if TYPE_CHECKING:
    from bench.place import Place

Report = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What the command line asked for, in its own words; empty means the default."""

    defenses: tuple[str, ...]
    net: str = ""
    dataset: str = "digits"
    threat: str = ""
    seeds: tuple[int, ...] = (0,)
    suite: str = "quick"
    columns: tuple[str, ...] = ()
    n: int = 0
    weights: tuple[Which, ...] = ()
    attack_seed: int = 0


@dataclass(frozen=True, eq=False)
class Exam:
    """A request whose every name was found."""

    dataset: Dataset
    dataset_recipe: Recipe
    threat: ThreatModel
    net: Recipe
    lessons: tuple[Lesson, ...]
    defenses: dict[str, Recipe]  # by key
    columns: dict[str, Column]  # with their attacks' keys
    attacks: dict[str, Recipe]  # by key
    questions: tuple[tuple[str, str], ...]  # (column, condition), clean first
    weights: tuple[Which, ...]
    n: int
    attack_seed: int
    left_out: tuple[str, ...]  # columns of the suite that do not search the threat's norm


@dataclass(frozen=True)
class Line:
    """A line of a plan: a training, or a cell of it."""

    what: str
    done: int
    missing: int  # epochs or images; for images an upper bound, since fallen ones are not asked again
    forwards: int
    backwards: int
    seconds: float


@dataclass
class Summary:
    """What a run did."""

    trained: int = 0
    asked: int = 0
    records: list[Record] = field(default_factory=list)
    failures: list[RampartError] = field(default_factory=list)


def resolve(request: Request, place: Place) -> Exam:
    """Find everything that a request names, before any work; errors name the nearest."""
    registry = place.registry
    recipe = registry.parse("dataset", request.dataset)
    loader = recipe.plugin
    assert isinstance(loader, DatasetLoader)
    suite = _suite(request, registry)
    threat = ThreatModel.parse(suite.threat or request.threat or loader.threat)
    if suite.threat and request.threat and ThreatModel.parse(request.threat) != threat:
        raise UsageError(f"suite {suite.name} fixes the threat {threat}; --threat {request.threat} contradicts it")
    left_out: tuple[str, ...] = ()
    if not request.columns:
        suite, left_out = _fitting(suite, registry, threat)
    columns, attacks, questions = _columns(suite, registry, threat)
    net = registry.parse("net", request.net or loader.net)
    defenses = [_defense(text, registry, recipe.name, net) for text in request.defenses]
    dataset = place.dataset(recipe)
    if not defenses or not questions:
        raise UsageError(f"there is nothing to do: {'no --defense' if not defenses else 'no column'} is named")
    if request.n < 0 or request.n > len(dataset.test):
        raise UsageError(f"-n {request.n}: {dataset.name} has {len(dataset.test)} test images")
    lessons = dict.fromkeys(
        Lesson(
            Training(d.key, net.key, dataset.train.hash, dataset.val.hash, str(threat), seed),
            d.written, net.written, recipe.written, label,
        )
        for d, label in defenses
        for seed in (request.seeds if getattr(d.plugin, "trains", True) else (0,))
    )  # fmt: skip
    return Exam(
        dataset, recipe, threat, net, tuple(lessons), {d.key: d for d, _ in defenses}, columns, attacks, questions,
        suite.weights or request.weights or ("best",), request.n or len(dataset.test), request.attack_seed, left_out,
    )  # fmt: skip


def _suite(request: Request, registry: Registry) -> Suite:
    """The suite by name, or an ad-hoc one of the columns that were listed."""
    if request.columns:
        return Suite("ad hoc", ((request.columns, (CLEAN,)),))
    return registry.suite(request.suite)


def _fitting(suite: Suite, registry: Registry, threat: ThreatModel) -> tuple[Suite, tuple[str, ...]]:
    """A named suite without the columns whose attacks do not search the threat's norm, and what was left out."""

    def fits(name: str) -> bool:
        attacks = [registry.parse("attack", text).plugin for text in registry.column(name).attacks]
        return all(not a.norms or threat.norm in a.norms for a in attacks if isinstance(a, Attack))

    out = tuple(dict.fromkeys(name for names, _ in suite.parts for name in names if not fits(name)))
    parts = tuple((tuple(n for n in names if n not in out), conditions) for names, conditions in suite.parts)
    return replace(suite, parts=parts), out


def _columns(
    suite: Suite, registry: Registry, threat: ThreatModel
) -> tuple[dict[str, Column], dict[str, Recipe], tuple[tuple[str, str], ...]]:
    """The suite's columns with full attack keys, the attacks, and the questions; `clean` first where it is needed."""
    columns: dict[str, Column] = {}
    attacks: dict[str, Recipe] = {}
    questions: list[tuple[str, str]] = []
    for names, conditions in suite.parts:
        found = [registry.column(name) for name in names]
        if any(c.strict for c in found):
            found = [registry.column(CLEAN), *(c for c in found if c.name != CLEAN)]
        for column in found:
            recipes = [registry.parse("attack", text) for text in column.attacks]
            for recipe in recipes:
                _can(recipe, threat, column.name)
            attacks |= {r.key: r for r in recipes}
            columns[column.name] = Column(column.name, tuple(r.key for r in recipes), column.strict)
        questions += [(c.name, _condition(text, registry)) for text in conditions for c in found]
    return columns, attacks, tuple(dict.fromkeys(questions))


def _can(recipe: Recipe, threat: ThreatModel, column: str) -> None:
    plugin = recipe.plugin
    assert isinstance(plugin, Attack)
    if plugin.norms and threat.norm not in plugin.norms:
        raise UsageError(f"column {column}: {plugin.name} searches {', '.join(plugin.norms)}; the threat is {threat}")
    if plugin.goal != "in-ball":
        raise UsageError(
            f"column {column}: {plugin.name} is a minimum-norm attack, which this version cannot judge yet"
        )


def _condition(text: str, registry: Registry) -> str:
    """A condition with its corruption's full key."""
    condition = Condition.parse(text)
    if not condition.corruption:
        return CLEAN
    return str(Condition(registry.parse("corruption", condition.corruption).key, condition.severity))


def _defense(text: str, registry: Registry, dataset: str, net: Recipe) -> tuple[Recipe, str]:
    """A defense with what was written, then the preset for this data set and net, then its defaults; pinned."""
    recipe, label = registry.parse_defense(text, dataset, net.name)
    plugin = recipe.plugin
    assert isinstance(plugin, Defense)
    return (recipe if plugin.pin is None else recipe.with_settings(plugin.pin(dict(recipe.settings)))), label


def run(exam: Exam, place: Place, executor: Executor, *, report: Report) -> Summary:
    """Do what is missing.  What fails is reported and the rest goes on; the errors are in the summary."""
    summary = Summary()
    place.ledger.add_cards(exam.dataset, exam.columns)
    trained = _train(exam, place, executor, summary, report)
    models = [(record, record.weights[which]) for record in trained for which in exam.weights]
    failed: set[str] = set()
    before: list[Question] = []
    while questions := list(_missing(exam, place, models, failed, executor.width)):
        if questions == before:
            raise IncompleteError(
                f"{len(questions)} questions stay open after they were answered; is the ledger writable?"
            )
        before = questions
        for question, result in executor(place, questions):
            _book(exam, question, result, summary, failed, report)
    return summary


def _train(exam: Exam, place: Place, executor: Executor, summary: Summary, report: Report) -> list[TrainingRecord]:
    """A record for each lesson; small nets, which train on one thread, are trained side by side."""
    missing = [lesson for lesson in exam.lessons if existing(place, lesson.training) is None]
    apart = training_threads(build(exam.net, exam.dataset.shape)) == 1 and place.device.type == "cpu"
    for _, result in (executor if apart else Inline())(place, missing):
        if isinstance(result, RampartError):
            summary.failures.append(result)
            report(f"failed: {result}")
        else:
            summary.trained += 1
    found = (existing(place, lesson.training) for lesson in exam.lessons)
    return [record for record in found if record is not None]


def _book(
    exam: Exam, question: Question, result: Document | RampartError, summary: Summary, failed: set[str], report: Report
) -> None:
    name = str(exam.attacks[question.cell.attack])
    if isinstance(result, RampartError):
        if question.cell.key not in failed:
            summary.failures.append(result)
        failed.add(question.cell.key)
        report(f"failed: {result}")
        return
    assert isinstance(result, Record)
    summary.records.append(result)
    summary.asked += len(result.asked)
    rate = (result.cost.forwards + result.cost.backwards) / max(result.cost.seconds, 1e-9)
    report(
        f"{name} on {result.weights[:8]}{'' if result.condition == CLEAN else ' under ' + result.condition}: "
        f"{len(result.fell)} of {len(result.asked)} images fell, {result.cost.seconds:.1f} s, {rate:,.0f} passes/s"
    )


def _missing(
    exam: Exam, place: Place, models: Sequence[tuple[TrainingRecord, str]], failed: set[str], width: int
) -> Iterator[Question]:
    """The questions that can be asked now; some columns wait for the answers to others."""
    seen: set[tuple[str, int]] = set()
    for record, weights in models:
        for name, condition in exam.questions:
            cells = [_cell(exam, record.net, weights, key, condition) for key in exam.columns[name].attacks]
            clean = (
                _cell(exam, record.net, weights, exam.columns[CLEAN].attacks[0], condition)
                if CLEAN in exam.columns
                else None
            )
            outcome = Outcome.of(place.ledger, clean.key, exam.n) if clean else _nothing(exam.n)
            strict = exam.columns[name].strict
            if strict and name != CLEAN and not outcome.asked.all():
                continue
            outcomes = [Outcome.of(place.ledger, cell.key, exam.n) for cell in cells]
            following = next_question(strict and name != CLEAN, outcome, outcomes)
            if following is None or cells[following[0]].key in failed:
                continue
            cell = cells[following[0]]
            ids = [i for i in np.flatnonzero(following[1]).tolist() if (cell.key, i) not in seen]
            seen |= {(cell.key, i) for i in ids}
            size = _range(exam.attacks[cell.attack], len(ids), width)
            for start in range(0, len(ids), size):
                yield Question(cell, tuple(ids[start : start + size]), exam.dataset_recipe.written, exam.dataset.shape)


def _nothing(n: int) -> Outcome:
    return Outcome(np.zeros(n, bool), np.zeros(n, bool))


def _cell(exam: Exam, net: str, weights: str, attack: str, condition: str) -> Cell:
    plugin = exam.attacks[attack].plugin
    assert isinstance(plugin, Attack)
    threat = str(exam.threat) if plugin.norms else None
    return Cell(net, weights, exam.dataset.test.hash, condition, threat, attack, exam.attack_seed)


def _range(attack: Recipe, images: int, width: int) -> int:
    """Images a record: about a minute's work or a thousand, so that a crash costs little, and no worker is idle."""
    size = max(64, min(1000, 400_000 // (sum(_passes(attack)) + 1)))
    return max(1, min(size, -(-images // (64 * width)) * 64)) if width > 1 else size


def is_small(exam: Exam, place: Place) -> bool:
    """At most one training and about a minute of attacks: not worth starting other processes for."""
    trainings = sum(existing(place, lesson.training) is None for lesson in exam.lessons)
    passes = sum(sum(_passes(exam.attacks[key])) for name, _ in exam.questions for key in exam.columns[name].attacks)
    return trainings <= 1 and passes * exam.n * len(exam.lessons) * len(exam.weights) < 2_000_000


def _passes(attack: Recipe) -> tuple[int, int]:
    """Forwards and backwards of an image that never falls, the judge's included."""
    plugin = attack.plugin
    assert isinstance(plugin, Attack)
    try:
        forwards, backwards = plugin.cost(**attack.settings) if plugin.cost else (0, 0)
        return int(forwards) + 1, int(backwards)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"attack {plugin.name}: its cost must take its settings and give (forwards, backwards): {error}"
        ) from error


def plan(exam: Exam, place: Place) -> list[Line]:
    """What a run would do, with passes and seconds measured on one tile of the net; writes nothing."""
    lines = []
    forward, gradient = _measure(exam.net, exam, place)
    for lesson in exam.lessons:
        record = existing(place, lesson.training)
        lines.append(_training_line(lesson, exam, record is not None, forward, gradient))
        for which in exam.weights:
            for name, condition in exam.questions:
                for key in exam.columns[name].attacks:
                    asked = fell = 0
                    if record is not None:
                        cell = _cell(exam, record.net, record.weights[which], key, condition)
                        outcome = Outcome.of(place.ledger, cell.key, exam.n)
                        asked, fell = int(outcome.asked.sum()), _lost(exam, place, record, which, condition, name)
                    missing = max(0, exam.n - asked - (0 if name == CLEAN else fell))
                    f, b = _passes(exam.attacks[key])
                    lines.append(
                        Line(
                            f"{lesson.label} seed {lesson.training.seed} {which}: {name}"
                            + ("" if condition == CLEAN else f" under {condition}"),
                            asked, missing, f * missing, b * missing,
                            missing * (b * gradient + max(0, f - b) * forward),
                        )
                    )  # fmt: skip
    return lines


def _lost(exam: Exam, place: Place, record: TrainingRecord, which: Which, condition: str, name: str) -> int:
    """Images that a strict column need not ask, since `clean` lost them."""
    if CLEAN not in exam.columns or not exam.columns[name].strict:
        return 0
    cell = _cell(exam, record.net, record.weights[which], exam.columns[CLEAN].attacks[0], condition)
    return int(Outcome.of(place.ledger, cell.key, exam.n).fell.sum())


def _training_line(lesson: Lesson, exam: Exam, done: bool, forward: float, gradient: float) -> Line:
    """Passes of a training, from its settings: epochs x images x (attack steps and two more)."""
    settings = exam.defenses[lesson.training.defense].settings
    epochs, steps = settings.get("epochs"), settings.get("steps", 0)
    what = f"train {lesson.label} on {exam.net}, seed {lesson.training.seed}"
    if not isinstance(epochs, int) or not isinstance(steps, int):
        return Line(what, int(done), int(not done), 0, 0, 0.0)
    images = 0 if done else epochs * len(exam.dataset.train)
    # A pass that also differentiates the weights costs about two.
    seconds = images * (steps * gradient + 2 * (gradient + (forward if steps else 0)))
    return Line(what, epochs * done, epochs * (not done), images * (steps + 2), images * (steps + 1), seconds)


def _measure(net: Recipe, exam: Exam, place: Place) -> tuple[float, float]:
    """Seconds an image of a forward, and of a forward with its gradient, on an untrained net."""
    be_exact(1)
    module = freeze(build(net, exam.dataset.shape), place.device)
    tile = tile_size(place.device, module)
    victim = Victim(module, tile=tile, access="gradients", images=tile)
    x = torch.rand(tile, *exam.dataset.test.x.shape[1:], device=place.device)
    y = torch.zeros(tile, dtype=torch.long, device=place.device)

    def seconds(once: Callable[[], object]) -> float:
        once()
        started = time.perf_counter()
        for _ in range(3):
            once()
        if place.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - started) / 3 / tile

    return seconds(lambda: victim(x)), seconds(lambda: victim.gradient(x, y, lambda z, _y: z[:, 0]))
