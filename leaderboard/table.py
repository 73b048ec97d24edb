"""Records to rows: the board that the documents of a ledger make together."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from bench import ColumnCard, Record, ThreatModel, TrainingRecord, is_stale, newest
from leaderboard.arithmetic import Exam, Number, Outcome, Place, Spent, count, examine, mean, outcomes, worst
from leaderboard.certificates import Certificate, certificates
from leaderboard.curves import Curve, curve
from leaderboard.documents import Documents
from leaderboard.doubts import Doubt, beside, said
from leaderboard.evidence import MODELS, Evidence, by_condition, gathered
from leaderboard.images import Images
from leaderboard.rows import CLEAN, OFFICIAL, Board, Head, Maker, Row, Section
from leaderboard.rules import Facts, division, rules
from leaderboard.seeds import lines, rank
from leaderboard.trust import Finding, Trust, called_for, judged, of_the_exam, probes, raised, without
from leaderboard.words import name_of, natural, short, told_apart

if TYPE_CHECKING:
    from bench import CheckRecord, Contradiction, Ledger


def table(ledger: Ledger, n: int = 0) -> Board:
    """The board of a ledger; n as in board_of."""
    return board_of(Documents.of(ledger), n)


def board_of(documents: Documents, n: int = 0) -> Board:
    """The board: a pure function of the documents.

    n: only the first n test images count (0: all), as where a costly column was asked about no more.
    """
    library = _Library(documents, n or math.inf)
    sources: list[Record | TrainingRecord] = [*documents.records, *documents.trainings]
    versions: dict[str, set[str]] = {}
    for source in sources:
        for package, version in source.versions.items():
            versions.setdefault(package, set()).add(version)
    times = sorted(source.made for source in sources)
    return Board(
        sections=tuple(library.sections()),
        records=len(documents.records),
        trainings=len({t.key for t in documents.trainings}),
        commits=tuple(sorted({s.commit for s in sources if s.commit})),
        versions=tuple((package, tuple(sorted(v, key=natural))) for package, v in sorted(versions.items())),
        machines=tuple(sorted({f"{s.machine.name} ({s.machine.device})" for s in sources})),
        made=(times[0], times[-1]) if times else None,
        damaged=documents.damaged,
    )


Subject = tuple[str, str]  # net and weights


class _Library:
    """The documents of a ledger, joined: cells by place, makers by weights, names by hash."""

    def __init__(self, documents: Documents, first: float) -> None:
        records, trainings, datasets = documents.records, documents.trainings, documents.datasets
        self.cells = outcomes(records, lambda record: documents.distances[record.images], first)
        self.detailed = len({(place.net, place.weights) for place in self.cells}) <= MODELS
        self.near: dict[tuple[str, str, str, str], dict[Place, Outcome]] = {}
        for place, cell in sorted(self.cells.items(), key=lambda c: c[0].attack):
            self.near.setdefault((*place[:3], place.weights), {})[place] = cell
        self.makers: dict[tuple[str, str], list[Maker]] = {}
        for training in sorted(trainings, key=lambda t: (t.key, t.made)):
            for weights, which in _kept(training):
                maker = Maker(training.label, training.seed, which, training)
                self.makers.setdefault((training.net, weights), []).append(maker)
        self.available = {card.key: len(card.labels) for card in datasets}
        self.datasets = told_apart({r.test: r.dataset for r in records} | {card.key: card.name for card in datasets})
        labels = {t.net: t.net_label for t in sorted(trainings, key=lambda t: t.net_label, reverse=True)}
        self.nets = told_apart({r.net: labels.get(r.net, short(r.net)) for r in records})
        self.cards = documents.columns
        self.certificates = certificates(documents.certificates, first)
        self.verified = documents.verified
        self.checks = newest(documents.checks)
        self.threats: dict[tuple[str, str], set[str]] = {}  # test part and norm to the threats it was asked under
        asked = {(e.test, e.threat) for e in documents.exams} | {(p.test, p.threat) for p in self.cells if p.threat}
        for test, threat in asked:
            norm, colon, _ = threat.partition(":")
            if colon:
                self.threats.setdefault((test, norm), set()).add(threat)

    def sections(self) -> Iterator[Section]:
        """Every section, in the order of the page."""
        for test in sorted({place.test for place in self.cells}, key=lambda t: self.datasets[t]):
            places = [p for p in self.cells if p.test == test]
            attacked: dict[tuple[str, str], set[Subject]] = {}
            for p in places:
                # The distances of a minimum-norm attack are judged under each threat of its norm.
                said = p.threat or ""
                for threat in self.threats.get((test, said), ()) if said and ":" not in said else (said,):
                    if name_of(p.attack) != CLEAN:
                        attacked.setdefault((p.condition, threat), set()).add((p.net, p.weights))
            for key, certificate in self.certificates.items():  # which may leave no attack anything to do
                if key[0] == test and certificate.held:
                    attacked.setdefault((key[2], key[3]), set()).add((key[1], key[4]))
            done = set[Subject]().union(*(who for (condition, _), who in attacked.items() if condition == CLEAN))
            bare = {(p.net, p.weights) for p in places if p.condition == CLEAN} - done
            for condition, threat in sorted(attacked, key=lambda c: (c[0] != CLEAN, natural(c[0]), natural(c[1]))):
                yield self._attacked(test, condition, threat, attacked[condition, threat])
            if bare:
                yield self._attacked(test, CLEAN, None, bare)
            for published in (False, True):
                spoilt = [p for p in places if p.condition != CLEAN and name_of(p.attack) == CLEAN]
                if alike := [p for p in spoilt if p.condition.startswith(OFFICIAL) is published]:
                    yield self._spoilt(test, f"{OFFICIAL if published else ''}corruptions", alike)

    def _attacked(self, test: str, condition: str, threat: str | None, who: set[Subject]) -> Section:
        """The section of one threat and condition."""
        subjects = {s: self._subject(Place(test, s[0], condition, threat, s[1], "")) for s in sorted(who)}
        columns = _columns([c for c in self.cards if c.norm in ("", (threat or "").partition(":")[0])])
        heads = [h for h in columns if any(_tells(s.number(h)) for s in subjects.values())]
        heads = [h if _common(h, subjects.values()) else replace(h, common=False) for h in heads]
        strict = [h for h in heads if h.strict]
        heads = [Head(CLEAN, (CLEAN,)), *heads] if any(s.clean for s in subjects.values()) else heads
        rows: list[Row] = []
        for (net, w), s in subjects.items():
            numbers, summary = s.numbers(heads), s.worst(strict)
            trust = s.trust(heads, strict, summary, attacked=threat is not None)
            exams = {h: s.exam(h) for h in heads if h.name != CLEAN}
            evidence = gathered(exams, numbers, summary, s.clean, s.cells, detailed=self.detailed)
            rows += self._rows(net, w, test, threat, numbers, summary, s.used(heads), trust, s, strict, evidence)
        return self._section(test, threat, short(condition), heads, "worst" if strict else "", rows)

    def _subject(self, place: Place) -> _Subject:
        """What is known of one set of weights under one condition and threat."""
        near = self.near.get((*place[:3], place.weights), {})
        clean = next((cell for p, cell in near.items() if name_of(p.attack) == CLEAN), None)
        mine = {p.attack: cell for p, cell in near.items() if p.threat == place.threat and name_of(p.attack) != CLEAN}
        if place.threat:
            threat = ThreatModel.parse(place.threat)
            mine |= {p.attack: cell.within(threat) for p, cell in near.items() if p.threat == threat.norm}
        records = [r for cell in (*mine.values(), *([clean] if clean else [])) for r in cell.records]
        checks = self._checked(place.net, place.weights, place.test, place.threat)
        called = probes(finding.code for finding in raised(checks, records))
        known = of_the_exam((a for a, cell in mine.items() if cell.records[0].access is not None), self.cards, called)
        attacks = {attack: cell for attack, cell in mine.items() if attack in known}
        n = len(Images.union(cell.asked for cell in attacks.values()))
        hidden = beside(attacks)
        said = self.certificates.get((place.test, place.net, place.condition, place.threat or "", place.weights))
        return _Subject(clean, mine, checks, raised(checks, records, hidden, n), hidden, said)

    def _checked(self, net: str, weights: str, test: str, threat: str | None) -> tuple[CheckRecord, ...]:
        """What the checks before any attack found, and those under a threat."""
        found = (self.checks.get((net, weights, test, under)) for under in dict.fromkeys((None, threat)))
        return tuple(check for check in found if check is not None)

    def _spoilt(self, test: str, name: str, places: Sequence[Place]) -> Section:
        """The section of clean accuracy under corruptions: a column is the mean over a corruption's severities."""
        conditions = sorted({p.condition for p in places}, key=natural)
        families: dict[str, list[str]] = {}
        for condition in conditions:
            families.setdefault(short(condition.rpartition(":")[0]), []).append(condition)
        heads = [Head(name, tuple(family)) for name, family in families.items()]
        rows: list[Row] = []
        subjects: dict[Subject, dict[str, Outcome]] = {}
        for p in places:
            subjects.setdefault((p.net, p.weights), {})[p.condition] = self.cells[p]
        for (net, weights), cells in sorted(subjects.items(), key=lambda item: item[0]):
            numbers = {h.name: mean([cells[c] for c in h.of]) for h in heads if cells.keys() >= set(h.of)}
            total = mean([cells[c] for c in conditions]) if cells.keys() >= set(conditions) else None
            spoilt = tuple(cells[c].fell for c in conditions) if total else ()
            evidence = by_condition(cells, detailed=self.detailed)
            checks = self._checked(net, weights, test, None)
            findings = raised(checks, [r for cell in cells.values() for r in cell.records])
            trust = Trust(judged(findings, {}, 0, attacked=False), next(iter(checks), None))
            rows += self._rows(
                net, weights, test, None, numbers, total, list(cells.values()), trust,
                evidence=evidence, spoilt=spoilt,
            )  # fmt: skip
        return self._section(test, None, name, heads, "mean", rows)

    def _section(
        self, test: str, threat: str | None, condition: str, heads: list[Head], summary: str, rows: list[Row]
    ) -> Section:
        return Section(
            self.datasets[test], test, threat, condition,
            tuple(heads), summary, tuple(sorted(rows, key=rank)), lines(rows, heads), self.available.get(test),
        )  # fmt: skip

    def _rows(
        self, net: str, weights: str, test: str, threat: str | None,
        numbers: Mapping[str, Number | None], summary: Number | None, cells: Sequence[Outcome], trust: Trust,
        subject: _Subject | None = None, strict: Sequence[Head] = (), evidence: Evidence | None = None,
        spoilt: tuple[Images, ...] = (),
    ) -> Iterator[Row]:  # fmt: skip
        """A row for each training that made these weights; one by their hash where none did."""
        records = list({id(r): r for cell in cells for r in cell.records}.values())
        known = {head: number for head, number in numbers.items() if number is not None}
        tier = "verified" if self.verified.issuperset(r.key for r in records) else "measured"
        makers = self.makers.get((net, weights), [Maker(weights[:12])])
        fit = sorted(makers, key=lambda m: m.training is not None and m.training.threat not in (threat, ""))
        # A training that heeds no threat gives the same weights under each: the one that fits best stands for all.
        for maker in {(m.defense, m.seed, m.which): m for m in reversed(fit)}.values():
            notes = (*_notes(maker.training, threat, self.datasets[test]), *_fast(records))
            facts = Facts(net, weights, maker.training, records, trust)
            kept = rules(facts)
            yield Row(
                maker, self.nets[net], net, weights, notes, known, summary, Spent.of(records),
                (*_told(records, trust, subject.hidden if subject else ()), *(subject.disproven() if subject else ())),
                subject.curves(strict) if subject else {},
                subject.fell(strict) if subject else None, tuple(records),
                evidence or Evidence(), spoilt, subject.certificate if subject else None, tier, trust, kept,
                division(facts, kept),
            )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Subject:
    """The cells of one set of weights under one condition and threat."""

    clean: Outcome | None
    cells: Mapping[str, Outcome]
    checks: tuple[CheckRecord, ...] = ()
    findings: tuple[Finding, ...] = ()  # the doubts about it
    hidden: tuple[Contradiction, ...] = ()  # those of them that show when its attacks are set side by side
    certificate: Certificate | None = None
    exams: dict[Head, Exam] = field(default_factory=dict)  # those that were asked for
    counted: dict[str, Number | None] = field(default_factory=dict)  # likewise, by the name of the column

    def exam(self, head: Head) -> Exam:
        found = self.exams.get(head)
        if found is None:
            held = self.certificate.held if self.certificate else None
            found = self.exams[head] = examine(head.of, head.strict, self.clean, self.cells, head.first, held)
        return found

    def number(self, head: Head) -> Number | None:
        if head.name not in self.counted:
            self.counted[head.name] = self._count(head)
        return self.counted[head.name]

    def _count(self, head: Head) -> Number | None:
        if head.name == CLEAN:
            exam = examine([CLEAN], False, None, {CLEAN: self.clean} if self.clean else {})
        else:
            exam = self.exam(head)
        return count(exam, self.clean)

    def numbers(self, heads: Sequence[Head]) -> dict[str, Number | None]:
        return {h.name: self.number(h) for h in heads}

    def curves(self, heads: Sequence[Head]) -> dict[str, Curve]:
        """Robust accuracy over eps, of each column that is one minimum-norm attack."""
        found = {
            h.name: curve(self.clean, self.cells[h.of[0]]) for h in heads if len(h.of) == 1 and h.of[0] in self.cells
        }
        return {name: drawn for name, drawn in found.items() if drawn is not None}

    def disproven(self) -> tuple[Doubt, ...]:
        """A doubt where an attack felled what a certificate says stands."""
        return self.certificate.contradicted(self.cells) if self.certificate else ()

    def worst(self, heads: Sequence[Head]) -> Number | None:
        common = [h for h in heads if h.common] or heads
        others = [h for h in heads if h not in common]
        found = worst([self.exam(h) for h in common], self.clean, [self.exam(h) for h in others])
        if found is None or self.certificate is None:
            return found
        return replace(found, certified=self.certificate.held.among(found.n))

    @cached_property
    def called(self) -> frozenset[str]:
        """The probes that its doubts call for."""
        return probes(finding.code for finding in self.findings)

    def trust(self, heads: Sequence[Head], strict: Sequence[Head], summary: Number | None, *, attacked: bool) -> Trust:
        """Whether its numbers may be believed, and what summed it up before it was asked more."""
        exams = {h: self.exam(h) for h in heads if h.name != CLEAN}
        others = without(strict, self.called, exams)
        found = judged(self.findings, exams, summary.n if summary else 0, attacked=attacked)
        check = next((check for check in self.checks if check.threat is None), None)
        return Trust(found, check, self.worst(others) if others else None)

    def fell(self, heads: Sequence[Head]) -> Images:
        """The images that fell in some of these columns."""
        return Images.union(self.exam(h).fell for h in heads)

    def used(self, heads: Sequence[Head]) -> list[Outcome]:
        """The cells behind these columns, clean among them."""
        members = [m for h in heads if h.name != CLEAN for m in self.exam(h).members.values()]
        return [*([self.clean] if self.clean else []), *members]


