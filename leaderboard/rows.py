"""The board as plain data: sections, and in them rows, of which several seeds of one defense are a group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from leaderboard.evidence import Evidence
from leaderboard.trust import Trust
from leaderboard.words import natural

if TYPE_CHECKING:
    from bench import Record, TrainingRecord
    from leaderboard.arithmetic import Number, Spent
    from leaderboard.certificates import Certificate
    from leaderboard.curves import Curve
    from leaderboard.doubts import Doubt
    from leaderboard.images import Images
    from leaderboard.rules import Rule
    from leaderboard.seeds import Group

OFFICIAL = "official/"  # before the name of a corruption whose images were published
CLEAN = "clean"  # the condition, the attack and the column of that name


@dataclass(frozen=True)
class Head:
    """A column of the board: its name, and what its numbers are the union (or the mean) of."""

    name: str
    of: tuple[str, ...]  # attacks; conditions where the board is over corruptions
    strict: bool = True
    first: int = 0  # it is about so many of the first test images; 0 is all
    common: bool = True  # whether at least half of the rows were asked: what others leave open does not open `worst`


@dataclass(frozen=True)
class Maker:
    """Where weights come from: a training and which of its weights, or nothing that is known."""

    defense: str  # as a person would write it, or the weights' hash
    seed: int | None = None
    which: str = ""  # best, last, or best = last
    training: TrainingRecord | None = None


@dataclass(frozen=True)
class Row:
    """One training's weights on one exam."""

    maker: Maker
    net: str
    net_key: str
    weights: str
    notes: tuple[str, ...]  # where it was trained for another threat or on another data set
    numbers: Mapping[str, Number]  # by column; a column that was not asked is absent
    summary: Number | None
    spent: Spent  # on all records of the row, each counted once
    doubts: tuple[Doubt, ...]
    curves: Mapping[str, Curve]  # by column; of minimum-norm attacks
    fell: Images | None = None  # the images that its summary counts as fallen; None where that is a mean
    records: tuple[Record, ...] = ()  # all that it rests on
    evidence: Evidence = field(default_factory=Evidence, compare=False)  # follows from the same records
    spoilt: tuple[Images, ...] = ()  # where its summary is a mean: what fell under each condition, if all are known
    certificate: Certificate | None = None  # what is proven of it; None where nobody tried
    tier: str = "measured"  # or verified, where all its records were recounted
    trust: Trust = field(default_factory=Trust)  # whether its number may be believed
    rules: tuple[Rule, ...] = ()  # of the closed division, and what its records say of them
    division: str = "unchecked"  # which rows it competes with

    @property
    def trusted(self) -> bool:
        """Whether it may be ranked."""
        return self.trust.trusted

    @property
    def before(self) -> Number | None:
        """What summed it up before it was asked more; None where it was not."""
        return self.trust.before

    @property
    def honesty(self) -> float | None:
        """The share of images at which its gradients are the slopes of its answers."""
        return self.trust.honesty

    @property
    def zero(self) -> float:
        """The share of images at which they are exactly zero, and say nothing."""
        return self.trust.zero

    @cached_property
    def n(self) -> int:
        """The most images behind a number of it."""
        return max((x.n for x in self.numbers.values()), default=0)


@dataclass(frozen=True)
class Section:
    """The rows that can be compared: one data set, threat and condition; or all corruptions of it."""

    dataset: str
    test: str
    threat: str | None
    condition: str
    heads: tuple[Head, ...]
    summary: str  # what sums a row up: "worst", "mean", or "" where nothing does
    rows: tuple[Row, ...]
    lines: tuple[Row | Group, ...]  # the rows, where several seeds of one defense are a group; the best first
    available: int | None  # images of the test part, where its card is known

    @property
    def heading(self) -> tuple[str, str, str]:
        """Data set, threat and condition, and of a corruption whether its images are published ones."""
        said = self.condition
        if said != CLEAN:
            said = f"{said.removeprefix(OFFICIAL)}, {'official' if said.startswith(OFFICIAL) else 'generated'}"
        return self.dataset, self.threat or "no threat", said

    @cached_property
    def nets(self) -> tuple[str, ...]:
        """The nets of its rows."""
        return tuple(sorted({row.net for row in self.rows}, key=natural))

    @cached_property
    def n(self) -> int:
        """The most images behind a number of it."""
        return max((row.n for row in self.rows), default=0)


@dataclass(frozen=True)
class Board:
    """What the ledger says, and which software and machines it has it from."""

    sections: tuple[Section, ...]
    records: int
    trainings: int
    commits: tuple[str, ...]
    versions: tuple[tuple[str, tuple[str, ...]], ...]
    machines: tuple[str, ...]
    made: tuple[str, str] | None  # the first and the last time in the records
    damaged: tuple[str, ...] = ()  # a sentence for each file of the ledger that was skipped

    @property
    def made_by(self) -> tuple[TrainingRecord, ...]:
        """The trainings behind the rows, each once, in the order of the sections and of defenses in them."""
        found = {
            named(t): t
            for section in self.sections
            for t in sorted((r.maker.training for r in section.rows if r.maker.training), key=_by_name)
        }
        return tuple(found.values())


def place(section: Section) -> tuple[str, str, str]:
    """What tells boards apart: test part, threat and condition."""
    return section.test, section.threat or "", section.condition


def named(training: TrainingRecord) -> tuple[Any, ...]:
    """What tells trainings apart: the key, and the weights, for one may have been done on two machines."""
    return (training.key, *sorted(training.weights.items()))


def _by_name(training: TrainingRecord) -> tuple[Any, ...]:
    return natural(training.label), training.defense, training.seed, training.key, training.made
