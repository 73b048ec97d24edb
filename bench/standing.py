"""What each column of a ledger says of each model: which of the first n test images fell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from bench.decided import reached
from bench.exam import CLEAN
from bench.outcomes import fallen_within
from bench.records import CertificateRecord, CheckRecord, ColumnCard, Document, ExamCard, Record, TrainingRecord
from bench.trust import is_stale, newest

if TYPE_CHECKING:
    from bench.ledger import Ledger


class Model(NamedTuple):
    """How a model is called that is trained again: everything but its weights."""

    defense: str  # as a person would write it; a piece of the weights' hash where no training is known
    net: str
    trained_on: str
    trained_for: str  # a threat, or nothing
    seed: int | None
    which: str  # best, last, epoch-…

    def __str__(self) -> str:
        """For a person."""
        seed = "" if self.seed is None else f" seed {self.seed}"
        which = f" {self.which}" if self.which not in {"", "best"} else ""
        return f"{self.defense} on {self.net}{seed}{which}"


class Question(NamedTuple):
    """What a column asks: the attacks whose union it is, on which images, under which condition and threat."""

    test: str  # hash of the test part
    condition: str
    threat: str | None
    attacks: tuple[str, ...]  # recipe keys, sorted
    strict: bool
    first: int


@dataclass(frozen=True)
class Standing:
    """One column's outcome for one model: of its first n images those in `fell` fell, the others stand."""

    model: Model
    question: Question
    dataset: str  # names, for people
    column: str
    weights: str
    n: int
    fell: frozenset[int]
    doubts: tuple[str, ...]
    made: str  # the last of its records or its training, whichever was later

    def __str__(self) -> str:
        """For a person."""
        where = "" if self.question.condition == CLEAN else f" under {self.question.condition}"
        threat = f" {self.question.threat}" if self.question.threat else ""
        return f"{self.model}, {self.dataset}: {self.column}{threat}{where}"

    @property
    def name(self) -> tuple[Model, Question]:
        """What it is matched by."""
        return self.model, self.question

    def among_first(self, n: int) -> frozenset[int]:
        """Which of the first n images fell."""
        return frozenset(image for image in self.fell if image < n)


@dataclass(frozen=True)
class Cost:
    """What a model costs, counted and not timed: the same on every machine."""

    CURRENCIES: ClassVar[dict[str, str]] = {
        "training": "training passes of an image, forwards and backwards",
        "forward": "multiply-adds of a forward of an image",
    }

    defense: str
    net: str
    trained_on: str
    trained_for: str
    seed: int
    training: int
    forward: int | None  # None where it was not counted

    @property
    def method(self) -> tuple[str, ...]:
        """What is matched: all but the seed."""
        return self.defense, self.net, self.trained_on, self.trained_for

    @property
    def called(self) -> str:
        """For a person."""
        return f"{self.defense} on {self.net}"


@dataclass(frozen=True)
class Standings:
    """All that a ledger or a baseline says.  older: of results with one name the latest counts; these do not."""

    every: tuple[Standing, ...]
    older: tuple[Standing, ...] = ()
    costs: tuple[Cost, ...] = ()

    @classmethod
    def of(cls, ledger: Ledger) -> Standings:
        """What the documents of a ledger say; IntegrityError where one is damaged."""
        latest: dict[tuple[Model, Question], Standing] = {}
        older = []
        documents = list(ledger.all())
        for found in sorted(_standings(ledger, documents), key=lambda s: (s.made, s.weights)):
            if (before := latest.get(found.name)) is not None and before.weights != found.weights:
                older.append(before)
            latest[found.name] = found
        return cls(tuple(sorted(latest.values(), key=_order)), tuple(older), tuple(_costs(documents)))


def _order(standing: Standing) -> tuple[str, ...]:
    q = standing.question
    return (*map(str, standing.model), "" if q.condition == CLEAN else q.condition, q.threat or "", standing.column)


NONE: frozenset[int] = frozenset()


class _Cell(NamedTuple):
    """Which images an attack was asked, and which of them fell."""

    asked: frozenset[int]
    fell: frozenset[int]
    doubts: tuple[str, ...]
    made: str


def _costs(documents: Sequence[Document]) -> Iterator[Cost]:
    """Of the latest training of each name."""
    trainings = sorted((t for t in documents if isinstance(t, TrainingRecord)), key=lambda t: (t.made, t.key))
    latest = {(t.label, t.net_label, t.dataset, t.threat, t.seed): t for t in trainings}
    for name, t in sorted(latest.items()):
        yield Cost(*name, training=t.cost.forwards + t.cost.backwards, forward=t.macs)


def _standings(ledger: Ledger, documents: Sequence[Document]) -> Iterator[Standing]:
    makers: dict[tuple[str, str], dict[Model, str]] = {}
    for t in documents:
        if isinstance(t, TrainingRecord):
            for which, weights in t.weights.items():
                times = makers.setdefault((t.net, weights), {})
                model = Model(t.label, t.net_label, t.dataset, t.threat, t.seed, which)
                times[model] = max(t.made, times.get(model, ""))
    checks = newest(d for d in documents if isinstance(d, CheckRecord))
    records: dict[tuple[str, str, str, str], list[Record]] = {}
    for r in documents:
        if isinstance(r, Record):
            records.setdefault((r.net, r.weights, r.test, r.condition), []).append(r)
    cards = [d for d in documents if isinstance(d, ColumnCard)]
    exams = {(e.test, e.threat) for e in documents if isinstance(e, ExamCard)}
    proven: dict[tuple[str, str, str, str], dict[str, set[int]]] = {}
    for c in documents:
        if isinstance(c, CertificateRecord):
            proven.setdefault((c.net, c.weights, c.test, c.condition), {}).setdefault(c.threat, set()).update(
                c.certified
            )
    for (net, weights, test, condition), near in records.items():
        models = makers.get((net, weights), {Model(f"weights {weights[:12]}", net, "", "", None, ""): ""})
        threats = {threat for known, threat in exams if known == test}
        held = proven.get((net, weights, test, condition), {})
        for found in _of_weights(near, cards, threats | held.keys(), ledger, held):
            under = dict.fromkeys((None, found.question.threat))
            looks = [checks[name] for threat in under if (name := (net, weights, test, threat)) in checks]
            for model, made in models.items():
                yield replace(found, model=model, made=max(made, found.made), doubts=_doubts(found.doubts, looks))