def _kept(training: TrainingRecord) -> list[tuple[str, str]]:
    """The weights of a training, and which they are; equal ones once."""
    kept: dict[str, list[str]] = {}
    for which, weights in sorted(training.weights.items(), key=lambda item: natural(item[0])):
        kept.setdefault(weights, []).append(which)
    return [(weights, " = ".join(which)) for weights, which in kept.items()]


def _columns(cards: Sequence[ColumnCard]) -> list[Head]:
    """The columns but clean: strict ones first, few attacks before many.  Those that are one thing are one column."""
    same: dict[tuple[tuple[str, ...], bool, int], list[ColumnCard]] = {}
    for card in sorted(cards, key=lambda c: (len(c.name), c.name, c.key)):
        attacks = tuple(sorted(set(card.attacks)))
        if any(name_of(a) != CLEAN for a in attacks):
            same.setdefault((attacks, card.strict, card.first), []).append(card)
    names = {alike[0].key: " = ".join(dict.fromkeys(c.name for c in alike)) for alike in same.values()}
    labels = told_apart(names | {CLEAN: CLEAN, "worst": "worst"})  # no column may pass for one of these
    heads = [Head(labels[alike[0].key], *what) for what, alike in same.items()]
    return sorted(heads, key=lambda h: (not h.strict, len(h.of), natural(h.name)))


