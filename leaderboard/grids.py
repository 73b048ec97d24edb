"""Plots by class and by corruption: bars, heat maps, and the matrix of what was taken for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from leaderboard.drawing import LETTER, Axis, Plot, cut, svg, tag, text
from leaderboard.words import natural, percent

if TYPE_CHECKING:
    from leaderboard.classes import Confusion, Share

STRONGEST = 0.5  # of a heat map's colour, so that numbers can be read on it


def by_class(name: str, clean: Sequence[Share], robust: Sequence[Share], column: str) -> Plot:
    """Of each class what stands on clean images and under attack, with the attack's interval; the weakest first."""
    before = {s.name: s for s in clean}
    rows = sorted((s for s in robust if s.n), key=lambda s: (s.accuracy, s.name))
    left = min(150.0, 12 + LETTER * max(len(cut(s.name, 22)) for s in rows))
    across, height = Axis(0, 100, left, 440), 24.0 + 20 * len(rows)
    inside = [
        tag("path", d="".join(f"M{across.at(v):.1f},18V{height:.1f}" for v in across.ticks), class_="hair"),
        *(text(across.at(v), height + 15, f"{v:g}", "middle") for v in across.ticks),
        text(440, height + 31, "standing, %", "end", "axis-name"),
    ]
    for place, s in enumerate(rows):
        y = 32.0 + 20 * place
        low, high = (across.at(100 * end) for end in s.interval)
        spots = [
            tag("path", d=f"M{low:.1f},{y:.1f}H{high:.1f}", class_="span"),
            tag("circle", cx=across.at(100 * s.accuracy), cy=y, r=3.5, class_="spot best"),
        ]
        if (c := before.get(s.name)) is not None and c.n:
            spots.insert(
                0,
                tag(
                    "path",
                    d=f"M{across.at(100 * s.accuracy):.1f},{y:.1f}H{across.at(100 * c.accuracy):.1f}",
                    class_="whisker",
                ),
            )
            spots.append(tag("circle", cx=across.at(100 * c.accuracy), cy=y, r=3.5, class_="spot open"))
        inside += [text(left - 8, y + 4, cut(s.name, 22), "end"), *spots]
    said = f"Weakest: {_worded(rows[0])}; strongest: {_worded(rows[-1])}."
    return Plot(
        name, svg(name, f"Accuracy by class, clean and under {column}", said, 450, height + 38, *inside),
        "Accuracy by class, the weakest first", ("class", "images", "clean", column),
        tuple(
            (s.name, str(s.n), percent(before[s.name].accuracy) if s.name in before else "–",
             f"{percent(s.accuracy)} ({percent(s.interval[0])}–{percent(s.interval[1])})")
            for s in rows
        ),
        (("spot open", "clean"), ("spot best", f"{column}, with its 95 % interval")),
    )  # fmt: skip


def _worded(share: Share) -> str:
    return f"{cut(share.name)} {percent(share.accuracy)} %"


def corruptions(name: str, cells: Mapping[str, Mapping[str, tuple[int, int]]]) -> Plot:
    """The heat map of corruption and severity: how many percent stand; cells are (standing, asked)."""
    severities = sorted({s for row in cells.values() for s in row}, key=natural)
    left = min(190.0, 12 + LETTER * max(len(cut(c)) for c in cells))
    width, height = 46.0, 24.0
    columns = [*(cut(s, 6) for s in severities), "mean"]
    inside = [text(left + width * (i + 0.5), 14, c, "middle") for i, c in enumerate(columns)]
    rows, means = [], {}
    for place, (corruption, found) in enumerate(cells.items()):
        shares = [found[s][0] / found[s][1] if s in found and found[s][1] else None for s in severities]
        known = [v for v in shares if v is not None]
        mean = sum(known) / len(known) if len(known) == len(severities) else None
        means[corruption] = mean
        y = 22 + height * place
        inside.append(text(left - 8, y + 16, cut(corruption), "end"))
        for i, value in enumerate([*shares, mean]):
            inside.append(_cell(left + width * i + (6 if i == len(severities) else 0), y, width, height, value))
        rows.append((corruption, *("–" if v is None else percent(v) for v in [*shares, mean])))
    ranked = sorted((m, c) for c, m in means.items() if m is not None)
    said = (
        f"Lowest mean: {ranked[0][1]} {percent(ranked[0][0])} %; highest: {ranked[-1][1]} {percent(ranked[-1][0])} %"
        if ranked
        else "Not every severity was asked"
    )
    title = "Clean accuracy under corruptions, by severity, %"
    size = left + width * len(columns) + 8, 26 + height * len(cells)
    return Plot(name, svg(name, title, said, *size, *inside), title, ("corruption", *columns), tuple(rows))


def _cell(x: float, y: float, width: float, height: float, value: float | None) -> str:
    """A cell of a heat map: the darker, the more stand."""
    if value is None:
        return text(x + width / 2, y + 16, "–", "middle")
    shade = tag(
        "rect", x=x, y=y, width=width - 1, height=height - 1, class_="heat", fill_opacity=f"{STRONGEST * value:.2f}"
    )
    return shade + text(x + width / 2, y + 16, percent(value), "middle")


def confusions(name: str, found: Confusion, column: str) -> Plot:
    """A row a class, a column a reading; the shade is the share of the row, of mistakes in another colour."""
    labels = [cut(n, 12) for n in found.names]
    left = 12 + LETTER * max(map(len, labels))
    size = len(labels)
    side, numbered = (34.0, True) if size <= 10 else (22.0, False)
    upright = max(map(len, labels)) * LETTER > side  # names that are too long for a column are turned
    top = 22.0 if not upright else 12 + LETTER * max(map(len, labels))
    inside = []
    for i, label in enumerate(labels):
        at = left + side * (i + 0.5)
        turned = {"transform": f"rotate(-90 {at + 4:.1f} {top - 6:.1f})"} if upright else {}
        inside.append(
            tag(
                "text",
                escape(label),
                x=at + (4 if upright else 0),
                y=top - 6,
                text_anchor="start" if upright else "middle",
                **turned,
            )
        )
        inside.append(text(left - 8, top + side * i + side / 2 + 4, label, "end"))
    for i, row in enumerate(found.counts):
        total = sum(row)
        for j, count in enumerate(row):
            if not count:
                continue
            x, y = left + side * j, top + side * i
            shade = f"{STRONGEST * (count / total) ** 0.5:.2f}"
            inside.append(
                tag(
                    "rect",
                    x=x,
                    y=y,
                    width=side - 1,
                    height=side - 1,
                    class_="heat" if i == j else "heat wrong",
                    fill_opacity=shade,
                )
            )
            if numbered:
                inside.append(
                    text(x + side / 2 - 0.5, y + side / 2 + 4, str(count), "middle", "small" if count > 999 else None)
                )
    worst = found.mistakes[:3]
    said = "; ".join(f"{a} taken for {b}: {k}" for a, b, k in worst) or "no mistakes"
    title = f"What images were taken for under {column}"
    box = left + side * size + 4, top + side * size + 4
    return Plot(
        name, svg(name, title, f"Most frequent: {said}", *box, *inside), title, ("class", *found.names),
        tuple((n, *map(str, row)) for n, row in zip(found.names, found.counts, strict=True)),
        note="A row is a class, a column what its images were taken for; an image that stands is on the diagonal."
        + (f" Of {found.untold} fallen images no other class is recorded." if found.untold else ""),
    )  # fmt: skip
