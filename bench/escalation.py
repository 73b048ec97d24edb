"""Escalation: a model that raised a doubt is asked more, by the attacks that the doubt calls for.

Doubts come from the checks before any attack, from the thorough checks, which are made first, and from the attacks of
the exam set side by side.  A probe is an ordinary column: it stands on the board beside the others, and `worst`
includes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bench.checked import Thorough, known, known_thorough
from bench.contradiction import Asked, contradictions
from bench.doubts import REASONS
from bench.exam import CLEAN, Suite
from bench.obtain import existing
from bench.records import CheckRecord, Record, TrainingRecord
from bench.request import fitting

if TYPE_CHECKING:
    from bench.executors import Executor
    from bench.obtain import Lesson
    from bench.place import Place
    from bench.request import Exam

BLIND = "probe-blind"  # what is asked where gradients say nothing; another model's images are then tried, too
TRANSFER = "transfer(surrogate='{}', steps=100, step=0.05)"


def look_closer(place: Place, exam: Exam, executor: Executor, report: Callable[[str], None]) -> None:
    """Look thoroughly at each model of an exam that nobody looked at so."""
    threat, test = str(exam.threat), exam.dataset.test.hash
    tasks = [
        Thorough(net, weights, exam.dataset_recipe.written, threat)
        for net, weights in dict.fromkeys(_models(place, exam))
        if known_thorough(place, net, weights, test, threat) is None
    ]
    try:
        for task, result in executor(place, tasks):
            if not isinstance(result, list):
                report(f"failed: the thorough checks of {task.weights[:8]}: {result}")
                continue
            for found in result:
                if isinstance(found, CheckRecord) and found.threat:
                    for doubt in found.doubts:
                        report(f"doubt: {task.weights[:8]}: {doubt.text}")
    finally:
        executor.close()


def probes(place: Place, exam: Exam, lesson: Lesson) -> tuple[str, ...]:
    """The columns that the doubts about a training's weights call for."""
    named = set(place.registry.names("column"))
    found: set[str] = set()
    for net, weights in _models(place, replace(exam, lessons=(lesson,))):
        wanted = {REASONS[code].probe for code in _codes(place, exam, net, weights) if code in REASONS} & named
        found |= wanted | (set(_transfers(place, exam, net, weights)) if BLIND in wanted else set())
    return tuple(sorted(found))


def escalated(place: Place, exam: Exam) -> Iterator[tuple[tuple[str, ...], Exam]]:
    """Probes, and the exam of the models that they are for; one for each set of probes."""
    by_probes: dict[tuple[str, ...], list[Lesson]] = {}
    for lesson in exam.lessons:
        by_probes.setdefault(probes(place, exam, lesson), []).append(lesson)
    for names, lessons in sorted(by_probes.items()):
        suite = Suite("probes", (((CLEAN, *names), (CLEAN,)),))
        columns, attacks, questions, left_out = fitting(suite, place, exam.threat, exam.dataset)
        asked = tuple(name for name in names if name not in left_out)
        if asked:
            more = replace(exam, lessons=tuple(lessons), columns=columns, attacks=attacks)
            yield asked, replace(more, questions=questions, left_out=left_out)


def _models(place: Place, exam: Exam) -> Iterator[tuple[str, str]]:
    """Net and weights of everything that an exam examines."""
    for lesson in exam.lessons:
        record = existing(place, lesson.training)
        if record is not None:
            yield from ((record.net, record.weights[which]) for which in exam.weights)


def _codes(place: Place, exam: Exam, net: str, weights: str) -> set[str]:
    """The kinds of all doubts about some weights."""
    test = exam.dataset.test.hash
    checks = (known(place, net, weights, test), known_thorough(place, net, weights, test, str(exam.threat)))
    said = {doubt.code for check in checks if check for doubt in check.doubts}
    return said | {found.code for found in contradictions(_asked(place, exam, net, weights))}


def _asked(place: Place, exam: Exam, net: str, weights: str) -> list[Asked]:
    """What each attack of an exam did to a model on clean images."""
    names = dict.fromkeys(name for name, condition in exam.questions if condition == CLEAN and name != CLEAN)
    cells = {cell.attack: cell for name in names for cell in exam.cells(net, weights, name, CLEAN)}
    found = []
    for attack, cell in sorted(cells.items()):
        records = list(place.ledger.of(cell.key, Record))
        if not records or records[0].access is None:
            continue
        outcome = exam.outcome(place, cell)
        asked, fell = (frozenset(np.flatnonzero(which).tolist()) for which in (outcome.asked, outcome.fell))
        backwards = sum(record.cost.backwards for record in records)
        found.append(Asked(attack, records[0].access, backwards / max(1, len(asked - fell)), asked, fell))
    return found


def _transfers(place: Place, exam: Exam, net: str, weights: str) -> tuple[str, ...]:
    """An attack by way of another model of the ledger that raised no doubt; of the same net where there is one."""
    test = exam.dataset.test.hash
    parts = {lesson.training.train for lesson in exam.lessons}
    others = [
        (record.net != net, not record.threat, other, record.net)
        for record in place.ledger.all() if isinstance(record, TrainingRecord) and record.train in parts
        for which, other in record.weights.items() if which == "best" and other != weights and other in place.store
    ]  # fmt: skip
    for _, _, other, its_net in sorted(others):
        check = known(place, its_net, other, test)
        if check is not None and not check.doubts:
            return (TRANSFER.format(other[:12]),)
    return ()
