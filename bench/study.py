"""The trainings and exams of a study: each of them an ordinary one, which `bench run` would have by the same words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import UsageError, nearest
from bench.exam import CLEAN
from bench.obtain import existing
from bench.outcomes import still_open
from bench.recipe import Recipe
from bench.request import Request, resolve
from bench.threat import ThreatModel

if TYPE_CHECKING:
    from bench.exam import Study
    from bench.obtain import Lesson
    from bench.place import Place
    from bench.records import TrainingRecord
    from bench.request import Exam

STANDARD = ""  # the threat of a training without one


@dataclass(frozen=True)
class Arm:
    """A training of a study: on how many images (0: all), for which threat."""

    images: int
    threat: str
    lesson: Lesson


@dataclass(frozen=True, eq=False)
class Sitting:
    """The arms that are examined together, under one threat."""

    exam: Exam
    arms: tuple[Arm, ...]


@dataclass(frozen=True)
class Point:
    """How a model stands under a threat, on the first n test images; None where the ledger does not say it."""

    arm: Arm
    training: TrainingRecord | None
    threat: str
    n: int
    clean: int | None  # of n that stand on clean images
    robust: int | None  # and under the study's column


def sittings(
    study: Study, place: Place, sizes: Sequence[int] = (), seeds: Sequence[int] = (0,), n: int = 0
) -> list[Sitting]:
    """Every exam of a study, those on all training images first; sizes: only with so many."""
    known = [size for size, _, _ in study.sizes]
    for size in sizes:
        if size not in known:
            hint = nearest(str(size), map(str, known))
            raise UsageError(f"the study {study.name} has no {size} training images{hint}; 0 is all")
    found = []
    for size, standard, robust in study.sizes:
        if not sizes or size in sizes:
            found += list(_of_size(study, place, size, (standard, robust), tuple(seeds), n))
    return found


def _of_size(
    study: Study, place: Place, size: int, recipes: tuple[str, str], seeds: tuple[int, ...], n: int
) -> Iterator[Sitting]:
    """The exams of the trainings on so many images, a threat each."""
    asked = _Asked(study, place, _dataset(study, place, size).written, seeds, n)
    main = {norm: str(ThreatModel.parse(f"{norm}:{eps}")) for norm, eps in study.main}
    arms, exams = [], {}
    for norm, every in study.eps:
        for eps in every:
            threat = str(ThreatModel.parse(f"{norm}:{eps}"))
            exams[threat] = exam = asked.exam(recipes[1], threat)
            arms += [Arm(size, threat, lesson) for lesson in exam.lessons]
    plain = asked.exam(recipes[0], next(iter(exams)))
    arms = [*(Arm(size, STANDARD, lesson) for lesson in plain.lessons), *arms]
    for threat, exam in exams.items():
        norm = exam.threat.norm
        # Between the norms only their main ones are compared.
        mine = [
            a for a in arms
            if a.threat == STANDARD or a.threat.startswith(f"{norm}:")
            or (threat == main[norm] and a.threat in main.values())
        ]  # fmt: skip
        lessons = tuple(dict.fromkeys(a.lesson for a in mine))
        defenses = {k: v for e in (plain, *exams.values()) for k, v in e.defenses.items()}
        yield Sitting(replace(exam, lessons=lessons, defenses=defenses), tuple(mine))


def _dataset(study: Study, place: Place, size: int) -> Recipe:
    recipe = place.registry.parse("dataset", study.dataset)
    if not size:
        return recipe
    if "train_images" not in recipe.settings:
        raise UsageError(f"the data set {recipe.name} has no setting train_images, by which fewer of them are used")
    return recipe.with_settings({"train_images": size})


@dataclass(frozen=True)
class _Asked:
    """What the exams of a study share."""

    study: Study
    place: Place
    dataset: str
    seeds: tuple[int, ...]
    n: int

    def exam(self, recipe: str, threat: str) -> Exam:
        """The exam of one recipe under one threat."""
        study = self.study
        return resolve(
            Request(
                (recipe,), study.net, self.dataset, threat, self.seeds, columns=(study.column,), n=self.n or study.n
            ),
            self.place,
        )


def together(sat: Sequence[Sitting]) -> list[Exam]:
    """For each number of training images an exam of all its trainings, by which they can be made at once."""
    alike: dict[int, list[Sitting]] = {}
    for sitting in sat:
        alike.setdefault(sitting.arms[0].images, []).append(sitting)
    return [
        replace(some[0].exam, lessons=tuple(dict.fromkeys(lesson for s in some for lesson in s.exam.lessons)))
        for some in alike.values()
    ]


def points(sitting: Sitting, place: Place) -> list[Point]:
    """What the ledger says of a sitting, a point for each arm."""
    exam = sitting.exam
    (name,) = (c for c in exam.columns if c != CLEAN)
    (_, condition), *_ = exam.questions
    found = []
    for arm in sitting.arms:
        training = existing(place, arm.lesson.training)
        clean = robust = None
        if training is not None:
            (which,) = exam.weights
            weights = training.weights[which]
            lost = exam.clean(place, training.net, weights, condition)
            cells = exam.cells(training.net, weights, name, condition)
            outcomes = [exam.outcome(place, cell) for cell in cells]
            if lost.asked.all():
                clean = int((~lost.fell).sum())
                open_ = still_open(exam.columns[name], lost, outcomes)
                if not any((open_ & ~outcome.asked).any() for outcome in outcomes):
                    robust = int(np.count_nonzero(open_))
        found.append(Point(arm, training, str(exam.threat), exam.n, clean, robust))
    return found
