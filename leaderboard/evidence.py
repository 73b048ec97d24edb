"""What stands behind the numbers of a row: which images fell in each column, and what each attack did and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from leaderboard.arithmetic import Exam, Spent
from leaderboard.images import Images

if TYPE_CHECKING:
    from leaderboard.arithmetic import Number, Outcome
    from leaderboard.rows import Head

MODELS = 200  # with more of them, what takes a file an image set is left out: a page must stay quick to make
CLEAN, WORST = "clean", "worst"  # columns


@dataclass(frozen=True)
class Fallen:
    """Which of the first n test images fell in a column."""

    bits: int
    n: int
    bound: bool = False  # some of them are not decided, and count as standing

    @classmethod
    def of(cls, images: Images, number: Number) -> Fallen:
        """Those among the images that the column's number is about."""
        return cls((images & Images.below(number.n)).bits, number.n, number.bound)

    @property
    def standing(self) -> int:
        """How many stand."""
        return self.n - self.bits.bit_count()

    def first(self, n: int) -> int:
        """The bits of the first n images."""
        return self.bits & ((1 << n) - 1)

    def on(self, other: Fallen) -> Fallen:
        """The same on no more of the first images than another column is about, so that both can be compared."""
        n = min(self.n, other.n)
        return Fallen(self.first(n), n, self.bound)

    def among(self, images: int) -> tuple[int, int]:
        """Of these images (bits), how many stand and how many it is about."""
        mine = images & ((1 << self.n) - 1)
        return (mine & ~self.bits).bit_count(), mine.bit_count()


@dataclass(frozen=True)
class Tally:
    """One attack's work on some weights.

    alone: it felled them where every other attack that was asked about the image, one at least, failed.
    """

    asked: int
    fell: int
    alone: int
    spent: Spent
    access: str  # what it may ask of the model; empty where it is not known


@dataclass(frozen=True, eq=False)
class Evidence:
    """Behind one row."""

    columns: Mapping[str, Fallen] = field(default_factory=dict)  # by column, and the one that sums up
    exams: Mapping[str, Exam] = field(default_factory=dict)  # by column; empty where there are many models
    tallies: Mapping[str, Tally] = field(default_factory=dict)  # by attack
    conditions: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # standing and asked, by corruption
    clean: Outcome | None = None  # None where there are many models
    detailed: bool = False  # whether there are few enough models for all that is known of each


def tallies(cells: Mapping[str, Outcome], lost: Images) -> dict[str, Tally]:
    """What each attack did; images that clean lost fell to none of them."""
    once, twice, asked, again = (Images() for _ in range(4))
    for cell in cells.values():
        twice, once = twice | (once & cell.fell), once | cell.fell
        again, asked = again | (asked & cell.asked), asked | cell.asked
    return {
        attack: Tally(
            len(cell.asked), len(cell.fell), len((cell.fell & again) - twice - lost),
            Spent.of(cell.records), cell.records[0].access or "",
        )
        for attack, cell in cells.items()
    }  # fmt: skip


def gathered(
    exams: Mapping[Head, Exam], numbers: Mapping[str, Number | None], summary: Number | None, clean: Outcome | None,
    cells: Mapping[str, Outcome], *, detailed: bool,
) -> Evidence:  # fmt: skip
    """The evidence of some weights under one threat; `summary` is over the strict columns."""
    known = {head.name: exam for head, exam in exams.items() if numbers.get(head.name) is not None}
    strict = [exam for head, exam in exams.items() if head.strict]
    if summary is not None and strict:
        known[WORST] = union(strict)
    if clean is not None:
        known[CLEAN] = Exam(clean.fell, clean.asked, 0, {})
    found = {
        name: Fallen.of(exam.fell, number)
        for name, exam in known.items()
        if (number := summary if name == WORST else numbers.get(name)) is not None
    }
    lost = clean.fell if clean is not None else Images()
    known.pop(CLEAN, None)
    work = tallies(cells, lost)
    return Evidence(found, known, work, {}, clean, True) if detailed else Evidence(found, {}, work)


def union(exams: Sequence[Exam]) -> Exam:
    """Several columns as one."""
    members = {attack: cell for exam in exams for attack, cell in exam.members.items()}
    fell = Images.union(exam.fell for exam in exams)
    held = Images.union(exam.certified for exam in exams)
    return Exam(fell, fell | Images.common(exam.decided for exam in exams), 0, members, held)


def by_condition(cells: Mapping[str, Outcome], *, detailed: bool) -> Evidence:
    """The evidence of some weights under corruptions: how many stand of the first images that were asked."""
    found = {}
    for condition, cell in cells.items():
        n = cell.asked.first
        found[condition] = (n - cell.fell.among(n), n)
    return Evidence(conditions=found, detailed=detailed)
