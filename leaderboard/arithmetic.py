"""Set arithmetic on outcomes: from records to cells, and from cells to the numbers of the board."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from bench import reached, wilson
from leaderboard.images import Images

if TYPE_CHECKING:
    from bench import Record, ThreatModel


_wilson = lru_cache(maxsize=1 << 16)(wilson)


class Place(NamedTuple):
    """A cell but for its attack seed and precision."""

    test: str
    net: str
    condition: str
    threat: str | None
    weights: str
    attack: str


@dataclass(frozen=True)
class Spent:
    """What records cost together: passes counted in images, and seconds."""

    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0

    @classmethod
    def of(cls, records: Iterable[Record]) -> Spent:
        """The sum over records, each counted once."""
        costs = [r.cost for r in {id(r): r for r in records}.values()]
        if len(costs) == 1:  # as of most cells, of which there are many
            return cls(costs[0].forwards, costs[0].backwards, round(costs[0].seconds, 6))
        # fsum does not depend on the order, in which two merged ledgers may differ.
        seconds = round(math.fsum(c.seconds for c in costs), 6)
        return cls(sum(c.forwards for c in costs), sum(c.backwards for c in costs), seconds)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What all records of one cell say together: the union of what they asked, and fallen wins."""

    records: tuple[Record, ...]
    distance: Mapping[int, float] | None = None  # of each image asked, where a minimum-norm attack measured it
    limit: float = math.inf  # which distances count as fallen
    first: float = math.inf  # only so many of the first test images count

    def within(self, threat: ThreatModel) -> Outcome:
        """The same, where only what fell in this ball has fallen."""
        return self if self.distance is None else replace(self, limit=threat.limit)

    @cached_property
    def asked(self) -> Images:
        """The images that some record asked."""
        return self._counted(_union(self.records, "asked"))

    @cached_property
    def fell(self) -> Images:
        """The images that fell in some record, or within the limit."""
        if self.distance is not None:
            within = Images(i for i, d in self.distance.items() if d < math.inf and d <= self.limit)
        else:
            within = _union(self.records, "fell")
        return self._counted(within)

    def _counted(self, images: Images) -> Images:
        return images if self.first == math.inf else images & Images.below(int(self.first))

    @property
    def seed(self) -> int:
        """The attack seed."""
        return self.records[0].seed


def _union(records: Sequence[Record], what: Literal["asked", "fell"]) -> Images:
    """What the records asked or felled together."""
    if len(records) == 1:
        return Images(getattr(records[0], what))
    return Images.union(Images(getattr(r, what)) for r in records)


def outcomes(
    records: Iterable[Record], distances: Callable[[Record], Mapping[int, float]], first: float = math.inf
) -> dict[Place, Outcome]:
    """The outcome of every cell; of those that differ only in their attack seed, the smallest seed's.

    Of those that differ only in their precision it is the exact one's.  first: only so many of the first test images
    count; records of others alone are left out.
    """
    cells: dict[Place, dict[tuple[str, int], list[Record]]] = {}
    for r in records if first == math.inf else (r for r in records if min(r.asked) < first):
        place = Place(r.test, r.net, r.condition, r.threat, r.weights, r.attack)
        cells.setdefault(place, {}).setdefault((r.precision, r.seed), []).append(r)
    return {
        place: replace(_outcome(place, seeds[min(seeds)], distances), first=first) for place, seeds in cells.items()
    }


def _outcome(place: Place, records: Sequence[Record], distances: Callable[[Record], Mapping[int, float]]) -> Outcome:
    if place.threat is None or ":" in place.threat:
        return Outcome(tuple(records))
    least: dict[int, float] = {}
    for record in records:
        for image, d in distances(record).items():
            least[image] = min(d, least.get(image, math.inf))
    return Outcome(tuple(records), least)


