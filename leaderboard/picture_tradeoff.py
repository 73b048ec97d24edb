"""Draws what robustness costs: accuracy over eps and over training images, and of a linear study its features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import ThreatModel
from leaderboard.canvas import Drawing, diverging, draw, fit, picture
from leaderboard.drawing import Axis, frame, path, percents, tag, text
from leaderboard.words import percent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench import Picture

SAID = (
    "Accuracy of one net on the first n test images, trained for several eps on several numbers of images: on clean "
    "images, and under attack at several eps. Training for eps 0 is standard training. Every point is a training and a "
    "record of the ledger, with 95 % intervals in the table; of several seeds the mean is drawn."
)
STANDARD = "standard"
WIDTH, HEIGHT, GAP, TOP = 250, 200, 62, 64  # of a panel, in pixels
LEFT = 34


@dataclass(frozen=True)
class _Line:
    """A curve: its name, and x and share of each point."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class _Point:
    """A row of the table: shares of 1."""

    images: int
    trained: str
    threat: str
    clean: float
    robust: float

    @property
    def norm(self) -> str:
        """Of the threat that it was examined under."""
        return self.threat.partition(":")[0]

    @property
    def eps(self) -> float:
        """That was trained for; standard training is 0."""
        return 0.0 if self.trained == STANDARD else _eps(self.trained)


def outdone(found: Picture, by: Picture) -> bool:
    """Whether another picture of the same study has more of its points, or as many and is newer, or a newer form."""
    if found.version < by.version and found.settings.get("study") == by.settings.get("study"):
        return found.test == by.test
    alike = all(found.settings.get(k) == by.settings.get(k) for k in ("study", "net", "column", "n", "main"))
    return alike and found.test == by.test and _points(found) < _points(by)


def _points(found: Picture) -> tuple[int, str, str]:
    said = found.settings.get("points", 0)
    return (said if isinstance(said, int) else 0), found.made, found.key


def drawings(found: Picture, arrays: Mapping[str, NDArray[Any]], _classes: Sequence[str]) -> list[Drawing]:
    """The comparison of the norms, then a drawing for each norm, then the features of a linear study."""
    every = _read(found)
    main = _texts(found, "main")
    norms = list(dict.fromkeys(p.norm for p in every))
    made = [_compared(found, every, main), *(_norm(found, every, norm, main) for norm in norms)]
    if "weights" in arrays:
        made.append(_features(found, arrays))
    return made


def _texts(found: Picture, name: str) -> list[str]:
    values = found.settings[name]
    if not isinstance(values, list):
        raise TypeError(f"{name} is {values!r}; expected a list")
    return [str(v) for v in values]


def _read(found: Picture) -> list[_Point]:
    """The rows, those of several seeds as their mean; threats as the study writes them: 80/255, not 16/51."""
    written = {str(ThreatModel.parse(text)): text for text in _texts(found, "eps")}
    at = {name: found.heads.index(name) for name in found.heads}
    alike: dict[tuple[int, str, str], list[tuple[float, float]]] = {}
    for row in found.rows:
        images, trained, threat = (row[at[k]] for k in ("training images", "trained for", "examined under"))
        clean, robust = (_share(row[at[k]]) for k in ("clean", "robust"))
        if not isinstance(images, int):
            raise TypeError(f"{images!r} training images; expected a number")
        trained, threat = (written.get(str(text), str(text)) for text in (trained, threat))
        alike.setdefault((images, trained, threat), []).append((clean, robust))
    return [
        _Point(*place, *(sum(values) / len(values) for values in zip(*pairs, strict=True)))
        for place, pairs in alike.items()
    ]


def _share(value: object) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"an accuracy of {value!r}; expected a share from 0 to 1")
    return float(value)


def _eps(threat: str) -> float:
    return float(ThreatModel.parse(threat).eps)


def _said_eps(threat: str) -> str:
    return threat.partition(":")[2] if threat != STANDARD else "0"


def _title(norm: str) -> str:
    return {"linf": "Linf", "l2": "L2", "l1": "L1"}.get(norm, norm)


