"""run(): what is missing for an exam is done.

What the ledger holds is not done again, so the same command continues after any interruption.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.answer import Question
from bench.certify import certify, key_for
from bench.checked import Check, known
from bench.errors import IncompleteError, RampartError
from bench.events import EventLog
from bench.exam import CLEAN
from bench.executors import Executor, Inline
from bench.obtain import existing, training_threads
from bench.outcomes import Mask, Outcome, next_question
from bench.place import build
from bench.records import CheckRecord, Document, Record, TrainingRecord
from bench.together import announce, ranks

if TYPE_CHECKING:
    from bench.exam import Cell
    from bench.place import Place
    from bench.request import Exam

Report = Callable[[str], None]
Model = tuple[str, str]  # net and weights
_Piece = tuple[tuple["Cell", ...], list[int]]

WAVE = 2_000_000  # images that attacks are asked about, after which the next models wait for the next look


@dataclass
class Summary:
    """What a run did."""

    trained: int = 0
    asked: int = 0
    records: list[Record] = field(default_factory=list)
    failures: list[RampartError] = field(default_factory=list)

    def add(self, other: Summary) -> None:
        """Take in what a further run did."""
        self.trained += other.trained
        self.asked += other.asked
        self.records += other.records
        self.failures += other.failures


def run(
    exam: Exam, place: Place, executor: Executor, *, report: Report, log: EventLog | None = None,
    certificates: bool = False,
) -> Summary:  # fmt: skip
    """Do what is missing.  What fails is reported and the rest goes on; the errors are in the summary.

    certificates: prove first which images stand whatever the attack, and ask no attack about these.
    """
    log = log or EventLog(Path(os.devnull))
    summary = Summary()
    try:
        _run(exam, place, executor, summary, report, log, certificates=certificates)
    finally:
        executor.close()
    return summary


def _run(
    exam: Exam, place: Place, executor: Executor, summary: Summary, report: Report, log: EventLog, *, certificates: bool
) -> None:
    """Trainings, checks, then questions for as long as answers raise new ones."""
    place.ledger.tidy()
    place.store.tidy()
    trained = train(exam, place, executor, summary, report, log)
    if trained:
        place.ledger.add_cards(exam.dataset, exam.columns, exam.threat, exam.n)
    models = [(record, record.weights[which]) for record in trained for which in exam.weights]
    _check(exam, place, executor, models, report, log)
    if certificates:
        certify(exam, place, executor, [(record.net, weights) for record, weights in models], report)
    failed: set[str] = set()
    before: list[Question] = []
    patient, answered = False, 0
    finished: set[Model] = set()
    each = list(dict.fromkeys((record.net, weights) for record, weights in models))
    while questions := _missing(exam, place, each, failed, executor.width, finished):
        if questions == before and (patient or answered):
            raise IncompleteError(
                f"{len(questions)} questions stay open after they were answered; is the ledger writable?"
            )
        # What another process answers at this time is passed over, and waited for only when nothing else is left.
        patient = before != [] and not answered and not patient
        if patient:
            report("another process answers what is left; waiting for it")
        if not before:
            _begin(place, questions)
        before, answered = questions, 0
        log.plan(questions, executor.width)
        for question, result in executor(place, [replace(q, patient=patient) for q in questions]):
            answered += result != []
            log.recorded(question, result)
            _book(exam, question, result, summary, failed, report)


def train(
    exam: Exam, place: Place, executor: Executor, summary: Summary, report: Report, log: EventLog | None = None
) -> list[TrainingRecord]:
    """A record for each lesson; on a shared machine only small nets, on one thread each, are trained side by side."""
    log = log or EventLog(Path(os.devnull))
    missing = [lesson for lesson in exam.lessons if existing(place, lesson.training) is None]
    nets = {lesson.training.net for lesson in missing}  # one that cannot be built is named before any training
    small = {training_threads(build(exam.nets[key], exam.dataset.shape)) for key in nets} == {1}
    apart = ranks() == 1 and (not executor.shared or (small and place.device.type == "cpu"))
    where = executor if ranks() == 1 else Inline()  # processes that train together are not among the executor's
    _begin(place, missing)
    log.plan(missing, where.width if apart else 1)
    for lesson, result in where(place, missing, at_once=0 if apart else 1):
        log.recorded(lesson, result)
        if isinstance(result, RampartError):
            if ranks() > 1:  # those who train beside this process may wait for it where it is no more
                raise result
            summary.failures.append(result)
            report(f"failed: {result}")
        else:
            summary.trained += 1
    announce(None)
    found = (existing(place, lesson.training) for lesson in exam.lessons)
    return [record for record in found if record is not None]


def _check(
    exam: Exam, place: Place, executor: Executor, models: Sequence[tuple[TrainingRecord, str]], report: Report,
    log: EventLog,
) -> None:  # fmt: skip
    """Look at each model before any attack, so that a broken one is named in seconds; what fails, fails again below."""
    test = exam.dataset.test.hash
    wanted = dict.fromkeys((record.net, weights) for record, weights in models)
    checks = [
        Check(net, weights, exam.dataset_recipe.written)
        for net, weights in wanted if known(place, net, weights, test) is None
    ]  # fmt: skip
    _begin(place, checks)
    log.plan(checks, executor.width)
    for check, result in executor(place, checks):
        log.recorded(check, result)
        for found in result if isinstance(result, list) else ():
            if isinstance(found, CheckRecord):
                for doubt in found.doubts:
                    report(f"doubt: {check.weights[:8]}: {doubt.text}")


def _begin(place: Place, tasks: Sequence[object]) -> None:
    """Before there is work, see that its records can be kept: where all is done, a ledger may be read-only."""
    if tasks:
        place.ledger.check_writable()
        place.store.check_writable()


def _book(
    exam: Exam, question: Question, result: list[Document] | RampartError,
    summary: Summary, failed: set[str], report: Report,
) -> None:  # fmt: skip
    if isinstance(result, RampartError):
        if question.cell.key not in failed:
            summary.failures.append(result)
        failed |= {cell.key for cell in (question.cell, *question.also)}
        report(f"failed: {result}")
        return
    for record in result:
        assert isinstance(record, Record)
        summary.records.append(record)
        summary.asked += len(record.asked)
        report(_line(exam, record))


def _line(exam: Exam, result: Record) -> str:
    """What a record says, for a person who waits."""
    name = str(exam.attacks[result.attack])
    rate = (result.cost.forwards + result.cost.backwards) / max(result.cost.seconds, 1e-9)
    return (
        f"{name} on {result.weights[:8]}{'' if result.condition == CLEAN else ' under ' + result.condition}: "
        f"{len(result.fell)} of {len(result.asked)} images fell, {result.cost.seconds:.1f} s, {rate:,.0f} passes/s"
    )


def _missing(
    exam: Exam, place: Place, models: Sequence[Model], failed: set[str], width: int, finished: set[Model]
) -> list[Question]:
    """The questions that can be asked now, of so many models as are enough for a while.

    Some columns wait for the answers to others.  finished: models of which nothing is left; they are not looked at
    again.
    """
    known, pieces, images = place.ledger.keys(), list[_Piece](), 0
    for model in (model for model in models if model not in finished):
        found = list(_open(exam, place, model, failed, known))
        if not found:
            finished.add(model)
        pieces += found
        images += sum(len(asked) for _, asked in found)
        if images >= WAVE:
            break
    each = [sum(exam.passes_of(cells[0].attack)) for cells, _ in pieces]
    ranges = sum(-(-len(asked) // range_size(n, len(asked))) for n, (_, asked) in zip(each, pieces, strict=True))
    questions = []
    for n, ((cell, *others), asked) in zip(each, pieces, strict=True):
        size = range_size(n, len(asked), width if ranges < 4 * width else 1)
        for start in range(0, len(asked), size):
            ids = tuple(asked[start : start + size])
            questions.append(Question(cell, ids, exam.dataset_recipe.written, exam.dataset.shape, tuple(others)))
    return questions


def _open(exam: Exam, place: Place, model: Model, failed: set[str], known: Container[str]) -> Iterator[_Piece]:
    """What can be asked of a model now: cells that are answered together, and their images."""
    nothing = Outcome.nothing(exam.n)
    outcomes: dict[str, Outcome] = {}
    proven: dict[tuple[str, str | None], bool] = {}

    def certified(cell: Cell) -> bool:
        under = (cell.condition, cell.threat)
        if under not in proven:
            proven[under] = key_for(cell) in known
        return proven[under]

    def outcome(cell: Cell) -> Outcome:
        if cell.key not in known and not certified(cell):
            return nothing
        if cell.key not in outcomes:
            outcomes[cell.key] = exam.outcome(place, cell)
        return outcomes[cell.key]

    seen: dict[str, Mask] = {}
    wanted: dict[tuple[str, ...], dict[Cell, Mask]] = {}
    for condition, names in exam.by_condition.items():
        clean = outcome(exam.cells(*model, CLEAN, condition)[0]) if CLEAN in exam.columns else nothing
        for name in names:
            column = exam.columns[name]
            if column.strict and not clean.asked.all():
                continue
            cells = exam.cells(*model, name, condition)
            following = next_question(column, clean, [outcome(cell) for cell in cells])
            if following is None or cells[following[0]].key in failed:
                continue
            cell, mask = cells[following[0]], following[1]
            wanted.setdefault(exam.run_of(cell), {})[cell] = seen[cell.key] = seen.get(cell.key, nothing.asked) | mask
    for by_cell in wanted.values():
        yield from _shared(exam, by_cell)


def _shared(exam: Exam, by_cell: Mapping[Cell, Mask]) -> Iterator[_Piece]:
    """Cells that are answered together, the longest run first, and their images; what is not common comes apart."""
    common = np.logical_and.reduce(list(by_cell.values()))
    if len(by_cell) > 1 and common.any():
        yield tuple(sorted(by_cell, key=exam.length, reverse=True)), np.flatnonzero(common).tolist()
        by_cell = {cell: mask & ~common for cell, mask in by_cell.items()}
    for cell, mask in by_cell.items():
        if mask.any():
            yield (cell,), np.flatnonzero(mask).tolist()


def range_size(passes: int, images: int, width: int = 1) -> int:
    """Images a record: about a minute's work or a thousand, so that a crash costs little.

    width: workers that would be idle if the images were not split among them.
    """
    size = max(64, min(1000, 400_000 // (passes + 1)))
    return max(1, min(size, -(-images // (64 * width)) * 64)) if width > 1 else size