@dataclass(frozen=True)
class Number:
    """An accuracy on the board: how many of the first n test images stand.

    bound: images that nobody has decided are counted as standing, so the true number is this or less.
    partial: on fewer images than clean was asked.  conditions: how many it is the mean over; `standing` is their sum.
    certified: how many of them are proven to stand, whatever the attack; None where nobody tried to prove it.
    """

    standing: int
    n: int
    bound: bool
    spent: Spent
    seeds: tuple[tuple[str, int], ...] = ()  # attack, attack seed
    partial: bool = False
    conditions: int = 1
    certified: int | None = None

    @property
    def share(self) -> Fraction:
        """The share that stands."""
        return Fraction(self.standing, self.n * self.conditions)

    @property
    def accuracy(self) -> float:
        """The same, as near as a float comes."""
        return self.standing / (self.n * self.conditions)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, at 95 %; of a bound only the upper end says something.

        A mean over conditions has the same images in each, and is as sure as one condition, not as their number.
        """
        low, high = _wilson(round(self.standing / self.conditions), self.n)
        return (0.0 if self.bound else low), high


@dataclass(frozen=True, eq=False)
class Exam:
    """What one column says of one set of weights: the images that fell, those decided, and the cells it rests on."""

    fell: Images
    decided: Images
    first: int  # the column is about so many of the first test images; 0 is all
    members: Mapping[str, Outcome]  # by attack; those that have a record
    certified: Images = field(default_factory=Images)  # proven to stand, so that no attack needs to be asked

    @property
    def spent(self) -> Spent:
        """What its records cost."""
        return Spent.of(r for m in self.members.values() for r in m.records)

    @property
    def seeds(self) -> tuple[tuple[str, int], ...]:
        """The attack seed of each attack."""
        return tuple((attack, m.seed) for attack, m in sorted(self.members.items()))


def examine(
    attacks: Sequence[str], strict: bool, clean: Outcome | None, cells: Mapping[str, Outcome], limit: int = 0,
    certified: Images | None = None,
) -> Exam:  # fmt: skip
    """The union of a column's attacks.

    An image is decided if one of them felled it, or all were asked about it; in a strict column also if it was
    lost to begin with, and always if it is certified to stand.
    """
    held = certified or Images()
    members = {a: cells[a] for a in attacks if a in cells}
    fell = Images.union(m.fell for m in members.values())
    if strict and clean is not None:
        fell |= clean.fell
    whole = attacks and len(members) == len(set(attacks))
    decided = fell | Images.common(m.asked for m in members.values()) if whole else fell
    decided |= held
    if limit:
        fell, decided, held = (images & Images.below(limit) for images in (fell, decided, held))
    return Exam(fell, decided, limit, members, held)


def count(exam: Exam, clean: Outcome | None) -> Number | None:
    """A column's number on the first n test images, where n is as many as its attacks went through."""
    all_asked = clean.asked.first if clean is not None else 0
    asked = min(all_asked, exam.first or all_asked)
    # The member that went least far sets the reach: others may have gone further for another column's sake.
    reach = min((m.asked.end for m in exam.members.values()), default=0)
    reach = min(reach, exam.first or reach)
    decided, spent = exam.decided.first, exam.spent
    known = (exam.fell | exam.certified).among(decided)  # whatever any attack was asked
    n = reached(decided, known, reach, asked)
    if n is None:
        if not (asked and reach):
            return None
        standing = asked - exam.fell.among(asked)
        return Number(standing, asked, True, spent, exam.seeds, partial=asked < all_asked)
    return Number(n - exam.fell.among(n), n, False, spent, exam.seeds, partial=n < all_asked) if n else None


def worst(exams: Sequence[Exam], clean: Outcome | None, others: Sequence[Exam] = ()) -> Number | None:
    """The number of all these columns together, on the images that clean was asked, or as many as all went through.

    It is an upper bound where one of these images stands that some column has not decided; a column that is about
    the first images only has nothing to say of the others.  Of `others` only what fell counts.
    """
    n = clean.asked.first if clean is not None else max((e.decided.first for e in exams), default=0)
    if not exams or n == 0:
        return None
    fell = Images.union(e.fell for e in (*exams, *others))
    whole = Images.below(n)
    decided = fell | Images.common(e.decided | (whole - Images.below(e.first)) if e.first else e.decided for e in exams)
    spent = Spent.of(r for e in (*exams, *others) for m in e.members.values() for r in m.records)
    reach, first = min(_reach(e, n) for e in exams), decided.first
    known = Images.union([fell, *(e.certified for e in exams)]).among(first)
    m = reached(first, known, reach, n)
    if m is not None and first < n:
        return Number(m - fell.among(m), m, False, spent, partial=True)
    return Number(n - fell.among(n), n, first < n, spent)


def _reach(exam: Exam, n: int) -> int:
    """Among the first n images, how far the member of a column came that came least far; n where it has no more."""
    reach = min((m.asked.end for m in exam.members.values()), default=0)
    return n if exam.first and reach >= exam.first else min(reach, n)


def mean(cells: Sequence[Outcome]) -> Number | None:
    """The mean clean accuracy of some weights over conditions, on the images that all of them asked."""
    n = min((c.asked.first for c in cells), default=0)
    if n == 0:
        return None
    standing = sum(n - c.fell.among(n) for c in cells)
    partial = n < max(c.asked.first for c in cells)
    spent = Spent.of(r for c in cells for r in c.records)
    return Number(standing, n, False, spent, partial=partial, conditions=len(cells))
