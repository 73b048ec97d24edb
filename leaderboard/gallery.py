"""The plots of each board: accuracy against robustness, what robustness costs in training, and over eps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from leaderboard.curves import Figure, figures
from leaderboard.drawing import Plot
from leaderboard.plots import Curve, Point, clean_and_robust, cost_and_robust, over_eps
from leaderboard.rows import CLEAN, Row, Section, place
from leaderboard.seeds import Group
from leaderboard.shell import File, Site
from leaderboard.telling import number, telling

NAV = ("Plots", "plots.html")
KINDS = {"plots": "plots"}


def pages(site: Site) -> Iterator[File]:
    """A page for each board but those of corruptions, and the list."""
    found = [Gallery(site, section) for section in site.board.sections if section.summary != "mean"]
    yield site.render("galleries.html", "plots.html", title="Plots", found=found)
    for gallery in found:
        title = f"Plots: {' · '.join(gallery.section.heading)}"
        yield site.render("gallery.html", gallery.path, title=title, nav="Plots", gallery=gallery)


@dataclass(frozen=True, eq=False)
class Gallery:
    """The plots of one board; a point is a line of it, so seeds are one point."""

    site: Site
    section: Section

    @property
    def path(self) -> str:
        """Where its page lies."""
        return self.site.path("plots", *place(self.section))

    @cached_property
    def column(self) -> str:
        """The column that tells most of the models."""
        return telling(self.section)

    @property
    def left_out(self) -> int:
        """How many lines are not trusted, and so not drawn."""
        return sum(not line.trusted for line in self.section.lines)

    @cached_property
    def plots(self) -> list[Plot]:
        """Accuracy against robustness, robustness over training time, both of two points or more, and over eps."""
        drawn = []
        trusted = [line for line in self.section.lines if line.trusted]
        points = [p for line in trusted if (p := self._point(line)) is not None]
        if len(points) > 1:
            drawn.append(clean_and_robust("clean", points, self.column))
        timed = [p for line in trusted if (p := self._timed(line)) is not None]
        if len({p.x for p in timed}) > 1:
            drawn.append(cost_and_robust("cost", timed, self.column))
        return drawn + [self._eps(place, figure) for place, figure in enumerate(figures(self.section))]

    def _eps(self, place: int, figure: Figure) -> Plot:
        """The curves of one minimum-norm attack, of the best lines that have one."""
        curves = [Curve(named(row), tuple(curve.points(figure.end))) for row, curve, _ in figure.lines]
        title = f"Robust accuracy over eps, by the distances of {figure.name}"
        return over_eps(f"eps{place}", curves, figure.eps, figure.end, self.section.threat or "", title)

    def _point(self, line: Row | Group) -> Point | None:
        clean, robust = line.numbers.get(CLEAN), number(line, self.section, self.column)
        if clean is None or robust is None:
            return None
        return Point(named(line), clean.accuracy, robust.accuracy, clean.interval, robust.interval, robust.bound)

    def _timed(self, line: Row | Group) -> Point | None:
        training, robust = line.maker.training, number(line, self.section, self.column)
        if training is None or robust is None:
            return None
        seconds = line.seconds if isinstance(line, Group) else training.cost.seconds
        return Point(named(line), seconds, robust.accuracy, (seconds, seconds), robust.interval, robust.bound)


def named(line: Row | Group) -> str:
    """A line in few words."""
    which = "" if line.maker.which in {"best", "best = last", ""} else f" ({line.maker.which})"
    return f"{line.maker.defense}{which}"
