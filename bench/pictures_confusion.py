"""For what images were taken, under any column, from records alone; and the weights of classes over training.

A fallen image counts by the reading of the attack that felled it, of several the first in the column's order; where a
column is strict, what clean lost is read as clean was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import IncompleteError
from bench.exam import CLEAN, Condition, Suite
from bench.outcomes import fallen_within, still_open
from bench.portraits import Answer, Arrays, Row, Scene, Shown, picture
from bench.records import Record
from bench.request import Exam, fitting
from bench.threat import ThreatModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.exam import Cell
    from bench.place import Place
    from bench.records import Picture

VERSION = 1
HEADS = (
    "model", "column", "class", "images", "read right", "taken most for", "times", "first weight", "last weight",
)  # fmt: skip
WEIGHTS = "weight_by_class"  # in a history: the sum of the weights of each class' images in an epoch


@dataclass(frozen=True, eq=False)
class Matrix:
    """Counts (K, K) of the first n images: a row a class, a column a reading; untold: no other class is recorded."""

    counts: NDArray[np.int64]
    untold: int
    n: int


def confusion(scene: Scene, columns: Sequence[str], under: str, n: int) -> Picture:
    """The matrices of the scene's models under each column; n 0: as many first images as all of them were asked."""
    exams = [_exam(scene, shown, columns, under) for shown in scene.models]
    decided = {
        (shown.about.short, name, str(exam.threat)): _decided(scene.place, exam, shown, name)
        for exam, shown in zip(exams, scene.models, strict=True) for name in _named(exam)
    }  # fmt: skip
    (model, column, threat), least = min(decided.items(), key=lambda x: x[1])
    if not least or n > least:
        said = f"the first {least:,} test images" if least else "no image"
        raise IncompleteError(
            f"{scene.place.ledger_root} decides {column} at {threat} of {model} on {said}; bench run asks more, "
            "with these --columns and this --threat"
        )
    found = [
        [matrix(scene.place, exam, shown, name, n or least) for name in _named(exam)]
        for exam, shown in zip(exams, scene.models, strict=True)
    ]
    threats = [str(exam.threat) for exam in exams]
    settings = {"columns": _named(exams[0]), "threats": threats, "n": n or least}
    return picture(scene, "confusion", VERSION, settings, lambda: _answer(scene, _named(exams[0]), found))


def _exam(scene: Scene, shown: Shown, columns: Sequence[str], under: str) -> Exam:
    """The columns as they are asked of a model: under this threat, else under the one that it was trained for."""
    place, dataset = scene.place, scene.dataset
    assert scene.recipe is not None
    threat = ThreatModel.parse(under or shown.about.threat or scene.threat)
    suite = Suite("ad hoc", ((tuple(columns), (str(Condition()),)),))
    found, attacks, questions, left_out = fitting(suite, place, threat, dataset)
    if left_out:
        raise IncompleteError(f"{', '.join(left_out)} cannot search {threat}")
    wanted = {name: column for name, column in found.items() if name != CLEAN or CLEAN in columns or len(found) > 1}
    return Exam(
        dataset, scene.recipe, threat, {}, (), {}, wanted, attacks, questions, ("best",), len(dataset.test), 0, "exact",
        (), {},
    )  # fmt: skip


def _named(exam: Exam) -> list[str]:
    """The columns, clean first where it is among them."""
    return list(exam.columns)


def _decided(place: Place, exam: Exam, shown: Shown, name: str) -> int:
    """How many first images a column is decided on."""
    model = shown.about.net, shown.about.weights
    column, clean = exam.columns[name], exam.clean(place, *model, CLEAN)
    outcomes = [exam.outcome(place, cell) for cell in exam.cells(*model, name, CLEAN)]
    open_ = still_open(column, clean, outcomes)
    left = ~clean.asked if column.strict else np.zeros_like(clean.asked)
    for outcome in outcomes:
        left |= open_ & ~outcome.asked
    return int(left.argmax()) if left.any() else exam.n


