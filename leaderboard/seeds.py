"""Several seeds of one defense: their mean, and how far they scatter."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

from leaderboard.arithmetic import Number, Spent
from leaderboard.doubts import Doubt
from leaderboard.rows import CLEAN, Head, Maker, Row
from leaderboard.words import natural

if TYPE_CHECKING:
    from bench import Record


@dataclass(frozen=True)
class Spread:
    """What the seeds of a group say in one column: the mean of their accuracies, and its scatter.

    A seed that is not decided counts with its upper bound; then the mean is a bound too, and has no deviation.
    """

    values: tuple[Fraction, ...]  # an accuracy a seed
    decided: int  # of these seeds
    n: int  # images, of the seed that has fewest
    most: int  # and of the one that has most

    @property
    def seeds(self) -> int:
        """How many it is the mean over."""
        return len(self.values)

    @property
    def bound(self) -> bool:
        """Whether the true mean is this or less."""
        return self.decided < self.seeds

    @property
    def accuracy(self) -> float:
        """The mean, rounded once: it equals that of a row where the two are equal."""
        return float(statistics.mean(self.values))

    @property
    def sd(self) -> float | None:
        """The sample standard deviation (with n - 1) over the seeds: of two or more, all decided; else None."""
        return None if self.bound or self.seeds < 2 else float(statistics.stdev(self.values))

    @property
    def interval(self) -> tuple[float, float]:
        """One deviation to either side, within 0 and 1: what was seen, no statement about other seeds."""
        mean, sd = self.accuracy, self.sd
        return (0.0, mean) if sd is None else (max(0.0, mean - sd), min(1.0, mean + sd))


@dataclass(frozen=True, eq=False)
class Group:
    """The rows of one defense, net, data set and threat, and of the same of its weights, that differ in their seed."""

    which: str  # best, last, or best = last where that holds for every seed
    rows: tuple[Row, ...]  # two or more, by their seed
    numbers: Mapping[str, Spread]  # by column; a column that no seed was asked is absent
    summary: Spread | None

    @property
    def maker(self) -> Maker:
        """What the seeds have in common."""
        first = self.rows[0].maker
        return Maker(first.defense, None, self.which, first.training)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The training seeds, in order."""
        return tuple(row.maker.seed or 0 for row in self.rows)

    @property
    def net(self) -> str:
        """The net of every row."""
        return self.rows[0].net

    @property
    def records(self) -> tuple[Record, ...]:
        """Those of all rows."""
        return tuple(record for row in self.rows for record in row.records)

    @property
    def tier(self) -> str:
        """That of the row that was checked least."""
        return min(row.tier for row in self.rows)  # measured comes before verified

    @property
    def weights(self) -> str:
        """Its first row's, which only serve to put groups in order."""
        return self.rows[0].weights

    @cached_property
    def n(self) -> int:
        """The most images behind a number of it."""
        return max(row.n for row in self.rows)

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of its rows, each once."""
        return tuple(dict.fromkeys(note for row in self.rows for note in row.notes))

    @property
    def trusted(self) -> bool:
        """Whether every row may be ranked: a mean with a number that lies is no better."""
        return all(row.trusted for row in self.rows)

    @cached_property
    def before(self) -> Spread | None:
        """What summed it up before some of its rows were asked more; None where none was."""
        if all(row.before is None for row in self.rows):
            return None
        return _spread(self.rows, [row.before or row.summary for row in self.rows], True)

    @property
    def honesty(self) -> float | None:
        """The least of its rows' shares of images with honest gradients; None where none was measured."""
        return min((row.honesty for row in self.rows if row.honesty is not None), default=None)

    @property
    def zero(self) -> float:
        """The largest of its rows' shares of images with gradients that are exactly zero."""
        return max(row.zero for row in self.rows)

    @property
    def division(self) -> str:
        """That of its rows; where they differ, the one with fewest promises."""
        found = {row.division for row in self.rows}
        return next((name for name in ("open", "unchecked") if name in found), self.rows[0].division)

    @cached_property
    def doubts(self) -> tuple[Doubt, ...]:
        """The doubts of its rows, each once, with the seeds that it is about unless it is all of them."""
        seeds: dict[Doubt, list[int]] = {}
        for row in self.rows:
            for doubt in row.doubts:
                seeds.setdefault(doubt, []).append(row.maker.seed or 0)
        found = [
            d if len(which) == len(self.rows) else Doubt(f"{_named(which)}: {d.text}", d.attacks)
            for d, which in seeds.items()
        ]
        if len({row.maker.training.source for row in self.rows if row.maker.training}) > 1:
            found.append(Doubt("the defense's source changed between the seeds", ()))
        return tuple(found)

    @property
    def seconds(self) -> float:
        """The mean time of a training."""
        return statistics.mean(row.maker.training.cost.seconds for row in self.rows if row.maker.training)

    @property
    def spent(self) -> Spent:
        """The mean cost of a row."""
        each = [row.spent for row in self.rows]
        return Spent(
            round(statistics.mean(s.forwards for s in each)),
            round(statistics.mean(s.backwards for s in each)),
            round(statistics.mean(s.seconds for s in each), 6),
        )


