"""Replay: adversarial images that a baseline has found already are thrown at new weights, before any attack.

A pass an image, and whatever falls within ball and box bounds the new robust accuracy from above.  The images come from
all models of the baseline: those that felled the model's own old weights say little, since they are of images that had
fallen already; a drop shows where images of other models fell the new weights and not the old ones.  So the same images
are thrown at the old weights too, where the store has them, and both sides are the union of their column and these.

A bound that already proves a regression ends the gate.  Else what stands can be attacked, and nothing else, until a
regression is proved or every attack was asked: the answers are ordinary records of the column's cells, and `bench run`
later asks only the images that they leave.  Falls only add up, so a proof stays one, however early it is looked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from bench import bundles
from bench.answer import Question
from bench.errors import IncompleteError
from bench.evaluate import images, misread
from bench.exam import Cell, Condition
from bench.gate import Report, Rules, compare
from bench.official import corruption
from bench.outcomes import Outcome
from bench.place import THREADS
from bench.recipe import Attack
from bench.records import Record, TrainingRecord
from bench.request import passes
from bench.standing import Model, Standing, Standings
from bench.threat import ThreatModel
from bench.victim import be_exact

if TYPE_CHECKING:
    from bench.evaluate import Subject
    from bench.exam import Dataset
    from bench.ledger import Ledger
    from bench.place import Place
    from bench.recipe import Recipe
    from bench.verify import Datasets

Target = tuple[str, str]  # a net's key, and weights


@dataclass(frozen=True)
class Bound:
    """What a replay says of one column of one model: `now` is a lower bound on what falls."""

    recorded: Standing  # in the baseline
    before: Standing  # the same, and what fell of the old weights to the replay
    now: Standing
    net: str  # key of the new weights' net
    thrown: int  # images that the baseline has adversarial ones of, and that clean left standing
    forwards: int  # at the new weights, those on clean images included
    seconds: float
    fair: bool  # whether the old weights were there to be thrown at
    lacking: int  # bundles that the store does not have
    attacked: bool = False  # whether all the column's attacks were asked about what stood
    by: str = ""  # the last attack that was asked

    @property
    def survivors(self) -> tuple[int, ...]:
        """The images that still stand."""
        return tuple(i for i in range(self.now.n) if i not in self.now.fell)

    @property
    def most(self) -> float:
        """The share that stands at most."""
        return len(self.survivors) / self.now.n


@dataclass
class _Group:
    """Standings that the same images bound: of one test part, condition and threat."""

    wanted: list[tuple[Standing, Target, Target | None]] = field(default_factory=list)  # and new and old weights

    @property
    def n(self) -> int:
        return max(s.n for s, _, _ in self.wanted)

    @property
    def targets(self) -> list[Target]:
        return list(dict.fromkeys(t for _, new, old in self.wanted for t in (new, old) if t))


def replay(
    before: Standings, now: Standings, sources: Sequence[Ledger], place: Place, datasets: Datasets,
    report: Callable[[str], None] = lambda _: None,
) -> list[Bound]:  # fmt: skip
    """A bound for every column of the baseline whose model has new weights here that the column has not decided."""
    records = list({(r.key, r.bundle): r for r in _records(sources)}.values())
    groups: dict[tuple[str, str, str, str], _Group] = {}
    for standing, new, old in _wanted(before, now, records, place):
        q = standing.question
        groups.setdefault((q.test, q.condition, str(q.threat), standing.dataset), _Group()).wanted.append(
            (standing, new, old)
        )
    return [b for names, group in groups.items() for b in _bounds(names, group, records, place, datasets, report)]


def _records(sources: Sequence[Ledger]) -> Iterator[Record]:
    for ledger in sources:
        yield from (d for d in ledger.all() if isinstance(d, Record) and d.bundle and d.threat)


def _wanted(
    before: Standings, now: Standings, records: Sequence[Record], place: Place
) -> Iterator[tuple[Standing, Target, Target | None]]:
    """What can be bounded: a standing of the baseline, the new weights of its model, and the old where they are."""
    latest: dict[Model, tuple[str, Target]] = {}
    for t in place.ledger.all():
        if isinstance(t, TrainingRecord):
            for which, weights in t.weights.items():
                model = Model(t.label, t.net_label, t.dataset, t.threat, t.seed, which)
                latest[model] = max(latest.get(model, ("", ("", ""))), (t.made, (t.net, weights)))
    decided = {(s.name, s.weights) for s in now.every}
    nets = {r.weights: r.net for r in records}
    for s in before.every:
        _, new = latest.get(s.model, ("", None))
        if new is None or s.question.threat is None or new[1] == s.weights or (s.name, new[1]) in decided:
            continue
        old = (nets[s.weights], s.weights) if s.weights in nets and s.weights in place.store else None
        yield s, new, old


def _bounds(
    names: tuple[str, str, str, str], group: _Group, records: Sequence[Record], place: Place, datasets: Datasets,
    report: Callable[[str], None],
) -> Iterator[Bound]:  # fmt: skip
    """Throw all images that these standings have in common at all weights that they are about."""
    be_exact(THREADS)
    test, condition, threat, name = names
    started, dataset = time.perf_counter(), datasets.of(test, name)
    thrower = _Thrower(place, dataset, Condition.parse(condition), ThreatModel.parse(threat), group.n)
    for target in group.targets:
        thrower.add(target)
    norm = threat.partition(":")[0]
    fitting = [r for r in records if (r.test, r.condition, str(r.threat).partition(":")[0]) == (test, condition, norm)]
    own = {s.weights for s, _, _ in group.wanted}
    for count, record in enumerate(sorted(fitting, key=lambda r: (r.weights not in own, r.key)), 1):
        report(f"replay: {count} of {len(fitting)} bundles thrown at {len(group.targets)} models")
        thrower.throw(str(record.bundle))
    seconds = time.perf_counter() - started
    for s, new, old in group.wanted:
        now = frozenset(i for i in thrower.fell(new, strict=s.question.strict) if i < s.n)
        then = frozenset(i for i in thrower.fell(old, strict=s.question.strict) if i < s.n) if old else frozenset()
        yield Bound(
            s, replace(s, fell=s.fell | then), replace(s, weights=new[1], fell=now, doubts=()), new[0],
            sum(i < s.n for i in thrower.tried), thrower.forwards[new], seconds, old is not None, thrower.lacking,
        )  # fmt: skip


@dataclass
class _Thrower:
    """Some weights, and which of the first n images fell: clean, and to any image that was thrown."""

    place: Place
    dataset: Dataset
    condition: Condition
    threat: ThreatModel
    n: int
    subjects: dict[Target, Subject] = field(default_factory=dict)
    clean: dict[Target, set[int]] = field(default_factory=dict)
    taken: dict[Target, set[int]] = field(default_factory=dict)
    forwards: dict[Target, int] = field(default_factory=dict)
    tried: set[int] = field(default_factory=set)
    lacking: int = 0

    def __post_init__(self) -> None:
        spoilt = self.condition.corruption
        self.corruption = corruption(spoilt, self.place.registry, self.dataset) if spoilt else None

    def add(self, target: Target) -> None:
        """Weights to throw at; what they misread as it is has fallen."""
        self.subjects[target] = self.place.subject(*target, self.dataset.shape)
        self.clean[target], self.taken[target], self.forwards[target] = set(), set(), 0
        for ids in torch.arange(self.n).split(4 * self.subjects[target].tile):
            x, y = self._look(ids)
            self.clean[target] |= self._misread(target, ids, x, y)

    def throw(self, bundle: str) -> None:
        """Ask all weights about images of a bundle that lie in ball and box and have not fallen yet."""
        try:
            thrown = bundles.read(self.place.store, bundle, self.dataset.test)
        except IncompleteError:
            self.lacking += 1
            return
        for rows in torch.arange(len(thrown.ids)).split(512):
            rows = rows[thrown.ids[rows] < self.n]  # noqa: PLW2901  the first n alone
            ids, x_adv = thrown.ids[rows], thrown.images[rows].to(self.place.device)
            if not len(ids):
                continue
            x, y = self._look(ids)
            inside = self.threat.holds(bundles.distances(x_adv.cpu(), x.cpu(), self.threat))
            inside &= ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1).cpu()
            self.tried |= set(ids[inside].tolist())
            for target in self.subjects:
                fallen = self.taken[target] | self.clean[target]
                ask = inside & torch.tensor([i not in fallen for i in ids.tolist()])
                if ask.any():
                    there = ask.to(x.device)
                    self.taken[target] |= self._misread(target, ids[ask], x_adv[there], y[there])

    def fell(self, target: Target, *, strict: bool) -> set[int]:
        """What has fallen; a column that is not strict does not count what clean lost, unless it fell to an image."""
        return self.taken[target] | (self.clean[target] if strict else set())

    def _look(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images(self.dataset.test, ids, self.place.device, self.corruption, self.condition.severity)

    def _misread(self, target: Target, ids: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> set[int]:
        self.forwards[target] += len(ids)
        return set(ids[misread(self.subjects[target], x, y)[1].cpu()].tolist())


def attack(bound: Bound, place: Place, datasets: Datasets, report: Callable[[str], None]) -> Iterator[Bound]:
    """Ask the column's attacks about what the replay left standing, the cheapest first, each about what still stands.

    After each the bound is what is known then; the last one is no bound any more, but what the column says.
    """
    s, q = bound.now, bound.now.question
    dataset, recipe = datasets.of(q.test, s.dataset), datasets.recipe(q.test, s.dataset)
    threat, fell = ThreatModel.parse(str(q.threat)), set(s.fell)
    ordered = sorted((place.registry.parse("attack", key) for key in q.attacks), key=_by_passes(dataset))
    for one in ordered:
        assert isinstance(one.plugin, Attack)
        over = threat if one.plugin.goal == "in-ball" else threat.without_bound
        cell = Cell(bound.net, s.weights, q.test, q.condition, str(over), one.key, 0)
        known = Outcome.of(place.ledger, cell, s.n, threat).asked
        asked = tuple(i for i in range(s.n) if i not in fell and not known[i])
        report(f"{one} on {len(asked)} images that stand after the replay: {s}")
        if asked:
            Question(cell, asked, recipe.written, dataset.shape, patient=True).do(place)
        fell |= set(Outcome.of(place.ledger, cell, s.n, threat).fell.nonzero()[0].tolist())
        yield replace(bound, now=replace(s, fell=frozenset(fell)), attacked=one is ordered[-1], by=str(one))


def _cost(bound: Bound, place: Place, datasets: Datasets) -> int:
    """The passes of a column's attacks on an image that never falls."""
    of = _by_passes(datasets.of(bound.now.question.test, bound.now.dataset))
    return sum(of(place.registry.parse("attack", key)) for key in bound.now.question.attacks)


