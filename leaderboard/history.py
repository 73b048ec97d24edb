"""How trainings went, drawn: validation accuracy, loss and what reweighting did, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench import TrainingRecord
    from leaderboard.rows import Board

SIZE = (600, 100)  # of a panel, in its own units; the page stretches it
DASH = 8  # how wide a number is drawn that has no neighbours
ROWS = 60  # of a table of numbers at most
CLASSES = 12  # with a panel each, at most
NOTES = 20  # that are shown

# What an epoch's entry may hold: the key, its name on the page, and how its number is written.
NUMBERS = {
    "loss": ("loss", "%.4g"),
    "val_clean": ("clean", "percent"),
    "val_pgd10": ("PGD-10", "percent"),
    "train_clean": ("clean, training images", "percent"),
    "mask_density": ("mask density", "percent"),
    "weight_mean": ("mean weight", "%.4g"),
    "lr": ("learning rate", "%.3g"),
    "seconds": ("time", "duration"),
}
ACCURACIES = ("val_clean", "val_pgd10", "train_clean")


def finite(value: Any) -> float | None:
    """The value as a number of finite size, or None; a training's log may hold anything."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond all floats
        return None


def plain(value: Any) -> Any:
    """The same for json.dumps: null stands for numbers that JSON does not know."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, str | bool | int) else finite(value)


@dataclass(frozen=True)
class Line:
    """A curve: how the style draws it, its name, and an SVG path with a gap where a number is missing."""

    style: str
    name: str
    path: str


@dataclass(frozen=True)
class Panel:
    """Curves over the epochs on one scale, from `low` to `high`."""

    name: str
    low: float
    high: float
    lines: tuple[Line, ...]
    said: str  # the same in words


@dataclass(frozen=True)
class Scales:
    """What the panels of several seeds share, so that they can be compared."""

    loss: tuple[float, float] = (0.0, 1.0)
    weights: tuple[float, float] = (0.0, 1.0)

    @classmethod
    def of(cls, histories: Iterable[History]) -> Scales:
        """From 0, or the least number below it, to the largest."""
        told = list(histories)
        return cls(
            _scale([x for h in told for x in h.column("loss")]),
            _scale([x for h in told for weights in h.weights for x in weights]),
        )


def _scale(numbers: Iterable[float | None]) -> tuple[float, float]:
    known = [x for x in numbers if x is not None]
    low, high = min([0.0, *known]), max([0.0, *known])
    return (low, high) if low < high else (low, low + 1.0)


@dataclass(frozen=True, eq=False)
class History:
    """What a training wrote down, an entry an epoch."""

    training: TrainingRecord
    anchor: str  # its place on the page
    scales: Scales = field(default_factory=Scales)

    @property
    def entries(self) -> list[dict[str, Any]]:
        """As they are in the record."""
        return self.training.history

    @cached_property
    def epochs(self) -> list[int]:
        """The number of each epoch; their places, from 1, where the numbers do not rise."""
        said = [finite(entry.get("epoch")) for entry in self.entries]
        known = [int(x) for x in said if x is not None and x == int(x)]
        rising = len(known) == len(said) and all(a < b for a, b in pairwise(known))
        return known if rising else list(range(1, len(said) + 1))

    def column(self, key: str) -> list[float | None]:
        """The number of that name in each epoch."""
        return [finite(entry.get(key)) for entry in self.entries]

    @cached_property
    def weights(self) -> list[list[float | None]]:
        """The sum of the sample weights of each class, an epoch a list; empty where none was written down."""
        said = [entry.get("weight_by_class") for entry in self.entries]
        classes = max((len(w) for w in said if isinstance(w, list)), default=0)
        rows = [w if isinstance(w, list) else [] for w in said]
        return [[finite(x) for x in (*w, *[None] * (classes - len(w)))] for w in rows] if classes else []

    @cached_property
    def notes(self) -> list[tuple[int, str]]:
        """What the training remarked, and in which epoch."""
        said = [(epoch, entry.get("note")) for epoch, entry in zip(self.epochs, self.entries, strict=True)]
        return [(epoch, note) for epoch, note in said if isinstance(note, str) and note.strip()][:NOTES]

    @cached_property
    def drops(self) -> list[int]:
        """The epochs in which the learning rate fell to half or less, after it had been constant."""
        rates = self.column("lr")
        found = []
        for i in range(1, len(rates)):
            before, now, earlier = rates[i - 1], rates[i], rates[max(0, i - 2)]
            # A smooth schedule falls in every epoch, towards its end by more than half: that is no drop.
            if before is not None and now is not None and now <= before / 2 and (earlier == before or i - 1 in found):
                found.append(i)
        return [self.epochs[i] for i in found]

    @cached_property
    def best(self) -> int | None:
        """The place of the epoch whose weights are the best ones; where no entry says so, of the highest PGD-10."""
        kept = [i for i, entry in enumerate(self.entries) if entry.get("best") is True]
        if kept:
            return kept[-1]
        robust, clean = self.column("val_pgd10"), self.column("val_clean")
        scores = [(r, c or 0.0, -i) for i, (r, c) in enumerate(zip(robust, clean, strict=True)) if r is not None]
        return -max(scores)[2] if scores else None

    @property
    def best_is_known(self) -> bool:
        """Whether the training said which weights are the best ones."""
        return any(entry.get("best") is True for entry in self.entries)

    @cached_property
    def panels(self) -> list[Panel]:
        """Accuracy, loss, and mask density, of those that were written down."""
        accuracy = [key for key in ACCURACIES if self._has(key)]
        found = []
        if accuracy:
            found.append(self._panel("accuracy, %", (0.0, 1.0), accuracy))
        if self._has("loss"):
            found.append(self._panel("loss", self.scales.loss, ["loss"]))
        if self._has("mask_density"):
            found.append(self._panel("mask density, %", (0.0, 1.0), ["mask_density"]))
        return found

    @cached_property
    def classes(self) -> list[Panel]:
        """The weights of each class and, behind them, the mean over classes; of many classes the outermost ones.

        Those are the ones that have most and least in the last epoch.
        """
        if not self.weights:
            return []
        columns = list(zip(*self.weights, strict=True))
        shown = list(range(len(columns)))
        if len(columns) > CLASSES:
            order = sorted(shown, key=lambda k: (columns[k][-1] or 0.0, k))
            shown = sorted([*order[: CLASSES // 2], *order[-CLASSES // 2 :]])
        scale, at = self.scales.weights, self._shown  # these panels are small
        mean = Line("mean", "mean over classes", self._path([_mean(w) for w in self.weights], scale, at))
        return [
            Panel(
                f"class {k}", *scale,
                (mean, Line("weight", f"class {k}", self._path(columns[k], scale, at))),
                f"class {k}: {_course(columns[k], '%.4g')}",
            )
            for k in shown
        ]  # fmt: skip

    @property
    def more_classes(self) -> int:
        """How many classes have no panel."""
        return max(0, len(self.weights[0]) - CLASSES) if self.weights else 0

    @property
    def marks(self) -> str:
        """An SVG path: a line from top to bottom at each drop of the learning rate."""
        return "".join(f"M{self._x(self.epochs.index(e)):.1f},0V{SIZE[1]}" for e in self.drops)

    @property
    def spot(self) -> str:
        """An SVG path: a dot at the best epoch, on the curve of PGD-10."""
        robust = self.column("val_pgd10")
        if self.best is None or (value := robust[self.best]) is None:
            return ""
        return f"M{self._x(self.best):.1f},{_y(value, (0.0, 1.0)):.1f}h0"

    @cached_property
    def heads(self) -> list[tuple[str, str, str]]:
        """Key, name and form of the columns of the table of numbers."""
        return [(key, *what) for key, what in NUMBERS.items() if self._has(key)]

    @cached_property
    def table(self) -> list[tuple[int, list[float | None], list[float | None]]]:
        """Epoch, numbers and class weights; of a long training not of every epoch."""
        columns = [self.column(key) for key, _, _ in self.heads]
        shown = [int(panel.name.rpartition(" ")[2]) for panel in self.classes]
        return [(self.epochs[i], [c[i] for c in columns], [self.weights[i][k] for k in shown]) for i in self._shown]

    def _has(self, key: str) -> bool:
        return any(x is not None for x in self.column(key))

    def _panel(self, name: str, scale: tuple[float, float], keys: Sequence[str]) -> Panel:
        lines = tuple(Line(_style(key), NUMBERS[key][0], self._path(self.column(key), scale)) for key in keys)
        said = "; ".join(f"{NUMBERS[key][0]}: {_course(self.column(key), NUMBERS[key][1])}" for key in keys)
        return Panel(name, *scale, lines, said)

    def _x(self, place: int) -> float:
        first, last = self.epochs[0], self.epochs[-1]
        return SIZE[0] * (self.epochs[place] - first) / (last - first) if first < last else SIZE[0] / 2

    @cached_property
    def _shown(self) -> list[int]:
        """The places of the epochs in the table: of a long training every k-th, the best and the last."""
        last = len(self.entries) - 1
        return sorted({*range(0, last, -(-len(self.entries) // ROWS)), last, last if self.best is None else self.best})

    def _path(self, numbers: Sequence[float | None], scale: tuple[float, float], at: Sequence[int] = ()) -> str:
        """An SVG path through the numbers (at these places, else at all); one that stands alone is a dash."""
        points = [(self._x(i), numbers[i]) for i in at or range(len(numbers))]
        values = [None, *(value for _, value in points), None]
        steps = []
        for (x, value), before, after in zip(points, values, values[2:], strict=False):
            if value is None:
                continue
            y = _y(value, scale)
            if before is not None:
                steps.append(f"L{x:.1f},{y:.1f}")
            elif after is not None:
                steps.append(f"M{x:.1f},{y:.1f}")
            else:
                steps.append(f"M{x - DASH / 2:.1f},{y:.1f}h{DASH}")
        return "".join(steps)


def _y(value: float, scale: tuple[float, float]) -> float:
    """Where a number lies, from the top; what is off the scale lies on its edge."""
    low, high = scale
    return SIZE[1] * (1 - min(max(value / (high - low) - low / (high - low), 0.0), 1.0))


def _style(key: str) -> str:
    """The class by which the page's style draws a curve."""
    return key.replace("_", "-")