def matrix(place: Place, exam: Exam, shown: Shown, name: str, n: int) -> Matrix:
    """For what the first n test images were taken in a column."""
    model = shown.about.net, shown.about.weights
    cells = exam.cells(*model, name, CLEAN)
    if exam.columns[name].strict:
        cells = [*exam.cells(*model, CLEAN, CLEAN), *cells]
    size, label = len(exam.dataset.classes), exam.dataset.test.y[:n]
    fell, read = np.zeros(n, bool), np.full(n, -1, np.int64)
    for cell in cells:
        lost, said = _readings(place, exam, cell, n)
        read = np.where((read < 0) & lost, said, read)
        fell |= lost
    read = np.where(fell, read, label)
    untold = fell & ((read == label) | (read < 0) | (read >= size))
    counts = np.bincount((label * size + read)[~untold], minlength=size * size).reshape(size, size)
    return Matrix(counts, int(untold.sum()), n)


def _readings(place: Place, exam: Exam, cell: Cell, n: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which of the first n images fell in a cell, and for what they were taken by the first record that says so."""
    fell, read = np.zeros(n, bool), np.full(n, -1, np.int64)
    for record in place.ledger.of(cell.key, Record):
        bounded = record.threat is None or ":" in record.threat
        lost = [i for i in (record.fell if bounded else fallen_within(place.ledger, record, exam.threat)) if i < n]
        said = dict(zip(record.asked, place.ledger.images(record)["predicted"].tolist(), strict=True))
        for i in lost:
            fell[i] = True
            if read[i] < 0:
                read[i] = said[i]
    return fell, read


def _answer(scene: Scene, names: Sequence[str], found: Sequence[Sequence[Matrix]]) -> Answer:
    arrays: Arrays = {
        "counts": np.stack([np.stack([m.counts for m in row]) for row in found]),
        "untold": np.array([[m.untold for m in row] for row in found], np.int64),
    }  # fmt: skip
    rows: list[Row] = []
    for place, (shown, matrices) in enumerate(zip(scene.models, found, strict=True)):
        weights = class_weights(shown, len(scene.dataset.classes))
        if weights is not None:
            arrays[f"epochs_{place}"], arrays[f"weights_{place}"] = weights
        for name, one in zip(names, matrices, strict=True):
            rows += _rows(scene, shown, name, one, None if weights is None else weights[1])
    return Answer(arrays, HEADS, rows)


def class_weights(shown: Shown, classes: int) -> tuple[NDArray[np.int32], NDArray[np.float64]] | None:
    """The epochs (E,) whose history tells the weight of each class, and those sums (E, K); None where none does."""
    told = [
        (int(entry["epoch"]), entry[WEIGHTS]) for entry in shown.training.history
        if isinstance(entry.get(WEIGHTS), list) and len(entry[WEIGHTS]) == classes
    ]  # fmt: skip
    if not told:
        return None
    return np.array([e for e, _ in told], np.int32), np.array([w for _, w in told], np.float64)


def _rows(scene: Scene, shown: Shown, name: str, one: Matrix, weights: NDArray[np.float64] | None) -> list[Row]:
    """A line for each class that has images among those asked."""
    found: list[Row] = []
    for k, (label, row) in enumerate(zip(scene.dataset.classes, one.counts, strict=True)):
        wrong = np.where(np.arange(len(row)) == k, 0, row)
        most = int(wrong.argmax())
        asked = int((scene.dataset.test.y[: one.n] == k).sum())
        if asked:
            found.append([
                shown.about.short, name, label, asked, int(row[k]),
                scene.dataset.classes[most] if wrong[most] else None, int(wrong[most]),
                *([None, None] if weights is None else [float(weights[0, k]), float(weights[-1, k])]),
            ])  # fmt: skip
    return found
