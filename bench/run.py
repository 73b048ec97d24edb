"""run(): what is missing for an exam is done.

What the ledger holds is not done again, so the same command continues after any interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from bench.answer import Question
from bench.checked import Check, known
from bench.errors import IncompleteError, RampartError
from bench.exam import CLEAN
from bench.executors import Executor, Inline
from bench.obtain import existing, training_threads
from bench.outcomes import next_question
from bench.place import build
from bench.recipe import Recipe
from bench.records import CheckRecord, Document, Record, TrainingRecord
from bench.request import passes

if TYPE_CHECKING:
    from bench.exam import Cell, Shape
    from bench.place import Place
    from bench.request import Exam

Report = Callable[[str], None]


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


def run(exam: Exam, place: Place, executor: Executor, *, report: Report) -> Summary:
    """Do what is missing.  What fails is reported and the rest goes on; the errors are in the summary."""
    summary = Summary()
    place.ledger.tidy()
    place.store.tidy()
    trained = train(exam, place, executor, summary, report)
    if trained:
        place.ledger.add_cards(exam.dataset, exam.columns, exam.threat, exam.n)
    models = [(record, record.weights[which]) for record in trained for which in exam.weights]
    _check(exam, place, executor, models, report)
    failed: set[str] = set()
    before: list[Question] = []
    patient, answered = False, 0
    while questions := list(_missing(exam, place, models, failed, executor.width)):
        if questions == before and (patient or answered):
            raise IncompleteError(
                f"{len(questions)} questions stay open after they were answered; is the ledger writable?"
            )
        # What another process answers at this time is passed over, and waited for only when nothing else is left.
        patient = before != [] and not answered and not patient
        if patient:
            report("another process answers what is left; waiting for it")
        before, answered = questions, 0
        for question, result in executor(place, [replace(q, patient=patient) for q in questions]):
            answered += result != []
            _book(exam, question, result, summary, failed, report)
    return summary


def train(exam: Exam, place: Place, executor: Executor, summary: Summary, report: Report) -> list[TrainingRecord]:
    """A record for each lesson; small nets, which train on one thread, are trained side by side."""
    missing = [lesson for lesson in exam.lessons if existing(place, lesson.training) is None]
    nets = {lesson.training.net for lesson in missing} if place.device.type == "cpu" else set()
    apart = nets and all(training_threads(build(exam.nets[key], exam.dataset.shape)) == 1 for key in nets)
    for _, result in (executor if apart else Inline())(place, missing):
        if isinstance(result, RampartError):
            summary.failures.append(result)
            report(f"failed: {result}")
        else:
            summary.trained += 1
    found = (existing(place, lesson.training) for lesson in exam.lessons)
    return [record for record in found if record is not None]


def _check(
    exam: Exam, place: Place, executor: Executor, models: Sequence[tuple[TrainingRecord, str]], report: Report
) -> None:
    """Look at each model before any attack, so that a broken one is named in seconds; what fails, fails again below."""
    test = exam.dataset.test.hash
    wanted = dict.fromkeys((record.net, weights) for record, weights in models)
    checks = [
        Check(net, weights, exam.dataset_recipe.written)
        for net, weights in wanted if known(place, net, weights, test) is None
    ]  # fmt: skip
    for check, result in executor(place, checks):
        for found in result if isinstance(result, list) else ():
            if isinstance(found, CheckRecord):
                for doubt in found.doubts:
                    report(f"doubt: {check.weights[:8]}: {doubt.text}")


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
    exam: Exam, place: Place, models: Sequence[tuple[TrainingRecord, str]], failed: set[str], width: int
) -> Iterator[Question]:
    """The questions that can be asked now; some columns wait for the answers to others."""
    seen: set[tuple[str, int]] = set()
    wanted: dict[tuple[str, ...], list[tuple[Cell, frozenset[int]]]] = {}
    for record, weights in models:
        for name, condition in exam.questions:
            column, clean = exam.columns[name], exam.clean(place, record.net, weights, condition)
            if column.strict and not clean.asked.all():
                continue
            cells = exam.cells(record.net, weights, name, condition)
            following = next_question(column, clean, [exam.outcome(place, cell) for cell in cells])
            if following is None or cells[following[0]].key in failed:
                continue
            cell = cells[following[0]]
            ids = frozenset(i for i in np.flatnonzero(following[1]).tolist() if (cell.key, i) not in seen)
            seen |= {(cell.key, i) for i in ids}
            wanted.setdefault(exam.run_of(cell), []).append((cell, ids))
    for alike in wanted.values():
        for (cell, *others), images in _shared(exam, alike):
            size = _range(exam.attacks[cell.attack], exam.dataset.shape, len(images), width)
            for start in range(0, len(images), size):
                asked = tuple(images[start : start + size])
                yield Question(cell, asked, exam.dataset_recipe.written, exam.dataset.shape, tuple(others))


def _shared(exam: Exam, alike: Sequence[tuple[Cell, frozenset[int]]]) -> Iterator[tuple[tuple[Cell, ...], list[int]]]:
    """Cells that are answered together, the longest run first, and their images; what is not common comes apart."""
    by_cell: dict[Cell, frozenset[int]] = {}
    for cell, ids in alike:
        by_cell[cell] = by_cell.get(cell, frozenset()) | ids

    common = frozenset.intersection(*by_cell.values())
    if len(by_cell) > 1 and common:
        yield tuple(sorted(by_cell, key=exam.length, reverse=True)), sorted(common)
        by_cell = {cell: ids - common for cell, ids in by_cell.items()}
    for cell, ids in by_cell.items():
        if ids:
            yield (cell,), sorted(ids)


def _range(attack: Recipe, shape: Shape, images: int, width: int) -> int:
    """Images a record: about a minute's work or a thousand, so that a crash costs little, and no worker is idle."""
    size = max(64, min(1000, 400_000 // (sum(passes(attack, shape)) + 1)))
    return max(1, min(size, -(-images // (64 * width)) * 64)) if width > 1 else size
