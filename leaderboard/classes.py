"""Which classes suffer, and for what they are taken: from outcomes, the labels of the card, and sidecars."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from bench import wilson
from leaderboard.images import Images

if TYPE_CHECKING:
    from bench import DatasetCard, Record
    from leaderboard.arithmetic import Exam, Outcome
    from leaderboard.evidence import Fallen

Predicted = Callable[["Record"], Mapping[int, int]]  # of each image that a record asked, the class that was read

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
    cascade asks, where each attack is asked about no more images than the one before it.  In a strict column what
    clean lost is read as clean was.
    """
    cascade = sorted(exam.members.items(), key=lambda m: (-len(m[1].asked), m[0]))
    tried = [*([clean] if clean is not None else []), *(cell for _, cell in cascade)]
    read: dict[int, int] = {}
    for cell in tried:
        for image, label in readings(cell, predicted).items():
            if image in exam.fell:
                read.setdefault(image, label)
    counts = [[0] * len(labels.names) for _ in labels.names]
    untold = 0
    classes = range(len(labels.names))
    fell = set(exam.fell)
    for image, label in enumerate(labels.of[:n]):
        reading = read.get(image, label) if image in fell else label
        if image in fell and (reading == label or reading not in classes):
            untold += 1
        elif label in classes:
            counts[label][reading] += 1
    return Confusion(labels.names, tuple(map(tuple, counts)), untold, n)


def readings(cell: Outcome, predicted: Predicted) -> dict[int, int]:
    """For what each image that fell in a cell was taken, by the first of its records that says so."""
    found: dict[int, int] = {}
    for record in cell.records:
        lost = cell.fell & Images(record.fell if cell.distance is None else record.asked)
        if lost:
            said = predicted(record)
            found |= {image: said[image] for image in lost if image not in found}
    return found


def ordered(shares: Sequence[Share]) -> list[Share]:
    """The classes with images, the weakest first."""
    return sorted((s for s in shares if s.n), key=lambda s: (s.accuracy, s.name))