def _mean(numbers: Sequence[float | None]) -> float | None:
    known = [x for x in numbers if x is not None]
    return math.fsum(x / len(known) for x in known) if known else None


def _course(numbers: Sequence[float | None], form: str) -> str:
    """A curve in words: where it begins and where it ends."""
    known = [x for x in numbers if x is not None]
    if not known:
        return "no numbers"
    first, last = (f"{100 * x:.1f} %" if form == "percent" else form % x for x in (known[0], known[-1]))
    return f"from {first} to {last}"


@dataclass(frozen=True, eq=False)
class Lesson:
    """The trainings of one defense, net, data set and threat: a history a seed."""

    histories: tuple[History, ...]

    @property
    def training(self) -> TrainingRecord:
        """One of them, for what they have in common."""
        return self.histories[0].training

    @property
    def legend(self) -> list[tuple[str, str]]:
        """The curves of accuracy: style and name."""
        keys = [key for key in ACCURACIES if any(x is not None for h in self.histories for x in h.column(key))]
        return [(_style(key), NUMBERS[key][0]) for key in keys]


def lessons(board: Board) -> list[Lesson]:
    """The trainings behind the board's rows that wrote a history, those that differ in their seed together."""
    alike: dict[tuple[str, ...], list[History]] = {}
    anchors: dict[str, int] = {}
    for t in board.made_by:
        if t.history:
            anchors[t.key] = times = anchors.get(t.key, 0) + 1
            anchor = f"training-{t.key[:12]}" + (f"-{times}" if times > 1 else "")
            alike.setdefault((t.net, t.defense, t.train, t.val, t.threat), []).append(History(t, anchor))
    found = []
    for histories in alike.values():
        scales = Scales.of(histories)
        found.append(Lesson(tuple(History(h.training, h.anchor, scales) for h in histories)))
    return found
