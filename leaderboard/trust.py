"""Whether a row's number may be believed: what the checks found, which attacks that calls for, and what they did.

A model that raises a doubt is asked more, by the doubt's probe.  Where the probe was asked about every image that
`worst` is about, `worst` counts what it felled, and the row is ranked by that.  Else, and where no attack can settle
the doubt, the row is not trusted: it keeps its numbers and has no rank.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from bench import REASONS, CheckRecord, code_of, distrusts, is_stale
from leaderboard.images import Images
from leaderboard.words import name_of

if TYPE_CHECKING:
    from bench import ColumnCard, Contradiction, Record
    from leaderboard.arithmetic import Exam, Number
    from leaderboard.rows import Head

State = Literal["settled", "open", "for good", "told"]
NAMED = 12  # images that a page names
HIDDEN = {"masked", "single-step"}  # of doubts between attacks: those that say that all of them may find too little
BLIND = "probe-blind"  # beside it, images of another model are tried too
POINTS = 0.02  # the share of the images from which on they count
HONESTY, ZERO = "gradient_honesty", "zero_gradients_of_margin"  # figures of the checks


@dataclass(frozen=True)
class Finding:
    """A doubt about a model, with its evidence and what became of it.

    settled: its probe was asked, and `worst` counts what fell; open: it was not, or not to the end; for good: no
    attack can settle it; told: it does not say that the number lies.
    """

    code: str  # empty where this version does not know it
    text: str
    state: State
    asked: str = ""  # the probe that it calls for; empty where none can help
    images: tuple[int, ...] = ()
    figures: tuple[tuple[str, float], ...] = ()
    what: str = ""
    grave: bool = True  # whether it says that the number lies, until its probe was asked

    @property
    def lies(self) -> bool:
        """Whether the number is not trusted since."""
        return self.state in {"open", "for good"}

    @property
    def why(self) -> str:
        """Why it matters."""
        return REASONS[self.code].why if self.code in REASONS else ""

    @property
    def mend(self) -> str:
        """What to do about it."""
        return REASONS[self.code].mend if self.code in REASONS else ""

    @property
    def outcome(self) -> str:
        """What became of it, in words."""
        match self.state:
            case "settled":
                return f"settled: {self.asked} was asked too, and worst counts what it felled"
            case "open":
                return f"open: {self.asked} was not asked about every image; bench run --escalate asks it"
            case "for good":
                return "no attack can settle it: not trusted until the model is mended"
            case _:
                return ""

    @property
    def evidence(self) -> str:
        """Figures, names and images, in words."""
        said = [self.what] if self.what else []
        said += [_figure(name, value) for name, value in self.figures]
        if self.images:
            more = f" and {len(self.images) - NAMED:,} more" if len(self.images) > NAMED else ""
            noun = "image" if len(self.images) == 1 else "images"
            said.append(f"{noun} {', '.join(map(str, self.images[:NAMED]))}{more}")
        return "; ".join(said)


def _figure(name: str, value: float) -> str:
    """A figure in words; shares are percentages."""
    shown = f"{100 * value:.3g} %" if name.startswith("share") else f"{value:.3g}"
    return f"{name.replace('_', ' ')} {shown}"


@dataclass(frozen=True)
class Trust:
    """What is known of a row's model beside its numbers.  before: what summed it up without the probes."""

    findings: tuple[Finding, ...] = ()
    check: CheckRecord | None = None  # before any attack; none where it was not looked at
    before: Number | None = None  # None where no probe was asked

    @property
    def trusted(self) -> bool:
        """Whether no open doubt says that the number lies."""
        return not any(finding.lies for finding in self.findings)

    @cached_property
    def reasons(self) -> tuple[str, ...]:
        """Why it is not trusted."""
        return tuple(finding.text for finding in self.findings if finding.lies)

    @property
    def honesty(self) -> float | None:
        """The share of images at which the gradients are the slopes of the answers; None where it was not measured."""
        return self._share(HONESTY)

    @property
    def zero(self) -> float:
        """The share of images at which the margin's gradients are exactly zero, and so say nothing."""
        return self._share(ZERO) or 0.0

    def _share(self, name: str) -> float | None:
        """A figure of the checks; None where there is none, or a record holds what is no share."""
        found = None if self.check is None else self.check.figures.get(name)
        return found if found is not None and 0 <= found <= 1 else None