def _fast(records: Iterable[Record]) -> tuple[str, ...]:
    """Which attacks searched in lower precision."""
    names = {name_of(r.attack) for r in records if r.precision == "fast"}
    return (f"fast search: {', '.join(sorted(names, key=natural))}",) if names else ()


def _told(records: Sequence[Record], trust: Trust, hidden: Sequence[Contradiction]) -> tuple[Doubt, ...]:
    """The doubts of records, those between attacks, and those of the checks that no record tells of."""
    checks = [trust.check] if trust.check else []
    found = [doubt for doubt in said(records) if not is_stale(doubt.text, checks)]
    found += [Doubt(c.text, c.attacks) for c in hidden]
    known = {doubt.text for doubt in found}
    return (*found, *(Doubt(finding.text, ()) for finding in trust.findings if finding.text not in known))


def _common(head: Head, subjects: Collection[_Subject]) -> bool:
    """Whether at least half were asked; a probe is not asked for the sake of those whose doubts call for it."""
    whole = [s for s in subjects if not called_for(head, s.called)]
    return bool(whole) and 2 * sum(_tells(s.number(head)) for s in whole) >= len(whole)


def _tells(number: Number | None) -> bool:
    """Whether a column has a number, not only a bound from attacks that it shares with another."""
    return number is not None and not number.bound


def _notes(training: TrainingRecord | None, threat: str | None, dataset: str) -> tuple[str, ...]:
    """What a reader must know who compares this row with the others."""
    if training is None:
        return ("no training record",)
    notes = []
    if threat is not None and training.threat not in (threat, ""):
        notes.append(f"trained for {training.threat}")
    if training.dataset != dataset.partition(" #")[0]:
        notes.append(f"trained on {training.dataset}")
    return tuple(notes)
