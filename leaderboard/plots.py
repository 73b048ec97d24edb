"""The plots of a board and of a model: points with intervals, and curves that fall by steps."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from leaderboard.drawing import Axis, Box, Plot, cut, frame, labelled, path, percents, svg, tag
from leaderboard.words import amount, duration, percent

POINTS = 300  # that a plot holds
WIDTH, HEIGHT, SHOWN = 480, 350, 560  # of a plot of points; on a desk it is drawn larger
STYLES = 6  # of curves, told apart by colour and dash
MINUTE, HOUR, DAY = 60, 3600, 86400
TIMES = (
    *(0.1, 1, 3, 10, 30), *(m * MINUTE for m in (1, 3, 10, 30)), *(h * HOUR for h in (1, 3, 10)),
    *(d * DAY for d in (1, 3, 10, 30, 100)),
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A model: across and up, each with an interval; shares of 1, and across a cost may be."""

    name: str
    x: float
    y: float
    across: tuple[float, float]
    up: tuple[float, float]
    bound: bool = False  # y is an upper bound


@dataclass(frozen=True)
class Curve:
    """A share of the images over something that grows, from (start, share) by steps to the last place."""

    name: str
    steps: tuple[tuple[float, float], ...]

    def value(self, at: float) -> float:
        """The share there."""
        return self.steps[max(0, bisect_right(self.steps, at, key=lambda step: step[0]) - 1)][1]


def front(points: Sequence[Point], *, less: bool = False) -> list[Point]:
    """The points that none other beats in both ways, from the left; less: those further left are better."""
    best, found = -math.inf, []
    for p in sorted((p for p in points if not p.bound), key=lambda p: (p.x if less else -p.x, -p.y)):
        if p.y > best:
            best = p.y
            found.append(p)
    return found if less else found[::-1]


def clean_and_robust(name: str, points: Sequence[Point], summary: str) -> Plot:
    """Accuracy against robustness with intervals, and the Pareto front."""
    drawn = _chosen(points)
    across = percents([100 * v for p in drawn for v in p.across], 40, WIDTH - 10)
    best = front(points)
    return _scatter(
        name, f"Clean accuracy and {summary}", points, drawn, best, across, [f"{v:g}" for v in across.ticks],
        ("clean accuracy, %", f"{summary}, %"), lambda p: 100 * p.x, lambda p: _interval(p.x, p.across),
    )  # fmt: skip


def cost_and_robust(name: str, points: Sequence[Point], summary: str) -> Plot:
    """Robustness over the time that a training took."""
    drawn = _chosen([p for p in points if p.x > 0])
    low, high = min((p.x for p in drawn), default=1.0), max((p.x for p in drawn), default=10.0)
    across = Axis(low / 1.25, high * 1.25, 40, WIDTH - 10, log=True, marked=_times(low / 1.25, high * 1.25))
    best = front(drawn, less=True)
    return _scatter(
        name, f"Training time and {summary}", points, drawn, best, across, [duration(v) for v in across.ticks],
        ("training time, logarithmic", f"{summary}, %"), lambda p: p.x, lambda p: duration(p.x),
    )  # fmt: skip


def _times(low: float, high: float) -> tuple[float, ...]:
    """Round times for an axis; three or more, if need be twice as many as usual."""
    found = [t for t in TIMES if low <= t <= high]
    if len(found) < 3:
        found = sorted({m * t for t in TIMES for m in (1, 2) if low <= m * t <= high})
    return tuple(found) or (low,)


def _chosen(points: Sequence[Point]) -> list[Point]:
    """The highest points, as many as a plot holds, down to half the best.

    An undefended model at 0 would press all others together, and it is they that are to be told apart.
    """
    top = max((p.y for p in points), default=0.0)
    return sorted((p for p in points if 2 * p.y >= top), key=lambda p: (-p.y, -p.x, p.name))[:POINTS]


def _scatter(
    name: str, title: str, points: Sequence[Point], drawn: Sequence[Point], best: Sequence[Point], across: Axis,
    marks: Sequence[str], names: tuple[str, str], x_of: Callable[[Point], float], said: Callable[[Point], str],
) -> Plot:  # fmt: skip
    up = percents([100 * v for p in drawn for v in ((p.y,) if p.bound else p.up)], HEIGHT - 40, 30)
    places = {id(p): (across.at(x_of(p)), up.at(100 * p.y)) for p in drawn}
    on_front = _stairs([places[id(p)] for p in best if id(p) in places], down=not across.log)
    shown = [*(p for p in best if id(p) in places), *(p for p in drawn if p not in best)]
    listed = sorted(points, key=lambda p: (-p.y, -p.x, p.name))[: 2 * POINTS]
    labels = labelled([(*places[id(p)], cut(p.name)) for p in shown], Box(across.start, 20, WIDTH, up.start - 2))
    inside = [
        *frame(across, up, names, (marks, [f"{v:g}" for v in up.ticks])),
        *(_whiskers(p, places[id(p)], across, up, x_of) for p in drawn),
        path(on_front, "front") if on_front else "",
        *(_spot(p, places[id(p)], "best" if p in best else "") for p in shown[::-1]),
        *labels,
    ]
    named = "; ".join(f"{cut(p.name)} ({said(p)}, {percent(p.y)} %)" for p in best[:12])
    words = f"{len(drawn)} models; on the Pareto front: {named}"
    hidden = len(points) - len(drawn)
    left_out = f"{hidden} more, below half the best or beyond {POINTS}, are in the table alone. " if hidden else ""
    nameless = (
        "Where names would cover each other some are left out; the table has them all. "
        if len(labels) < len(drawn)
        else ""
    )
    return Plot(
        name, svg(name, title, words, WIDTH, HEIGHT, *inside, shown=SHOWN), title,
        ("model", names[0].partition(",")[0], names[1]),
        tuple((p.name, said(p), ("≤ " if p.bound else "") + _interval(p.y, None if p.bound else p.up)) for p in listed),
        (("best", "on the Pareto front: no other model is better in both"), ("", "other models"))
        + ((("bound", "an upper bound"),) if any(p.bound for p in drawn) else ()),
        f"{left_out}{nameless}Lines through a point are 95 % intervals, of several seeds one standard deviation.",
    )  # fmt: skip


