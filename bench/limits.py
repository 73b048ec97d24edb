"""How long tasks take, from passes that are measured here, and how long they may take."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.answer import Question
from bench.obtain import Lesson
from bench.recipe import Attack
from bench.request import passes

if TYPE_CHECKING:
    from bench.exam import Shape
    from bench.executors import Task
    from bench.place import Place
    from bench.plan import Speed
    from bench.recipe import Recipe
    from bench.request import Exam

LEAST = 3600.0  # seconds that every task may take
MARGIN = 20.0  # times what its passes take alone: workers share cores, and an attack does more than passes
SMALL = 60.0  # seconds of a task without a formula of passes that is small all the same: the checks of a model


@dataclass
class Times:
    """What tasks of an exam take on one worker; a net is measured when a task of it is first asked about."""

    exam: Exam
    place: Place
    asked: float = 0.0  # seconds that a person allowed every task; 0 is none
    speeds: dict[str, Speed] = field(default_factory=dict)

    def expected(self, task: Task) -> float:
        """Seconds on one worker; infinite where nothing is known."""
        from bench.plan import training_line

        if isinstance(task, Lesson):
            return training_line(task, self.exam, False, self._speed(task.training.net)).seconds or math.inf
        if isinstance(task, Question):
            return len(task.asked) * seconds_an_image(
                self.exam.attacks[task.cell.attack], self.exam.dataset.shape, self._speed(task.cell.net)
            )
        return SMALL

    def limit(self, task: Task) -> float:
        """Seconds that it may take; one that waits for another process may wait."""
        if getattr(task, "patient", False):
            return math.inf
        return self.asked or max(LEAST, MARGIN * self.expected(task))

    def passed(self, task: Task, seconds: float) -> float:
        """The limit that so many seconds are beyond; 0 where they are within.  Nothing is measured before that."""
        if seconds <= (self.asked or LEAST):
            return 0.0
        limit = self.limit(task)
        return limit if seconds > limit else 0.0

    def _speed(self, net: str) -> Speed:
        from bench.plan import measure_net

        if net not in self.speeds:
            self.speeds[net] = measure_net(self.exam.nets[net], self.exam, self.place)
        return self.speeds[net]


def seconds_an_image(attack: Recipe, shape: Shape, speed: Speed) -> float:
    """Of an image that never falls, on one worker; infinite where the attack does not say what it costs."""
    assert isinstance(attack.plugin, Attack)
    if attack.plugin.cost is None:
        return math.inf
    forwards, backwards = passes(attack, shape)
    return backwards * speed.gradient + max(0, forwards - backwards) * speed.forward
