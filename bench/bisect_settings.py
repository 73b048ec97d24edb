"""Which settings of a defense lowered robustness?  Every step is an ordinary run, so that its cells are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from bench.bisection import Found, Report, Step, ends, judge, lost_columns, smallest_sets
from bench.errors import RampartError, UsageError
from bench.exam import CLEAN
from bench.obtain import existing
from bench.outcomes import next_question
from bench.run import run
from bench.standing import Model, Question, Standing, Standings

if TYPE_CHECKING:
    from bench.executors import Executor
    from bench.gate import Rules
    from bench.place import Place
    from bench.recipe import Recipe, Value
    from bench.request import Exam

Resolve = Callable[[str], tuple["Exam", "Place"]]


def bisect(
    good: str, bad: str, resolve: Resolve, executor: Callable[..., Executor], rules: Rules, report: Report, say: Report
) -> Found:
    """The settings in which two recipes differ that are enough to lower a column.

    First each alone; where none is enough, the smallest set that delta debugging finds.  A combination that does not
    train counts as not bad.
    """
    before, after = (_recipe(text, resolve) for text in (good, bad))
    if before.name != after.name:
        raise UsageError(
            f"{before.name} and {after.name} are two defenses; expected one with two sets of settings, as in "
            f'--good {before.name} --bad "{before.name}(…)"'
        )
    differ = [name for name in after.settings if after.settings[name] != before.settings.get(name)]
    if not differ:
        raise UsageError(f"{good} and {bad} have the same settings here ({before}): nothing differs")
    steps: list[Step] = []
    known: dict[frozenset[str], Step] = {}
    standings, _ = _examined(before, resolve, executor, report)
    only: set[object] = set()

    def step(changed: frozenset[str]) -> Step:
        if changed not in known:
            named = {name: after.settings[name] for name in differ if name in changed}
            known[changed] = _step(before, named, resolve, executor, standings, rules, only, report)
            steps.append(known[changed])
            say(f"{known[changed].what}: {known[changed].verdict}")
        return known[changed]

    whole = step(frozenset(differ))
    if (nothing := ends(whole, steps)) is not None:
        return nothing
    only |= lost_columns(whole)
    sets = smallest_sets(differ, lambda changed: step(changed).verdict == "regressed")
    return Found(sets, _sentence(sets, differ, after, known), tuple(steps), 0)


def _sentence(
    sets: tuple[tuple[str, ...], ...], differ: list[str], bad: Recipe, known: dict[frozenset[str], Step]
) -> str:
    """The answer in words, and what is known of the other settings."""

    def written(names: Iterable[str]) -> str:
        return ", ".join(f"{name}={bad.settings[name]!r}" for name in names)

    if len(sets) > 1:
        sentence = f"Each of these lowers it alone: {written(name for (name,) in sets)}."
    elif len(sets[0]) > 1:
        sentence = f"Only together do they lower it: {written(sets[0])}."
    else:
        sentence = f"It is {written(sets[0])}."
    said = {
        "held": "Harmless alone", "inconclusive": "Perhaps a little alone, but chance explains as much",
        "broken": "Not to be had alone",
    }  # fmt: skip
    others = [name for name in differ if all(name not in names for names in sets)]
    for verdict, words in said.items():
        alike = [n for n in others if (step := known.get(frozenset({n}))) is not None and step.verdict == verdict]
        sentence += f" {words}: {written(alike)}." if alike else ""
    return sentence


def _recipe(text: str, resolve: Resolve) -> Recipe:
    """The one defense that a text names, with all of its settings."""
    exam, _ = resolve(text)
    if len(exam.defenses) != 1:
        raise UsageError(f"{text!r} names {len(exam.defenses)} defenses; expected one")
    (recipe,) = exam.defenses.values()
    return recipe


def _step(
    before: Recipe, changed: dict[str, Value], resolve: Resolve, executor: Callable[..., Executor],
    good: Standings, rules: Rules, only: set[object], report: Report,
) -> Step:  # fmt: skip
    what = ", ".join(f"{name}={value!r}" for name, value in changed.items())
    try:
        now, asked = _examined(before.with_settings(changed), resolve, executor, report)
    except RampartError as error:
        return Step(what, "broken", said=str(error))
    return judge(what, good, now, rules, only, "" if asked else "it was in the ledger already")


def _examined(
    recipe: Recipe, resolve: Resolve, executor: Callable[..., Executor], report: Report
) -> tuple[Standings, int]:
    """What stands of a defense, and how many trainings and records were made for it."""
    exam, place = resolve(recipe.written)
    summary = run(exam, place, executor(exam, place), report=report)
    if summary.failures:
        raise summary.failures[0]
    return standings_of(exam, place), summary.trained + len(summary.records)


def standings_of(exam: Exam, place: Place) -> Standings:
    """Every decided column of an exam, under names that say the seed and which weights, and not how they were made."""
    found = []
    for lesson in exam.lessons:
        record = existing(place, lesson.training)
        for which in exam.weights if record is not None else ():
            assert record is not None
            weights = record.weights[which]
            for name, condition in exam.questions:
                column, clean = exam.columns[name], exam.clean(place, record.net, weights, condition)
                outcomes = [exam.outcome(place, cell) for cell in exam.cells(record.net, weights, name, condition)]
                if next_question(column, clean, outcomes) is not None:
                    continue
                fell = np.logical_or.reduce([o.fell for o in outcomes] + [clean.fell] * column.strict)
                threat = None if name == CLEAN else str(exam.threat)
                question = Question(
                    exam.dataset.test.hash, condition, threat, tuple(sorted(set(column.attacks))), column.strict,
                    column.first,
                )  # fmt: skip
                n = min(exam.n, column.first or exam.n)
                model = Model("", "", "", "", lesson.training.seed, which)
                fallen = frozenset(np.flatnonzero(fell[:n]).tolist())
                found.append(Standing(model, question, exam.dataset.name, name, weights, n, fallen, (), record.made))
    return Standings(tuple(found))