def _by_passes(dataset: Dataset) -> Callable[[Recipe], int]:
    return lambda recipe: sum(passes(recipe, dataset.shape))


def gate(
    before: Standings, now: Standings, rules: Rules, sources: Sequence[Ledger], place: Place, datasets: Datasets, *,
    then_attack: bool, report: Callable[[str], None],
) -> tuple[Report, list[Bound]]:  # fmt: skip
    """The gate's report, where replay decides what the ledger does not; a bound alone never says that a model held."""
    bounds = replay(before, now, sources, place, datasets, report)
    found = _compared(before, now, rules, bounds)
    cheapest_first = (
        sorted(range(len(bounds)), key=lambda at: _cost(bounds[at], place, datasets)) if then_attack else ()
    )
    for at in cheapest_first:
        for bound in attack(bounds[at], place, datasets, report) if not found.regressed else ():
            bounds[at] = bound
            found = _compared(before, now, rules, bounds)
            if found.regressed:
                break
    return found, bounds


def _compared(before: Standings, now: Standings, rules: Rules, bounds: Sequence[Bound]) -> Report:
    replayed = {b.recorded.name: b for b in bounds}
    old = tuple(replayed[s.name].before if s.name in replayed else s for s in before.every)
    kept = tuple(s for s in now.every if s.name not in replayed)
    report = compare(replace(before, every=old), replace(now, every=(*kept, *(b.now for b in bounds))), rules)
    open_ = {b.now.name for b in bounds if not b.attacked}

    def settled(names: Sequence[Standing], verdict: str) -> bool:
        # Over seeds a bound proves nothing: more falls may also widen the scatter.
        return not open_ & {s.name for s in names} or (len(names) == 1 and verdict == "regressed")

    comparisons = tuple(c for c in report.comparisons if settled(c.now, c.verdict))
    undecided = tuple(s for c in report.comparisons if not settled(c.now, c.verdict) for s in c.before)
    return replace(report, comparisons=comparisons, missing=(*report.missing, *undecided))