def _stairs(points: Sequence[tuple[float, float]], *, down: bool) -> list[tuple[float, float]]:
    """The edge of what is attained, from the left: where less is better it climbs at a point, else it falls there."""
    found = list(points[:1])
    for (x, y), (left, height) in zip(points[1:], points, strict=False):
        found += [(left, y) if down else (x, height), (x, y)]
    return found


def _whiskers(p: Point, at: tuple[float, float], across: Axis, up: Axis, x_of: Callable[[Point], float]) -> str:
    """The intervals, as a cross."""
    x, y = at
    lines = "" if p.bound else f"M{x:.1f},{up.at(100 * p.up[0]):.1f}V{up.at(100 * p.up[1]):.1f}"
    if not across.log and p.across[0] < p.across[1]:
        lines += f"M{across.at(100 * p.across[0]):.1f},{y:.1f}H{across.at(100 * p.across[1]):.1f}"
    return tag("path", d=lines, class_="whisker") if lines else ""


def _spot(p: Point, at: tuple[float, float], class_: str) -> str:
    """A disc, or of an upper bound a triangle that points down; on the front a diamond."""
    x, y = at
    shape = f"M{x - 4:.1f},{y - 3:.1f}h8l-4,7z" if p.bound else ""
    if class_:
        shape = f"M{x:.1f},{y - 5.5:.1f}l5.5,5.5l-5.5,5.5l-5.5,-5.5z"
    class_ = f"spot {'bound' if p.bound else class_}".strip()
    whole = tag("title", escape(f"{cut(p.name, 80)}: {percent(p.y)} %"))
    return (
        tag("path", whole, d=shape, class_=class_) if shape else tag("circle", whole, cx=x, cy=y, r=3.5, class_=class_)
    )


def _interval(share: float, ends: tuple[float, float] | None) -> str:
    return percent(share) if ends is None else f"{percent(share)} ({percent(ends[0])}–{percent(ends[1])})"


def over_eps(name: str, curves: Sequence[Curve], eps: float, end: float, threat: str, title: str = "") -> Plot:
    """Robust accuracy over eps, from the distances that minimum-norm attacks measured."""
    across = Axis(0, end, 40, 440)
    table = sorted({*across.ticks, eps})
    return _falling(
        name, title or "Robust accuracy over eps", curves[:STYLES], across, [f"{v:g}" for v in across.ticks],
        "eps", [(v, f"{v:.4g}") for v in table if v <= end], (eps, threat),
        Axis(0, 100, 230, 30),
    )  # fmt: skip


def over_passes(name: str, curves: Sequence[Curve]) -> Plot:
    """Robust accuracy over the passes that were spent on an image."""
    most = max((x for c in curves for x, _ in c.steps), default=10.0)
    across = Axis(1, max(most, 10.0), 40, 440, log=True)
    return _falling(
        name, "Robust accuracy over passes", curves[:STYLES], across, [amount(v) for v in across.ticks],
        "forward and backward passes an image, logarithmic", [(v, amount(v)) for v in across.ticks], None,
        percents([100 * y for c in curves for _, y in c.steps], 230, 30),
    )  # fmt: skip


def _falling(
    name: str, title: str, curves: Sequence[Curve], across: Axis, marks: Sequence[str], x_name: str,
    table: Sequence[tuple[float, str]], mark: tuple[float, str] | None, up: Axis,
) -> Plot:  # fmt: skip
    inside = frame(across, up, (x_name, "standing, %"), (marks, [f"{v:g}" for v in up.ticks]))
    if mark and across.low < mark[0] <= across.high:
        inside.append(tag("path", d=f"M{across.at(mark[0]):.1f},{up.end:.1f}V{up.start:.1f}", class_="at"))
    for place, c in enumerate(curves):
        inside.append(tag("path", d=_steps(c, across, up), class_=f"line l{place}"))
    said = "; ".join(
        f"{cut(c.name)}: {', '.join(f'{percent(c.value(v))} % at {t}' for v, t in table[:: max(1, len(table) // 4)])}"
        for c in curves
    )
    return Plot(
        name, svg(name, title, said, 450, 270, *inside), title,
        (x_name.partition(",")[0], *(c.name for c in curves)),
        tuple((t, *(percent(c.value(v)) for c in curves)) for v, t in table),
        tuple((f"line l{place}", c.name) for place, c in enumerate(curves)),
        f"The dashed upright is {mark[1]}." if mark else "",
    )  # fmt: skip


def _steps(curve: Curve, across: Axis, up: Axis) -> str:
    """An SVG path that falls by steps, to the end of the axis."""
    (x, y), *rest = curve.steps
    # Of the steps that share half a pixel the last one is drawn.
    falls = {round(2 * across.at(x)) / 2: y for x, y in rest if across.low <= x <= across.high}
    drawn = "".join(f"H{at:g}V{up.at(100 * y):.1f}" for at, y in falls.items())
    return f"M{across.at(x):.1f},{up.at(100 * y):.1f}{drawn}H{across.end:g}"
