"""Escalation: a model that raised a doubt is asked more, by the attacks that the doubt calls for.

A probe is an ordinary column: it stands on the board beside the others, and `worst` includes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.checked import known
from bench.doubts import REASONS
from bench.exam import CLEAN, Suite
from bench.obtain import existing
from bench.request import fitting

if TYPE_CHECKING:
    from bench.obtain import Lesson
    from bench.place import Place
    from bench.request import Exam


def probes(place: Place, exam: Exam, lesson: Lesson) -> tuple[str, ...]:
    """The columns that the doubts about a training's weights call for."""
    record = existing(place, lesson.training)
    found = []
    for which in exam.weights if record else ():
        assert record is not None
        check = known(place, record.net, record.weights[which], exam.dataset.test.hash)
        found += [REASONS[d.code].probe for d in check.doubts if d.code in REASONS] if check else []
    named = set(place.registry.names("column"))
    return tuple(sorted({name for name in found if name in named}))


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
            yield (
                asked,
                replace(
                    exam,
                    lessons=tuple(lessons),
                    columns=columns,
                    attacks=attacks,
                    questions=questions,
                    left_out=left_out,
                ),
            )
