"""Which classes suffer, and for what they are taken: from outcomes, the labels of the card, and sidecars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench import wilson
from leaderboard.images import Images
from leaderboard.sidecars import cascade, mask

if TYPE_CHECKING:
    from bench import DatasetCard, Record
    from leaderboard.arithmetic import Exam, Outcome
    from leaderboard.evidence import Fallen

# Of a record and n: the class that was read of each of the first n images, -1 where it was not asked.
Predicted = Callable[["Record", int], NDArray[np.int64]]

MANY = 20  # classes, from which on there is no room for a matrix


@dataclass(frozen=True, eq=False)
class Labels:
    """The classes of a data set, and which test images are of each."""

    names: tuple[str, ...]
    of: tuple[int, ...]  # by image

    @classmethod
    def on(cls, card: DatasetCard) -> Labels:
        """As the card of the data set tells."""
        return cls(tuple(card.classes), tuple(card.labels))

    @cached_property
    def images(self) -> tuple[int, ...]:
        """The images of each class, as bits."""
        members: list[list[int]] = [[] for _ in self.names]
        for image, label in enumerate(self.of):
            if 0 <= label < len(members):
                members[label].append(image)
        return tuple(Images(mine).bits for mine in members)

    def shares(self, fallen: Fallen) -> list[Share]:
        """What stands of each class; of one that has no image among the first n, 0 of 0."""
        return [Share(name, *fallen.among(mine)) for name, mine in zip(self.names, self.images, strict=True)]


@dataclass(frozen=True)
class Share:
    """How many images of a class stand."""

    name: str
    standing: int
    n: int

    @property
    def accuracy(self) -> float:
        """The share that stands; 0 where there is no image."""
        return self.standing / self.n if self.n else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, at 95 %."""
        return wilson(self.standing, self.n)


@dataclass(frozen=True)
class Confusion:
    """For what images of each class were taken: a row a class, a column a reading.

    Images that stand were read right, whatever was tried.  untold: fallen ones of which the record names no other
    class, as where a logit was no number, or the majority of a random model decided.
    """

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    untold: int
    n: int

    @property
    def mistakes(self) -> list[tuple[str, str, int]]:
        """Class, reading and count, the most frequent first."""
        found = [
            (name, self.names[j], count)
            for i, (name, row) in enumerate(zip(self.names, self.counts, strict=True))
            for j, count in enumerate(row)
            if i != j and count
        ]
        return sorted(found, key=lambda m: -m[2])


def confusion(exam: Exam, clean: Outcome | None, labels: Labels, n: int, predicted: Predicted) -> Confusion:
    """The readings of the first n images in a column.

    A fallen image counts by the reading of the attack that felled it: of several the first, in the order in which a
    cascade asks.  In a strict column what clean lost is read as clean was.
    """
    size, n = len(labels.names), min(n, len(labels.of))
    label, fell = np.array(labels.of[:n], np.int64), mask(exam.fell, n)
    read = np.where(fell, -1, label)
    for cell in [*([clean] if clean is not None else []), *cascade(exam)]:
        found = readings(cell, n, predicted)
        read = np.where(read < 0, found, read)
    untold = fell & ((read == label) | (read < 0) | (read >= size))
    told = ~untold & (label >= 0) & (label < size)
    counts = np.bincount(label[told] * size + read[told], minlength=size * size).reshape(size, size)
    return Confusion(labels.names, tuple(map(tuple, counts.tolist())), int(untold.sum()), n)


def readings(cell: Outcome, n: int, predicted: Predicted) -> NDArray[np.int64]:
    """For what each image that fell in a cell was taken, by the first of its records that says so; else -1 (n,)."""
    found = np.full(n, -1, np.int64)
    for record in cell.records:
        lost = cell.fell & Images(record.fell if cell.distance is None else record.asked)
        if lost:
            found = np.where((found < 0) & mask(lost, n), predicted(record, n), found)
    return found


def ordered(shares: Sequence[Share]) -> list[Share]:
    """The classes with images, the weakest first."""
    return sorted((s for s in shares if s.n), key=lambda s: (s.accuracy, s.name))
