"""The gate finds models that are less robust than in the baseline, by more than is tolerated and chance explains.

Models are matched by their name (defense, net, data, threat, seed, best or last), not by their weights, which differ;
columns by their attacks, test part, condition and threat.  Where both sides have two seeds or more the question is
about the method over seeds, else about these weights on these images; every comparison says which.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bench.paired import drop_on_images, drop_over_seeds, smallest_on_images
from bench.standing import Standing, Standings, by_name
from bench.stats import holm

Verdict = Literal["held", "inconclusive", "regressed"]
REGRESSION, INCONCLUSIVE = 3, 4  # exit codes


@dataclass(frozen=True)
class Rules:
    """What is asked of the gate.  max_drop: points of accuracy; alpha: of a false alarm in any of its comparisons."""

    max_drop: float = 0.0
    alpha: float = 0.05
    strict: bool = False
    no_doubts: bool = False

    @property
    def margin(self) -> float:
        """The tolerated drop as a share of 1."""
        return self.max_drop / 100


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

    @property
    def name(self) -> str:
        """What is compared, for a person."""
        one = self.now[0]
        return str(one if len(self.now) == 1 else replace(one, model=one.model._replace(seed=None)))


@dataclass(frozen=True)
class Report:
    """What the gate found."""

    rules: Rules
    comparisons: tuple[Comparison, ...]
    missing: tuple[Standing, ...]  # in the baseline, not here
    new: tuple[Standing, ...]  # here, not in the baseline
    older: tuple[Standing, ...]  # here and superseded by a later result of the same name
    doubts: tuple[tuple[str, str], ...]  # forbidden ones: of what, and which

    @property
    def regressed(self) -> tuple[Comparison, ...]:
        """What became worse."""
        return tuple(c for c in self.comparisons if c.verdict == "regressed")

    @property
    def inconclusive(self) -> tuple[Comparison, ...]:
        """What may have become worse, or was asked on fewer images than before."""
        return tuple(c for c in self.comparisons if c.verdict == "inconclusive" or (c.fewer and c.verdict == "held"))

    @property
    def exit_code(self) -> int:
        """3 after a regression; 4 where nothing could be compared, or where --strict wants certainty."""
        if self.regressed or self.doubts:
            return REGRESSION
        unsure = not self.comparisons or (self.rules.strict and (self.inconclusive or self.missing))
        return INCONCLUSIVE if unsure else 0


def compare(before: Standings, now: Standings, rules: Rules) -> Report:
    """Compare what is in both, and list what is in one."""
    sides = enumerate((before, now))
    pairs = list(_pairs(before.every, now.every))
    missing, new = (_without(side.every, [s for pair in pairs for s in pair[place]]) for place, side in sides)
    pairs = list(_distinct(pairs))
    level = rules.alpha / max(1, len(pairs))
    found = [_over_seeds(b, a, rules, level) if len(a) > 1 else _on_images(b[0], a[0], rules, level) for b, a in pairs]
    adjusted = holm([c.p_value for c in found])
    judged = tuple(replace(c, adjusted=p, verdict=_verdict(c, p, rules)) for c, p in zip(found, adjusted, strict=True))
    gated = {id(s): s for c in judged for s in c.now}.values()
    forbidden = [(str(s), doubt) for s in gated for doubt in s.doubts] if rules.no_doubts else []
    return Report(rules, judged, missing, new, now.older, tuple(forbidden))


def _verdict(c: Comparison, adjusted: float, rules: Rules) -> Verdict:
    if c.drop <= rules.margin + 1e-12:
        return "held"
    return "regressed" if adjusted <= rules.alpha else "inconclusive"


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
    n = min(before.n, now.n)
    fell_before, fell_now = before.among_first(n), now.among_first(n)
    lost, gained = len(fell_now - fell_before), len(fell_before - fell_now)
    return Comparison(
        (before,), (now,), n, "these weights on these images", 1 - len(fell_before) / n, 1 - len(fell_now) / n,
        (lost - gained) / n, drop_on_images(lost, gained, n, rules.margin),
        smallest_on_images(gained, n, level, rules.margin), lost, gained, fewer=now.n < before.n,
    )  # fmt: skip


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
        smallest if smallest <= 1 else None, fewer=n < min(s.n for s in before),
    )  # fmt: skip