def sentences(report: Report, bounds: Sequence[Bound]) -> Iterator[str]:
    """What the replay found, for a person."""
    proved = {s.name for c in report.regressed for s in c.now}
    for b in bounds:
        share, was = 100 * b.most, 100 * (1 - len(b.before.fell) / b.before.n)
        done = (
            "it is a regression" if b.now.name in proved else "no proof of one" if not b.attacked else "it is decided"
        )
        attacks = f", and then the column's attacks up to {b.by}" if b.by else ""
        left = f"; {len(b.survivors):,} are left to attack (bench run, or --then-attack)"
        left = attacks if b.attacked or b.now.name in proved else attacks + left
        yield (
            f"Replay: {b.now}: at most {share:.2f} % of {b.now.n:,} images stand ({was:.2f} % before), after "
            f"{b.forwards:,} forwards in {b.seconds:.1f} s, with the baseline's images of {b.thrown:,}{left}: {done}."
        )
        if not b.fair:
            yield f"Its old weights {b.recorded.weights[:12]} are not in the store: their column alone is compared."
        if b.lacking:
            yield f"{b.lacking:,} bundles of the baseline are not in the store; bench bundle unpack brings them."


def plain(bound: Bound) -> dict[str, object]:
    """A bound, for programs."""
    return {
        "name": str(bound.now), "weights": bound.now.weights, "n": bound.now.n, "most": bound.most,
        "before": 1 - len(bound.before.fell) / bound.before.n, "thrown": bound.thrown, "forwards": bound.forwards,
        "seconds": round(bound.seconds, 3), "fair": bound.fair, "lacking": bound.lacking, "attacked": bound.attacked,
        "by": bound.by, "survivors": list(bound.survivors),
    }  # fmt: skip