def _norm(found: Picture, every: Sequence[_Point], norm: str, main: Sequence[str]) -> Drawing:
    """Three panels of one norm: over the eps of training, and clean and robust accuracy over training images."""
    own = [p for p in every if p.norm == norm and p.trained.partition(":")[0] in (STANDARD, norm)]
    most = max(p.images for p in own)
    full = [p for p in own if p.images == most]
    middle = next((t for t in main if t.partition(":")[0] == norm), max((p.threat for p in own), key=_eps))
    threats = sorted({p.threat for p in full}, key=_eps)
    over = [_Line("clean", _sorted((p.eps, p.clean) for p in full))] + [
        _Line(f"eps {_said_eps(t)}", _sorted((p.eps, p.robust) for p in full if p.threat == t)) for t in threats
    ]
    arms = sorted({p.trained for p in own}, key=lambda t: 0.0 if t == STANDARD else _eps(t))
    sizes = sorted({p.images for p in own})
    clean = [_Line(_arm(a), _sorted((p.images, p.clean) for p in own if p.trained == a)) for a in arms]
    robust = [
        _Line(_arm(a), _sorted((p.images, p.robust) for p in own if p.trained == a and p.threat == middle))
        for a in arms
    ]
    ticks = {p.eps: _said_eps(p.trained) for p in full}
    x_eps = Axis(0.0, max([*ticks, 1e-9]), 0, 0, marked=tuple(sorted(ticks)))
    panels = [
        _panel(0, over, x_eps, ticks, "trained for eps", f"accuracy, {most:,} training images, %"),
    ]
    if len(sizes) > 1:
        marks = {float(s): f"{s:,}" for s in sizes}
        x_sizes = Axis(float(sizes[0]), float(sizes[-1]), 0, 0, log=True, marked=tuple(map(float, sizes)))
        panels.append(_panel(1, clean, x_sizes, marks, "training images", "clean accuracy, %"))
        panels.append(_panel(2, robust, x_sizes, marks, "training images", f"accuracy at eps {_said_eps(middle)}, %"))
    title = f"What robustness costs: {_title(norm)}, {found.dataset}"
    parts = [text(0, 14, title, class_="title"), *panels]
    lines = max(len(over), len(arms) if len(sizes) > 1 else 0)
    size = (max(len(panels) * (LEFT + WIDTH + GAP) - GAP + 18, 460), TOP + HEIGHT + 48 + 15 * lines)
    style = ".spot{fill:var(--accent)}.s1,.s4{fill:var(--warn)}.s2,.s5{fill:var(--ink)}"
    return draw(norm, title, _words(full, most), size, *parts, style=style)