def _doubts(said: Sequence[str], checks: Sequence[CheckRecord]) -> tuple[str, ...]:
    """What records say, and what the checks of the model found, each once."""
    kept = [text for text in said if not is_stale(text, checks)]
    return tuple(dict.fromkeys([*kept, *(d.text for check in checks for d in check.doubts)]))


def _of_weights(
    records: Sequence[Record], cards: Sequence[ColumnCard], asked: set[str], ledger: Ledger,
    proven: Mapping[str, set[int]],
) -> Iterator[Standing]:  # fmt: skip
    """Every column of some weights on a test part under a condition, with no model's name yet."""
    one = records[0]
    nobody = Model("", "", "", "", None, "")

    def standing(
        column: str, threat: str | None, attacks: Iterable[str], card: ColumnCard | None, **seen: Any
    ) -> Standing:
        strict, first = (card.strict, card.first) if card else (True, 0)
        question = Question(one.test, one.condition, threat, tuple(sorted(set(attacks))), strict, first)
        return Standing(nobody, question, one.dataset, column, one.weights, **seen)

    lost = {r.attack: r for r in records if _is_clean(r.attack)}
    clean = _cell([r for r in records if r.attack in lost], None, ledger) if lost else None
    if clean is not None and (seen := _seen([clean], clean, 0, strict=False)):
        yield standing(CLEAN, None, lost, None, **seen)
    bound = {r.threat for r in records if r.threat and ":" in r.threat}
    for threat in sorted(bound | asked):
        norm = threat.partition(":")[0]
        mine: dict[str, list[Record]] = {}
        for r in records:
            if r.threat in (threat, norm):
                mine.setdefault(r.attack, []).append(r)
        cells = {attack: _cell(found, threat, ledger) for attack, found in mine.items()}
        names: dict[tuple[tuple[str, ...], bool, int], list[ColumnCard]] = {}
        for card in cards:
            if card.norm in ("", norm) and not all(map(_is_clean, card.attacks)):
                names.setdefault((tuple(sorted(set(card.attacks))), card.strict, card.first), []).append(card)
        for (attacks, strict, first), alike in names.items():
            members = [cells[a] for a in attacks if a in cells]
            held = frozenset(proven.get(threat, ()))
            # A certificate may leave nothing to ask of some attacks, or of all.
            whole = len(members) == len(attacks)
            if (whole or held) and (seen := _seen(members, clean, first, held, strict=strict, whole=whole)):
                name = " = ".join(sorted({card.name for card in alike}))
                yield standing(name, threat, attacks, alike[0], **seen)


def _seen(
    members: Sequence[_Cell], clean: _Cell | None, first: int, held: frozenset[int] = NONE, *,
    strict: bool, whole: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """The images that fell among the first n, where these are decided as on the board; nothing where they are not.

    held: images that are certified to stand, of which no attack needs to be asked.  whole: there is every attack.
    """
    parts = [*members, *([clean] if clean and strict else [])]
    fell = frozenset[int]().union(*(part.fell for part in parts))
    went = frozenset.intersection(*(m.asked for m in members)) if whole else NONE
    decided = _first(fell | went | held, first)
    reach = min((1 + max(m.asked) for m in members), default=0)
    asked = _first(clean.asked, first) if clean else 0
    n = reached(decided, sum(i < decided for i in fell | held), min(reach, first or reach), asked)
    doubts = tuple(dict.fromkeys(doubt for part in parts for doubt in part.doubts))
    made = max(part.made for part in parts)
    return {"n": n, "fell": frozenset(i for i in fell if i < n), "doubts": doubts, "made": made} if n else {}


def _first(images: frozenset[int], most: int) -> int:
    """n, where the first n test images are all among these and the next is not; no more than `most`, if any."""
    n = next(i for i in count() if i not in images)
    return min(n, most or n)


def _cell(records: Sequence[Record], threat: str | None, ledger: Ledger) -> _Cell:
    """One attack's outcome: of several attack seeds and precisions the smallest seed's of the exact search."""
    chosen = min((r.precision, r.seed) for r in records)
    mine = [r for r in records if (r.precision, r.seed) == chosen]
    fell: set[int] = set()
    for r in mine:
        fell.update(r.fell if threat is None or r.threat == threat else _within(ledger, r, threat))
    doubts = tuple(dict.fromkeys(doubt for r in mine for doubt in r.doubts))
    asked = frozenset(i for r in mine for i in r.asked)
    return _Cell(asked, frozenset(fell), doubts, max(r.made for r in mine))


def _within(ledger: Ledger, record: Record, threat: str) -> list[int]:
    from bench.threat import ThreatModel

    return fallen_within(ledger, record, ThreatModel.parse(threat))


def _is_clean(attack: str) -> bool:
    return attack.partition("@")[0].partition("(")[0] == CLEAN


def by_name(standings: Iterable[Standing]) -> Mapping[tuple[Model, Question], Standing]:
    """Standings by what they are matched by."""
    return {s.name: s for s in standings}