def probes(codes: Iterable[str]) -> frozenset[str]:
    """The columns that these doubts call for."""
    return frozenset(REASONS[code].probe for code in codes if code in REASONS and REASONS[code].probe)


def named(head: Head) -> frozenset[str]:
    """The names that a column goes by: equal ones are one column, and of different ones each has a piece of its key."""
    return frozenset(name.partition(" #")[0] for name in head.name.split(" = "))


def called_for(head: Head, called: Collection[str]) -> bool:
    """Whether a column was asked since a doubt called for it; by way of another model where gradients say nothing."""
    by_way = BLIND in called and all(name_of(attack) == "transfer" for attack in head.of)
    return by_way or not named(head).isdisjoint(called)


def of_the_exam(attacks: Iterable[str], cards: Iterable[ColumnCard], called: Collection[str]) -> frozenset[str]:
    """Those of some attacks that are not only there since a doubt called for them.

    That a probe finds more is what it is for: it raises no further doubt.
    """
    probing, asked = set[str](), set[str]()
    every = probes(REASONS)
    for card in cards:
        (probing if card.name in every else asked).update(card.attacks)
    left_out = probing - asked
    return frozenset(
        a for a in attacks if a not in left_out and not (BLIND in called and name_of(a) == "transfer")
    )  # fmt: skip


def raised(
    checks: Sequence[CheckRecord], records: Iterable[Record], beside: Iterable[Contradiction] = (), n: int = 0
) -> tuple[Finding, ...]:
    """The doubts about a model: those of its checks with their evidence, and what records say beside these.

    beside: what shows where its attacks are set side by side, on n images.

    Where it was checked, older records' words about what the checks look at are passed over: a newer version of these
    may know better.
    """
    found: dict[str, Finding] = {}
    for d in (d for check in checks for d in check.doubts):
        code = d.code if d.code in REASONS else code_of(d.text)
        found[code or d.text] = Finding(
            code, d.text, "told", _probe(code), tuple(sorted(d.images)),
            tuple(sorted((name, value) for name, value in d.figures.items() if math.isfinite(value))), d.what,
        )  # fmt: skip
    for text in dict.fromkeys(text for record in records for text in record.doubts):
        if (code := code_of(text)) and not is_stale(text, checks):
            found.setdefault(code, Finding(code, text, "told", _probe(code)))
    for c in beside:
        grave = c.code in HIDDEN and len(c.images) > POINTS * n
        found.setdefault(
            c.code, Finding(c.code, c.text, "told", _probe(c.code), c.images, what=", ".join(c.attacks), grave=grave)
        )
    return tuple(found.values())


def _probe(code: str) -> str:
    return REASONS[code].probe if code in REASONS else ""


def judged(
    findings: Sequence[Finding], exams: Mapping[Head, Exam], n: int, *, attacked: bool = True
) -> tuple[Finding, ...]:
    """Doubts with what became of them, by what the columns say of the first n images.

    attacked: whether the number is about attacks; of one that is not, only doubts that no attack settles say anything.
    """
    return tuple(_judged(finding, exams, n, attacked=attacked) for finding in findings)


def _judged(finding: Finding, exams: Mapping[Head, Exam], n: int, *, attacked: bool) -> Finding:
    if distrusts(finding.code):
        return replace(finding, state="for good")
    if not finding.asked or not attacked or not finding.grave:
        return finding
    return replace(finding, state="settled" if _decided(finding.asked, exams, n) else "open")


def _decided(probe: str, exams: Mapping[Head, Exam], n: int) -> bool:
    """Whether a column of this name is decided on the first n images, but for those that another column felled."""
    images = Images.below(n) - Images.union(exam.fell for head, exam in exams.items() if head.strict)
    if not images:  # nothing stands that it could be asked about
        return n > 0
    return any(
        head.strict and exam.members and images <= exam.decided
        for head, exam in exams.items() if probe in named(head)
    )  # fmt: skip


def without(heads: Sequence[Head], called: Collection[str], exams: Mapping[Head, Exam]) -> list[Head] | None:
    """The columns but the probes that were called for; None where none of these was asked, or nothing else was."""
    asked = [h for h in heads if called_for(h, called) and exams[h].members]
    others = [h for h in heads if not called_for(h, called)]
    return others if asked and any(exams[h].members for h in others) else None
