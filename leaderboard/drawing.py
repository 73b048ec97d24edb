"""Drawing in SVG: tags, axes with round ticks, and labels that keep clear of each other.

Colours, dashes and type are the style sheet's; a drawing says what a thing is by its class.  Lengths are pixels of the
drawing's own box, y from the top.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape

from leaderboard.words import printable

LETTER, LINE = 6.4, 14.0  # how wide a letter is and how high a line, of the text in drawings: 12 pixels
LONGEST = 28  # letters of a label


@dataclass(frozen=True)
class Plot:
    """A drawing with what is said around it: the caption above, the legend, and the numbers as a table beneath."""

    id: str
    svg: str
    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    legend: tuple[tuple[str, str], ...] = ()  # class of the curve, and its name
    note: str = ""


def tag(name: str, *inside: str, **attributes: object) -> str:
    """An element; `class_` is class, and an underscore in a name is a dash.  What is inside is markup already."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{said}>{''.join(inside)}</{name}>" if inside else f"<{name}{said}/>"


def _text(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def svg(name: str, title: str, said: str, width: float, height: float, *inside: str, shown: float = 0) -> str:
    """A whole drawing, which a reader who does not see it is told in words; `name` is its id on the page.

    shown: how wide it is on a desk, where that is not its own width; on a phone it is as wide as the page.
    """
    return tag(
        "svg",
        tag("title", escape(printable(title)), id=f"{name}-t"), tag("desc", escape(printable(said)), id=f"{name}-d"),
        *inside, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_labelledby=f"{name}-t",
        aria_describedby=f"{name}-d", width=f"{shown or width:g}",
    )  # fmt: skip


def text(x: float, y: float, said: str, anchor: str = "start", class_: str | None = None) -> str:
    """A line of text; anchor is start, middle or end."""
    return tag(
        "text", escape(printable(said)), x=x, y=y, class_=class_, text_anchor=None if anchor == "start" else anchor
    )


def path(points: Iterable[tuple[float, float]], class_: str) -> str:
    """Straight lines through these points."""
    steps = "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return tag("path", d=f"M{steps}", class_=class_)


def cut(name: str, most: int = LONGEST) -> str:
    """A name short enough for a drawing."""
    name = printable(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high` on pixels from `start` to `end`; log: by their logarithm, so low is above 0."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    marked: tuple[float, ...] = ()  # its ticks, where they are not to be found

    def at(self, value: float) -> float:
        """Where a value lies; what is off the axis lies at its end."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, max(value, self._least)))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + (self.end - self.start) * min(max(share, 0.0), 1.0)

    @property
    def _least(self) -> float:
        return self.low if self.log else -math.inf

    @cached_property
    def ticks(self) -> list[float]:
        """Round values, about one in 60 pixels; powers of ten where the axis is logarithmic and spans two of them."""
        if self.marked:
            return [v for v in self.marked if self.low <= v <= self.high]
        few = max(2, round(abs(self.end - self.start) / 60))
        if self.log:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            found = [10.0**p for p in powers][:: -(-len(powers) // few) or 1]
            if len(found) > 1:
                return found
            close = [m * 10.0**p for p in range(math.floor(math.log10(self.low)), powers.stop + 1) for m in (1, 2, 5)]
            return [v for v in close if self.low <= v <= self.high]
        step = _round((self.high - self.low) / few)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _round(step: float) -> float:
    """The next larger of 1, 2, 5, 10, 20 and so on."""
    if step <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))


def percents(values: Sequence[float], start: float, end: float) -> Axis:
    """An axis in percent around these values, from ten to ten, 20 points at least."""
    low, high = (math.floor(min(values) / 10) * 10, math.ceil(max(values) / 10) * 10) if values else (0, 100)
    while high - low < 20:
        low, high = (low, high + 10) if high < 100 else (low - 10, high)
    return Axis(low, high, start, end)


@dataclass(frozen=True)
class Box:
    """A rectangle, for what must not overlap."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether they share more than an edge."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def within(self, other: Box) -> bool:
        """Whether it lies inside."""
        return (
            self.left >= other.left and self.right <= other.right and self.top >= other.top
            and self.bottom <= other.bottom
        )  # fmt: skip


def labelled(points: Sequence[tuple[float, float, str]], frame: Box, keep_clear: Sequence[Box] = ()) -> list[str]:
    """The names of points as text beside them, the first first; one that would cover another or a point is left out."""
    taken = [*(Box(x - 4, y - 4, x + 4, y + 4) for x, y, _ in points), *keep_clear]
    found = []
    for x, y, name in points:
        for left, top in _sides(x, y, LETTER * len(name)):
            box = Box(left, top, left + LETTER * len(name), top + LINE)
            if box.within(frame) and not any(box.meets(other) for other in taken):
                taken.append(box)
                found.append(text(left, top + LINE - 3.5, name, class_="name"))
                break
    return found


def _sides(x: float, y: float, width: float) -> list[tuple[float, float]]:
    """The left upper corners that a label beside a point may have, the best first."""
    middle = y - LINE / 2
    return [
        (x + 7, middle), (x - 7 - width, middle), (x - width / 2, y - 6 - LINE), (x - width / 2, y + 6),
        (x + 6, y - 4 - LINE), (x + 6, y + 4), (x - 6 - width, y - 4 - LINE), (x - 6 - width, y + 4),
    ]  # fmt: skip


def frame(across: Axis, up: Axis, names: tuple[str, str], marks: tuple[Sequence[str], Sequence[str]]) -> list[str]:
    """Both axes: a hairline at each tick, its mark, and the axes' names; `up` starts at the lower end."""
    left, right, bottom, top = across.start, across.end, up.start, up.end
    lines = "".join(f"M{left:.1f},{up.at(v):.1f}H{right:.1f}" for v in up.ticks)
    ticks = "".join(f"M{across.at(v):.1f},{bottom:.1f}v4" for v in across.ticks)
    return [
        tag("path", d=lines, class_="hair") if lines else "",
        tag("path", d=f"M{left:.1f},{bottom:.1f}H{right:.1f}{ticks}", class_="rule"),
        *(text(across.at(v), bottom + 17, said, "middle") for v, said in zip(across.ticks, marks[0], strict=True)),
        *(text(left - 6, up.at(v) + 4, said, "end") for v, said in zip(up.ticks, marks[1], strict=True)),
        text(right, bottom + 33, names[0], "end", "axis-name"), text(0, top - 10, names[1], class_="axis-name"),
    ]  # fmt: skip
