"""Robust accuracy over eps, from the distances that a minimum-norm attack measured."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from leaderboard.images import Images
from leaderboard.seeds import first_seed

if TYPE_CHECKING:
    from leaderboard.arithmetic import Outcome
    from leaderboard.rows import Row, Section

MANY = 200  # points of a curve at most
SIZE = (600, 240)  # of a figure, in its own units
LINES = 6  # in a figure: the best ones, and of several seeds the first


@dataclass(frozen=True)
class Curve:
    """How many of the first n test images stand at each eps; the distance is 0 where clean lost an image."""

    distances: tuple[float, ...]  # sorted, of all n images; infinite where no misread image was found

    @property
    def n(self) -> int:
        """The images that it is about."""
        return len(self.distances)

    @property
    def found(self) -> float:
        """The share of the images for which a misread image was found, or clean lost them."""
        return bisect.bisect_left(self.distances, math.inf) / self.n

    @property
    def median(self) -> float:
        """The least distance that more than half of the images do not exceed: infinite where too few were found."""
        return self.distances[self.n // 2]

    def accuracy(self, eps: float) -> float:
        """The share of the images whose distance is larger."""
        return (self.n - bisect.bisect_right(self.distances, eps)) / self.n

    def points(self, end: float = math.inf) -> list[tuple[float, float]]:
        """(eps, accuracy) from eps = 0 on, where the accuracy changes; thinned out to about 200 of them."""
        places = sorted({d for d in self.distances if d <= end and d < math.inf} | {0.0})
        step = -(-len(places) // MANY)
        return [(eps, self.accuracy(eps)) for eps in sorted({*places[::step], places[-1]})]


def curve(clean: Outcome | None, outcome: Outcome) -> Curve | None:
    """The curve of a minimum-norm attack on the first images that it or clean decided; None of other attacks."""
    if outcome.distance is None:
        return None
    lost = clean.fell if clean is not None else Images()
    n = (lost | outcome.asked).first
    return Curve(tuple(sorted(0.0 if i in lost else outcome.distance[i] for i in range(n)))) if n else None


@dataclass(frozen=True)
class Figure:
    """The curves of a column, drawn: a line a row, by steps; x is eps from 0 to `end`, y accuracy from 1 down to 0."""

    name: str
    eps: float
    end: float
    lines: tuple[tuple[Row, Curve, str], ...]  # the last is an SVG path
    more: int  # rows that are not drawn

    @property
    def at(self) -> float:
        """Where eps lies on the x axis."""
        return SIZE[0] * self.eps / self.end


def figures(section: Section) -> list[Figure]:
    """A figure for each column that has curves."""
    if not section.threat:
        return []
    eps = float(Fraction(section.threat.partition(":")[2]))
    found = []
    for head in section.heads:
        rows = [row for row in section.rows if head.name in row.curves]
        best = [line for line in section.lines if line.trusted] or section.lines
        drawn = [row for line in best if head.name in (row := first_seed(line)).curves][:LINES]
        curves = [row.curves[head.name] for row in drawn]
        if curves and eps:
            reach = max(next((d for d, a in c.points() if a <= 0.01), math.inf) for c in curves)
            end = min(max(reach, 1.5 * eps), 4 * eps, 1.0 if section.threat.startswith("linf") else math.inf)
            lines = tuple((row, c, _path(c, end)) for row, c in zip(drawn, curves, strict=True))
            found.append(Figure(head.name, eps, end, lines, len(rows) - len(lines)))
    return found


def _path(drawn: Curve, end: float) -> str:
    """An SVG path that falls by steps."""
    width, height = SIZE
    steps = "".join(f"H{width * d / end:.1f}V{height * (1 - a):.1f}" for d, a in drawn.points(end))
    return f"M0,0{steps}H{width}"