def _sorted(points: Iterator[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """By x, each once: clean accuracy is the same under every threat."""
    return tuple(sorted(dict(points).items()))


def _arm(trained: str) -> str:
    return "standard" if trained == STANDARD else f"for eps {_said_eps(trained)}"


def _panel(
    place: int, lines: Sequence[_Line], x: Axis, marks: Mapping[float, str], across: str, up_name: str
) -> str:  # fmt: skip
    """One panel with its legend beneath."""
    left = LEFT + place * (LEFT + WIDTH + GAP)
    shown = [line for line in lines if line.points]
    up = percents([100 * y for line in shown for _, y in line.points], TOP + HEIGHT, TOP)
    axis = Axis(x.low, x.high, left + 8, left + WIDTH, x.log, _apart(x, left))
    told = [marks[v] for v in axis.ticks]
    # The frame writes the upper name at the very left; a panel further right has its own.
    parts = [*frame(axis, up, (across, ""), (told, [f"{v:g}" for v in up.ticks])), text(left, TOP - 12, up_name)]
    for number, line in enumerate(shown):
        style = f"line l{number}"
        spots = [(axis.at(a), up.at(100 * b)) for a, b in line.points]
        parts += [path(run, style) for run in _unbroken(line.points, spots, sorted(marks)) if len(run) > 1]
        said = (f"{line.name}, {marks.get(a, a)}: {percent(b)} %" for a, b in line.points)
        parts += [
            tag("circle", f"<title>{escape(words)}</title>", cx=a, cy=b, r=3, class_=f"spot s{number}")
            for (a, b), words in zip(spots, said, strict=True)
        ]
        y = TOP + HEIGHT + 50 + 15 * number
        parts += [path([(left, y - 4), (left + 24, y - 4)], style), text(left + 30, y, line.name)]
    return "".join(parts)


def _unbroken(
    points: Sequence[tuple[float, float]], spots: Sequence[tuple[float, float]], every: Sequence[float]
) -> list[list[tuple[float, float]]]:  # fmt: skip
    """The spots of points that follow each other; a line ends where one between them is missing."""
    runs: list[list[tuple[float, float]]] = []
    last = -2
    for (x, _), spot in zip(points, spots, strict=True):
        place = every.index(x)
        if place != last + 1:
            runs.append([])
        runs[-1].append(spot)
        last = place
    return runs


def _apart(x: Axis, left: float) -> tuple[float, ...]:
    """The ticks whose marks do not cover each other; the last one is always among them."""
    axis = Axis(x.low, x.high, left + 8, left + WIDTH, x.log, x.marked)
    kept: list[float] = []
    for value in sorted(x.marked, reverse=True):
        if not kept or axis.at(kept[-1]) - axis.at(value) >= 40:
            kept.append(value)
    return tuple(sorted(kept))


def _words(full: Sequence[_Point], most: int) -> str:
    said = [
        f"{'standard training' if p.trained == STANDARD else 'trained for ' + p.trained}: {percent(p.clean)} % clean, "
        f"{percent(p.robust)} % under {p.threat}"
        for p in sorted(full, key=lambda p: (p.eps, _eps(p.threat)))
    ]
    return f"On {most:,} training images. {'; '.join(said)}."


def _compared(found: Picture, every: Sequence[_Point], main: Sequence[str]) -> Drawing:
    """Standard training and training for each norm's main eps, as bars: clean, and under each of these threats."""
    most = max(p.images for p in every)
    arms = [a for a in (STANDARD, *main) if any(p.trained == a and p.images == most for p in every)]
    known = {(p.trained, p.threat): p for p in every if p.images == most}
    left, width, high = 150, 300, 18
    axis = Axis(0, 100, left, left + width)
    parts = [text(0, 14, f"What robustness costs, {found.dataset}", class_="title")]
    y, said = 40.0, []
    for arm in arms:
        name = "standard training" if arm == STANDARD else f"trained for {arm}"
        parts.append(text(0, y + 12, name, class_="head"))
        clean = next((p.clean for (a, _), p in known.items() if a == arm), None)
        bars = [("clean", clean), *((t, p.robust if (p := known.get((arm, t))) else None) for t in main)]
        for number, (under, share) in enumerate(bars):
            top = y + 20 + high * number
            parts.append(text(left - 8, top + 12, fit(under, left - 20), "end"))
            if share is None:
                parts.append(text(left + 4, top + 12, "not known"))
                continue
            end = axis.at(100 * share)
            parts.append(
                tag("rect", x=left, y=top + 2, width=end - left, height=high - 5, class_=f"bar s{number}")
            )  # fmt: skip
            parts.append(text(end + 5, top + 12, f"{percent(share)} %"))
            said.append(f"{name}, {under}: {percent(share)} %")
        y += 20 + high * len(bars) + 12
    style = ".bar{fill:var(--accent)}.bar.s1{fill:var(--warn)}.bar.s2{fill:var(--ink)}"
    caption = f"What robustness costs: standard and adversarial training compared, {found.dataset}"
    return draw("", caption, "; ".join(said) + ".", (left + width + 60, y), *parts, style=style)


def _features(found: Picture, arrays: Mapping[str, NDArray[Any]]) -> Drawing:
    """Correlation of each pixel with the label, the weights of each model, and one against the other."""
    correlation, weights = arrays["correlation"], arrays["weights"]
    names = ["standard" if not m.threat else f"for {m.threat}" for m in found.models]
    side, cell, top = 112, 130, 44
    parts = [text(0, 14, f"Features of the linear study, {found.dataset}", class_="title")]
    pictures = [("correlation", correlation), *zip(names, weights, strict=True)]
    for column, (name, values) in enumerate(pictures):
        x = column * cell
        scale = float(np.abs(values).max()) or 1.0
        parts.append(text(x, top - 8, fit(name, cell), class_="head"))
        parts.append(picture(x, top, side, diverging(values.mean(0) / scale), f"{name}, at most {scale:.3g}"))
        parts.append(f'<rect x="{x}" y="{top}" width="{side}" height="{side}" class="frame"/>')
        parts.append(text(x, top + side + 15, f"at most {scale:.3g}", class_="small"))
        if column:
            parts.append(_scatter(x, top + side + 44, side, correlation, values / scale))
    parts += [
        text(0, top + side + 60, "size of each", class_="name"), text(0, top + side + 75, "weight over that"),
        text(0, top + side + 90, "of its pixel's"), text(0, top + side + 105, "correlation"),
    ]  # fmt: skip
    small = [float(s) for s in share_of_weak(correlation, weights)]
    said = "; ".join(f"{n}: {percent(s)} % of all weight on weak pixels" for n, s in zip(names, small, strict=True))
    for column, share in enumerate(small):
        x, y = (column + 1) * cell, top + 2 * side + 60
        parts.append(text(x, y, f"{percent(share)} % weak", class_="small"))
    words = f"Weak pixels are those whose correlation with the label is below {WEAK:g}. {said}."
    style = ".dot{fill:var(--accent);fill-opacity:.45}"
    caption = f"Features and weights of linear models, {found.dataset}"
    size = (len(pictures) * cell, top + 2 * side + 72)
    return draw("features", caption, words, size, *parts, style=style)


WEAK = 0.2  # of a correlation with the label


def share_of_weak(correlation: NDArray[Any], weights: NDArray[Any]) -> NDArray[Any]:
    """How much of all absolute weight lies on pixels of little correlation with the label: a share for each model."""
    size = np.abs(weights).reshape(len(weights), -1).astype(np.float64)
    weak = np.abs(correlation).ravel() < WEAK
    total = size.sum(1)
    found: NDArray[Any] = np.divide(size[:, weak].sum(1), total, out=np.zeros_like(total), where=total > 0)
    return found


def _scatter(x: float, y: float, side: float, correlation: NDArray[Any], weights: NDArray[Any]) -> str:
    """The size of each weight (up) over that of its correlation (across), both from 0 to 1."""
    dots = [
        tag("circle", cx=x + side * min(abs(float(c)), 1.0), cy=y + side * (1 - min(abs(float(w)), 1.0)), r=1.2,
            class_="dot")
        for c, w in zip(correlation.ravel(), weights.ravel(), strict=True) if c or w
    ]  # fmt: skip
    axes = path([(x, y), (x, y + side), (x + side, y + side)], "rule")
    return axes + "".join(dots)