def _named(seeds: Collection[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def lines(rows: Sequence[Row], heads: Sequence[Head]) -> tuple[Row | Group, ...]:
    """The lines of a section, the best first: a group where there are several seeds, else the row itself."""
    groups = [
        Group(which, alike, _numbers(alike, heads), _spread(alike, [r.summary for r in alike], True))
        for which, alike in _groups(rows)
    ]
    grouped = {id(row) for group in groups for row in group.rows}
    return tuple(sorted([*groups, *(row for row in rows if id(row) not in grouped)], key=rank))


def first_seed(line: Row | Group) -> Row:
    """The row itself, or of a group the one with the smallest seed, whatever its numbers are."""
    return line.rows[0] if isinstance(line, Group) else line


def rank(line: Row | Group) -> tuple[Any, ...]:
    """The best first; lines with no more than an upper bound come after those that are decided.

    Those that are not trusted come last of all.
    """
    summary, clean = line.summary, line.numbers.get(CLEAN)
    return (
        not line.trusted, summary is None, summary is not None and summary.bound,
        -summary.accuracy if summary else 0.0, -clean.accuracy if clean else 0.0,
        natural(line.maker.defense), natural(line.net), line.maker.seed or 0, line.maker.which, line.weights,
    )  # fmt: skip


def _groups(rows: Sequence[Row]) -> Iterator[tuple[str, tuple[Row, ...]]]:
    """The rows that differ in their seed alone, by seed, and which of their weights they are.

    Where the best weights are the last ones for some seeds only, those seeds belong to the best as to the last.
    """
    alike: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if (made := row.maker.training) is not None:
            alike.setdefault((made.defense, row.net_key, made.train, made.val, made.threat), []).append(row)
    for found in alike.values():
        kinds = {row.maker.which for row in found}
        for which in sorted(kinds & {"best", "last"} or kinds):
            members = _one_a_seed([r for r in found if r.maker.which == which or r.maker.which not in {"best", "last"}])
            if len(members) > 1:
                yield which, tuple(members)


def _one_a_seed(rows: Sequence[Row]) -> list[Row]:
    """One row a seed, the one that was made first; by seed.

    A second training of a seed, on another machine, is no further seed; nor is one that gave the same weights, as
    that of a defense does which heeds no seed.
    """
    kept: dict[int, Row] = {}
    for row in sorted(rows, key=_age):
        if row.weights not in {other.weights for other in kept.values()}:
            kept.setdefault(row.maker.seed or 0, row)
    return list(kept.values())


def _age(row: Row) -> tuple[int, str, str]:
    return row.maker.seed or 0, row.maker.training.made if row.maker.training else "", row.weights


def _numbers(rows: Sequence[Row], heads: Sequence[Head]) -> dict[str, Spread]:
    found = {h.name: _spread(rows, [row.numbers.get(h.name) for row in rows], h.strict) for h in heads}
    return {name: spread for name, spread in found.items() if spread is not None}


def _spread(rows: Sequence[Row], numbers: Sequence[Number | None], strict: bool) -> Spread | None:
    """The numbers of one column together; None where there are none."""
    known = [x for x in numbers if x is not None]
    if not known:
        return None
    least, most = min(x.n for x in known), max(x.n for x in known)
    shares = [
        x.share if x is not None else _limit(row, strict, least, most) for row, x in zip(rows, numbers, strict=True)
    ]
    return Spread(tuple(shares), sum(not x.bound for x in known), least, most)


def _limit(row: Row, strict: bool, least: int, most: int) -> Fraction:
    """What a row that was not asked has at most: in a strict column no more than clean leaves of the same images."""
    clean = row.numbers.get(CLEAN)
    return clean.share if strict and clean is not None and clean.n == least == most else Fraction(1)
