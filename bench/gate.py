"""The gate finds models that are less robust than in the baseline, by more than is tolerated and chance explains.

Models are matched by their name (defense, net, data, threat, seed, best or last), not by their weights, which differ;
columns by their attacks, test part, condition and threat.  Where both sides have two seeds or more the question is
about the method over seeds, else about these weights on these images; every comparison says which.  A sequential gate
may be asked again whenever more images are there: it is about each of the weights on images like these.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from bench.errors import UsageError
from bench.paired import drop_on_images, drop_over_seeds, smallest_on_images
from bench.records import DatasetCard
from bench.sequential import Evidence, comes_sorted, evidence, first_at, smallest_settled
from bench.standing import Cost, Standing, Standings, by_name
from bench.stats import holm
from bench.trust import lies

if TYPE_CHECKING:
    from bench.ledger import Ledger

# `no worse` and `go on` are a sequential gate's; `not trusted`: nothing dropped, but a new doubt says that it lies.
Verdict = Literal["held", "inconclusive", "regressed", "not trusted", "no worse", "go on"]
REGRESSION, INCONCLUSIVE = 3, 4  # exit codes


@dataclass(frozen=True)
class Rules:
    """What is asked of the gate.  max_drop: points of accuracy; alpha: of a false alarm in any of its comparisons."""

    max_drop: float = 0.0
    alpha: float = 0.05
    strict: bool = False
    no_doubts: bool = False
    sequential: bool = False
    max_cost_rise: float | None = None  # percent; None: costs are not gated
    forbidden: tuple[str, ...] = ()  # parts of doubts that fail

    @property
    def margin(self) -> float:
        """The tolerated drop as a share of 1."""
        return self.max_drop / 100

    def forbids(self, doubt: str) -> bool:
        """Whether a doubt fails: all do, or those that are named."""
        return self.no_doubts or any(words.casefold() in doubt.casefold() for words in self.forbidden)


@dataclass(frozen=True)
class Comparison:
    """One column of one model, or of one defense over seeds, before and now.  Accuracies and drops are shares of 1."""

    before: tuple[Standing, ...]  # one, or one a seed
    now: tuple[Standing, ...]
    n: int  # images that both sides have
    question: str  # which one was answered
    accuracy_before: float
    accuracy_now: float
    drop: float
    p_value: float
    smallest: float | None  # drop that would have been seen with 80 % power; None where no drop would
    lost: int | None = None  # images that stood before and fall now; None over seeds
    gained: int | None = None
    adjusted: float = 1.0  # the p-value for all comparisons together
    verdict: Verdict = "held"
    fewer: bool = False  # images than the baseline has
    planned: int = 0  # images that the baseline has
    settled_after: int | None = None  # so many of its first images settled it, in a sequential gate
    p_no_worse: float | None = None  # the p-value of the other side: of as much evidence while it is worse

    @property
    def name(self) -> str:
        """What is compared, for a person."""
        one = self.now[0]
        return str(one if len(self.now) == 1 else replace(one, model=one.model._replace(seed=None)))

    @property
    def lost_images(self) -> tuple[int, ...]:
        """The test images that stood before and fall now; none over seeds."""
        if self.lost is None:
            return ()
        return tuple(sorted(self.now[0].among_first(self.n) - self.before[0].among_first(self.n)))


@dataclass(frozen=True)
class Rise:
    """What a model costs before and now, in one currency."""

    name: str
    what: str  # the currency
    before: float
    now: float
    too_much: bool

    @property
    def percent(self) -> float:
        """How much more it is; infinite where it was nothing."""
        return 100 * (self.now / self.before - 1) if self.before else math.inf if self.now else 0.0


@dataclass(frozen=True)
class Report:
    """What the gate found."""

    rules: Rules
    comparisons: tuple[Comparison, ...]
    missing: tuple[Standing, ...]  # in the baseline, not here
    new: tuple[Standing, ...]  # here, not in the baseline
    older: tuple[Standing, ...]  # here and superseded by a later result of the same name
    doubts: tuple[tuple[str, str], ...]  # forbidden ones: of what, and which
    costs: tuple[Rise, ...] = ()  # of every model on both sides, where costs are gated
    fresh: tuple[tuple[str, str], ...] = ()  # doubts that the baseline does not have and that are not forbidden
    lying: tuple[tuple[str, str], ...] = ()  # doubts that say that a number lies, and that the baseline has too

    @property
    def regressed(self) -> tuple[Comparison, ...]:
        """What became worse."""
        return tuple(c for c in self.comparisons if c.verdict == "regressed")

    @property
    def inconclusive(self) -> tuple[Comparison, ...]:
        """What may have become worse, was asked on fewer images than before, or is not settled yet."""
        unsure = ("inconclusive", "go on")
        return tuple(c for c in self.comparisons if c.verdict in unsure or (c.fewer and c.verdict == "held"))

    @property
    def untrusted(self) -> tuple[Comparison, ...]:
        """What did not drop, by a number that a new doubt says is a lie."""
        return tuple(c for c in self.comparisons if c.verdict == "not trusted")

    @property
    def dearer(self) -> tuple[Rise, ...]:
        """What costs more than is tolerated."""
        return tuple(c for c in self.costs if c.too_much)

    @property
    def exit_code(self) -> int:
        """3 after a regression; 4 where nothing could be compared or trusted, or where --strict wants certainty."""
        if self.regressed or self.doubts or self.dearer:
            return REGRESSION
        unsure = (
            not self.comparisons
            or self.untrusted
            or (self.rules.strict and (self.inconclusive or self.missing or self.fresh))
        )
        return INCONCLUSIVE if unsure else 0


def compare(before: Standings, now: Standings, rules: Rules) -> Report:
    """Compare what is in both, and list what is in one."""
    sides = enumerate((before, now))
    pairs = list((_alike if rules.sequential else _pairs)(before.every, now.every))
    missing, new = (_without(side.every, [s for pair in pairs for s in pair[place]]) for place, side in sides)
    pairs = list(_distinct(pairs))
    # In a sequential gate what is missing may come yet: it counts from the first look on.
    count = len(pairs) + (len(missing) if rules.sequential else 0)
    level = rules.alpha / max(1, count)
    if rules.sequential:
        judged = _in_sequence([(b[0], a[0]) for b, a in pairs], rules, count)
    else:
        found = [
            _over_seeds(b, a, rules, level) if len(a) > 1 else _on_images(b[0], a[0], rules, level) for b, a in pairs
        ]
        adjusted = holm([c.p_value for c in found])
        judged = [replace(c, adjusted=p, verdict=_verdict(c, p, rules)) for c, p in zip(found, adjusted, strict=True)]
    known = {id(s): {doubt for b in c.before for doubt in b.doubts} for c in judged for s in c.now}
    doubted = {(s, doubt): doubt in known[id(s)] for c in judged for s in c.now for doubt in s.doubts}
    judged = [_believed(c) for c in judged]
    lying = tuple((str(s), doubt) for (s, doubt), old in doubted.items() if old and lies(doubt, s.column))
    forbidden = tuple((str(s), doubt) for s, doubt in doubted if rules.forbids(doubt))
    fresh = tuple((str(s), doubt) for (s, doubt), old in doubted.items() if not old and not rules.forbids(doubt))
    costs = () if rules.max_cost_rise is None else tuple(_rises(before.costs, now.costs, rules.max_cost_rise))
    return Report(rules, tuple(judged), missing, new, now.older, forbidden, costs, fresh, lying)


def check_order(report: Report, ledger: Ledger) -> None:
    """UsageError where test images come sorted by class: the first of them are no sample of all, at no look."""
    fewest_first = sorted(report.comparisons, key=lambda c: c.n)
    asked = {s.question.test: (s.dataset, c.n) for c in fewest_first for s in c.now}
    for card in ledger.all():
        if isinstance(card, DatasetCard) and card.key in asked:
            name, n = asked[card.key]
            if comes_sorted(card.labels[:n]):
                raise UsageError(
                    f"--sequential: the first {n:,} test images of {name} come sorted by class, so they say little of "
                    "those that follow; expected images in random order, or a gate without --sequential"
                )


def _verdict(c: Comparison, adjusted: float, rules: Rules) -> Verdict:
    if c.drop <= rules.margin + 1e-12:
        return "held"
    return "regressed" if adjusted <= rules.alpha else "inconclusive"


def _believed(c: Comparison) -> Comparison:
    """`not trusted` where a doubt that the baseline does not have says that the number of now lies."""
    known = {doubt for b in c.before for doubt in b.doubts}
    new = any(lies(doubt, s.column) for s in c.now for doubt in s.doubts if doubt not in known)
    return replace(c, verdict="not trusted") if new and c.verdict != "regressed" else c


def _without(every: Sequence[Standing], matched: Sequence[Standing]) -> tuple[Standing, ...]:
    """The standings that were not matched, by their own name or by another of the same weights."""
    seen = set(map(_apart_from_which, matched))
    left = {_apart_from_which(s): s for s in reversed(every)}  # each once, where best and last are the same
    return tuple(s for name, s in reversed(left.items()) if name not in seen)


def _apart_from_which(s: Standing) -> tuple[object, ...]:
    return s.model._replace(which=""), s.weights, s.question


Pair = tuple[tuple[Standing, ...], tuple[Standing, ...]]


def _pairs(before: Sequence[Standing], now: Sequence[Standing]) -> Iterator[Pair]:
    """What is compared with what: a defense's seeds at once where both sides have two or more, else each by its name.

    Of seeds those that both sides have are compared; where they have none in common, all.
    """
    groups: dict[object, Pair] = {}
    for place, side in enumerate((before, now)):
        for s in side:
            key = (s.model._replace(seed=None), s.question)
            pair = groups.get(key, ((), ()))
            groups[key] = (pair[0], (*pair[1], s)) if place else ((*pair[0], s), pair[1])
    for old, new in groups.values():
        partner = by_name(old)
        same = tuple(s for s in new if s.name in partner)
        twins = tuple(partner[s.name] for s in same)
        if min(_several(twins), _several(same)) > 1:
            yield twins, same
        elif not same and min(_several(old), _several(new)) > 1:
            yield old, new
        else:
            yield from (((b,), (a,)) for b, a in zip(twins, same, strict=True))


def _alike(before: Sequence[Standing], now: Sequence[Standing]) -> Iterator[Pair]:
    """What has one name on both sides, seed by seed."""
    partner = by_name(before)
    yield from (((partner[s.name],), (s,)) for s in now if s.name in partner)


def _several(standings: Sequence[Standing]) -> int:
    """How many seeds gave weights of their own."""
    return len({s.weights for s in standings})


def _distinct(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """Each comparison once: where the best weights are the last ones they have two names."""
    seen = set()
    for old, new in pairs:
        name = (
            new[0].question, new[0].model._replace(which="", seed=None),
            tuple(s.weights for s in old), tuple(s.weights for s in new),
        )  # fmt: skip
        if name not in seen:
            seen.add(name)
            yield old, new


def _on_images(before: Standing, now: Standing, rules: Rules, level: float) -> Comparison:
    found = _counted(before, now)
    lost, gained = found.lost or 0, found.gained or 0
    return replace(
        found, p_value=drop_on_images(lost, gained, found.n, rules.margin),
        smallest=smallest_on_images(gained, found.n, level, rules.margin),
    )  # fmt: skip


def _counted(before: Standing, now: Standing) -> Comparison:
    """What changed on the images that both have, not judged yet."""
    n = min(before.n, now.n)
    fell_before, fell_now = before.among_first(n), now.among_first(n)
    lost, gained = len(fell_now - fell_before), len(fell_before - fell_now)
    return Comparison(
        (before,), (now,), n, "these weights on these images", 1 - len(fell_before) / n, 1 - len(fell_now) / n,
        (lost - gained) / n, 1.0, None, lost, gained, fewer=now.n < before.n, planned=before.n,
    )  # fmt: skip


def _in_sequence(pairs: Sequence[tuple[Standing, Standing]], rules: Rules, count: int) -> list[Comparison]:
    """What is settled: the evidence may be looked at as often as one likes, with more and more images.

    `Regressed` is wrong of any of `count` comparisons with a chance of alpha (Holm's procedure holds at any stop: its
    p-values only fall).  `No worse` is wrong of each with that chance, so it is wrong of all at once no more often.
    """
    looks = [_look(b, a, rules.margin) for b, a in pairs]
    adjusted = holm([look.p_worse for look in looks] + [1.0] * (count - len(looks)))
    worse: list[int | None] = [None] * len(looks)
    for rank, place in enumerate(sorted(range(len(looks)), key=lambda i: looks[i].p_worse)):
        worse[place] = first_at(looks[place].worse, rules.alpha / (count - rank))
        if worse[place] is None:
            break
    made = []
    for (before, now), look, p, fallen in zip(pairs, looks, adjusted, worse, strict=False):
        plain = _counted(before, now)
        same = before.weights == now.weights and plain.lost == plain.gained == 0
        held = 0 if same else first_at(look.no_worse, rules.alpha)
        verdict: Verdict = "go on"
        if fallen is not None or held is not None:  # what was settled first stays so
            verdict = "regressed" if held is None or (fallen is not None and fallen <= held) else "no worse"
        made.append(replace(
            plain, question="these weights on images like these, at any look", p_value=look.p_worse, adjusted=p,
            p_no_worse=0.0 if same else look.p_no_worse, verdict=verdict,
            settled_after={"regressed": fallen, "no worse": held}.get(verdict),
            smallest=smallest_settled(plain.gained or 0, plain.n, rules.alpha / count, rules.margin),
        ))  # fmt: skip
    return made


def _look(before: Standing, now: Standing, margin: float) -> Evidence:
    """The evidence of the images that both sides have, in test order."""
    n = min(before.n, now.n)
    lost = [i in now.fell and i not in before.fell for i in range(n)]
    gained = [i in before.fell and i not in now.fell for i in range(n)]
    return evidence(lost, gained, margin)


def _over_seeds(before: Sequence[Standing], now: Sequence[Standing], rules: Rules, level: float) -> Comparison:
    n = min(s.n for s in (*before, *now))
    old, new = ({s.model.seed: 1 - len(s.among_first(n)) / n for s in side} for side in (before, now))
    paired = old.keys() == new.keys()
    seeds = sorted(new, key=lambda seed: seed or 0)
    values = [old[s] for s in seeds] if paired else list(old.values())
    test = drop_over_seeds(values, [new[s] for s in seeds], n, rules.margin, paired=paired)
    smallest = test.smallest(level)
    kind = "paired by seed" if paired else "with other seeds"
    return Comparison(
        tuple(before), tuple(now), n, f"the method over {len(seeds)} seeds, {kind}",
        statistics.mean(values), statistics.mean(new.values()), test.drop, test.p_value,
        smallest if smallest <= 1 else None, fewer=n < min(s.n for s in before), planned=min(s.n for s in before),
    )  # fmt: skip


def _rises(before: Sequence[Cost], now: Sequence[Cost], most: float) -> Iterator[Rise]:
    """What each model costs, before and now, where both sides know: a mean over the seeds that both have, or all."""
    for name in dict.fromkeys(c.method for c in now):
        old, new = ([c for c in side if c.method == name] for side in (before, now))
        same = {c.seed for c in old} & {c.seed for c in new}
        if same:
            old, new = ([c for c in side if c.seed in same] for side in (old, new))
        for what in Cost.CURRENCIES:
            values = [[v for c in side if (v := getattr(c, what)) is not None] for side in (old, new)]
            if all(values):
                was, is_ = map(statistics.mean, values)
                # As whole numbers, so that 10 % more of 1,000 is 1,100 and no rounding of a share decides.
                yield Rise(new[0].called, Cost.CURRENCIES[what], was, is_, 100 * is_ > (100 + most) * was + 1e-6)
