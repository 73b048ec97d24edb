"""A page for each model: what made it, every number with what stands behind it, and how to make it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from bench import RampartError, split_recipe
from leaderboard import cells
from leaderboard.classes import MANY, Confusion, Labels, Share, confusion, ordered
from leaderboard.curves import Curve as Distances
from leaderboard.drawing import Plot
from leaderboard.evidence import WORST
from leaderboard.facts import TIERS
from leaderboard.grids import by_class, confusions, corruptions
from leaderboard.history import SIZE as PANEL
from leaderboard.history import History, Lesson
from leaderboard.pictures import of_model
from leaderboard.plots import STYLES, Curve, over_eps, over_passes
from leaderboard.reproduce import command
from leaderboard.rows import CLEAN, OFFICIAL, Head, Row, Section, named, place
from leaderboard.rules import DIVISIONS
from leaderboard.shell import File, Site
from leaderboard.sidecars import MissingError, Sidecars, spent_until_fallen
from leaderboard.words import name_of, natural, percent, short

if TYPE_CHECKING:
    from bench import TrainingRecord
    from leaderboard.arithmetic import Number
    from leaderboard.evidence import Fallen, Tally
    from leaderboard.rules import Rule
    from leaderboard.trust import Finding

KINDS = {"model": "models"}

STATES = ("for good", "open", "settled", "told")  # of doubts, the gravest first
HARDEST = 12  # classes that are listed where there are too many for a plot


def pages(site: Site) -> Iterator[File]:
    """A page for each net and weights of the board."""
    labels = {card.key: Labels.on(card) for card in site.documents.datasets}
    found = by_model(site)
    attacks = sorted({r.attack for r in site.documents.records})
    links = {
        key: site.link("attack", key, page=f"{KINDS['model']}/page.html") for key in attacks if name_of(key) != CLEAN
    }
    for (net, weights), places in found.items():
        model = Model(site, net, weights, tuple(places), labels)
        yield site.render(
            "model.html", site.path("model", net, weights), title=model.title, nav="Boards", model=model, panel=PANEL,
            pictures=of_model(site, net, weights), settings=settings, cells=cells, attacks=links, known=found.keys(),
        )  # fmt: skip


def by_model(site: Site) -> dict[tuple[str, str], list[tuple[Section, Row]]]:
    """The rows of each net and weights, in the order of the boards."""
    found: dict[tuple[str, str], list[tuple[Section, Row]]] = {}
    for section in site.board.sections:
        for row in section.rows:
            found.setdefault((row.net_key, row.weights), []).append((section, row))
    return found


@dataclass(frozen=True, eq=False)
class Model:
    """What its page says."""

    site: Site
    net: str  # key
    weights: str
    places: tuple[tuple[Section, Row], ...]
    labels: Mapping[str, Labels]
    sidecars: Sidecars = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sidecars", Sidecars(self.site.ledger))

    @property
    def detailed(self) -> bool:
        """Whether there are few enough models for all that is known of each."""
        return self.row.evidence.detailed

    @property
    def row(self) -> Row:
        """Its first row, for what all have in common."""
        return self.places[0][1]

    @property
    def division(self) -> tuple[str, str]:
        """Which models it competes with, and what that means."""
        return self.row.division, DIVISIONS[self.row.division]

    @property
    def tier(self) -> tuple[str, str]:
        """How far its numbers were checked, and what that means."""
        found = min(row.tier for _, row in self.places)  # measured comes before verified
        return found, TIERS[found]

    @property
    def title(self) -> str:
        """The defense and, to tell it from others, net and seed."""
        maker = self.row.maker
        seed = f", seed {maker.seed}" if maker.training and maker.training.history else ""
        return f"{maker.defense if maker.training else 'Weights ' + maker.defense} on {self.row.net}{seed}"

    @cached_property
    def trainings(self) -> list[tuple[str, TrainingRecord]]:
        """Which of whose weights these are; each training once."""
        found = {
            named(row.maker.training): (row.maker.which, row.maker.training)
            for _, row in self.places
            if row.maker.training is not None
        }
        return list(found.values())

    @cached_property
    def histories(self) -> list[History]:
        """How these trainings went, where they wrote it down."""
        told = [t for _, t in self.trainings if t.history]
        return [History(t, f"history-{i}") for i, t in enumerate(told)]

    def curves(self, history: History) -> list[tuple[str, str]]:
        """The curves of a history's accuracy: style and name."""
        return Lesson((history,)).legend

    @cached_property
    def exams(self) -> list[Exam]:
        """One for each board but those of corruptions; weights that several trainings made are examined once."""
        kept: dict[int, Exam] = {}
        for section, row in self.places:
            if section.summary != "mean":
                kept.setdefault(id(section), Exam(self, section, row, f"e{len(kept)}"))
        return list(kept.values())

    @cached_property
    def spoilt(self) -> list[tuple[Section, Row, Plot]]:
        """The boards of corruptions, each with its heat map."""
        kept = {id(section): (section, row) for section, row in reversed(self.places) if section.summary == "mean"}
        return [
            (section, row, corruptions(f"c{i}", _heat(row))) for i, (section, row) in enumerate(reversed(kept.values()))
        ]

    @cached_property
    def doubts(self) -> list[tuple[str, str]]:
        """What its records say beside these, each doubt once, with the attacks whose records say so."""
        told = {finding.text for finding in self.findings}
        found = {d.text: (d.text, ", ".join(d.attacks)) for _, row in self.places for d in row.doubts}
        return [said for text, said in found.items() if text not in told]

    @property
    def trusted(self) -> bool:
        """Whether every board trusts it."""
        return all(row.trusted for _, row in self.places)

    @cached_property
    def findings(self) -> list[Finding]:
        """Each doubt about the model once, as the board has it that trusts it least."""
        found: dict[str, Finding] = {}
        for _, row in self.places:
            for finding in row.trust.findings:
                if finding.text not in found or STATES.index(finding.state) < STATES.index(found[finding.text].state):
                    found[finding.text] = finding
        return list(found.values())

    @cached_property
    def asked_more(self) -> list[tuple[Section, Number, Number]]:
        """The boards where it was asked more, with what summed it up before and after; each once."""
        return list(
            {
                id(section): (section, row.trust.before, row.summary)
                for section, row in self.places
                if row.trust.before is not None and row.summary is not None
            }.values()
        )

    @property
    def rules(self) -> tuple[Rule, ...]:
        """What the closed division demands, and what its records say of it."""
        return self.row.rules

    @property
    def honesty(self) -> str:
        """At how many images its gradients are the slopes of its answers, in words."""
        check, share = self.row.trust.check, self.row.honesty
        if check is None:
            return "not measured: nobody looked at it before it was attacked"
        if share is None:
            stand_in = "they are a stand-in’s, and say so" if check.figures.get("stand_in") else ""
            random = "it draws random numbers, and says so" if check.figures.get("random") else ""
            return f"not measured: {stand_in or random or 'it is no one function of the image'}"
        how = "float64" if check.figures.get("float64") else "float32"
        return (
            f"at {percent(share)} % of the images they are the slopes of its answers, by central differences in {how}"
        )

    @cached_property
    def measured(self) -> list[tuple[str, str]]:
        """Where and with which software its records were made."""
        records = {id(r): r for _, row in self.places for r in row.records}.values()
        tiles = {(m.name, m.device, m.threads, m.tile) for m in (r.machine for r in records)}
        machines = [
            f"{name} ({device}, {threads} thread{'s' if threads != 1 else ''}, {tile} images a pass)"
            for name, device, threads, tile in sorted(tiles)
        ]
        versions = sorted({f"{name} {version}" for r in records for name, version in r.versions.items()}, key=natural)
        times = sorted(r.made for r in records)
        return [
            ("records", f"{len(records):,}, made from {times[0][:10]} to {times[-1][:10]}" if times else "none"),
            ("machines", "; ".join(machines)),
            ("versions", ", ".join(versions)),
            ("commits", ", ".join(sorted({r.commit[:12] for r in records if r.commit})) or "not recorded"),
            ("search", ", ".join(sorted({r.precision for r in records}))),
        ]

    @cached_property
    def commands(self) -> list[tuple[Section, str, str]]:
        """For each board the command, or why there is none; equal reasons once."""
        found: dict[int, tuple[Section, str, str]] = {}
        for section, row in self.places:
            said, why = command(section, row)
            if said or id(section) not in found:
                found[id(section)] = (section, said, why)
        return list(found.values())


def settings(recipe: str) -> list[tuple[str, str]]:
    """The settings in a recipe's key as they would be written; none where it cannot be read."""
    try:
        _, _, found = split_recipe(recipe)
    except RampartError:
        return []
    return [(name, repr(value)) for name, value in sorted(found.items())]


def _heat(row: Row) -> dict[str, dict[str, tuple[int, int]]]:
    """Standing and asked by corruption and severity, which is text, for a record may hold any."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for condition, counts in sorted(row.evidence.conditions.items(), key=lambda c: natural(c[0])):
        name, _, severity = condition.rpartition(":")
        found.setdefault(short(name or condition).removeprefix(OFFICIAL), {})[severity] = counts
    return found


@dataclass(frozen=True, eq=False)
class Exam:
    """What one board says of the model."""

    model: Model
    section: Section
    row: Row
    id: str

    @cached_property
    def numbers(self) -> list[tuple[Head, Number, bool]]:
        """Column, number, and whether it sums up."""
        found = [(h, self.row.numbers[h.name], False) for h in self.section.heads if h.name in self.row.numbers]
        if self.section.summary and self.row.summary is not None:
            found.append((Head(self.section.summary, ()), self.row.summary, True))
        return found

    @property
    def comparison(self) -> str:
        """The page that sets it beside another model of this board, seen from its own; empty where there is none."""
        at = self.model.site.link("compare", *place(self.section), page=f"{KINDS['model']}/page.html")
        return f"{at}#a={self.model.weights[:12]}" if at and self.row.evidence.columns else ""

    @property
    def labels(self) -> Labels | None:
        """The classes of the test images, where a card tells."""
        return self.model.labels.get(self.section.test)

    @property
    def few(self) -> bool:
        """Whether there are so few classes that each has its place on the page."""
        return self.labels is not None and len(self.labels.names) <= MANY

    @cached_property
    def tallies(self) -> list[tuple[str, Tally]]:
        """Each attack's work, the costliest first."""
        return sorted(self.row.evidence.tallies.items(), key=lambda t: (-t[1].spent.seconds, t[0]))

    @cached_property
    def column(self) -> str:
        """The column that says most: `worst`, else of those that are decided the lowest; empty where there is none."""
        found = self.row.evidence.columns
        known = {name: f for name, f in found.items() if name != CLEAN and f.n and not f.bound}
        return (
            WORST if WORST in known else min(known, key=lambda name: known[name].standing / known[name].n, default="")
        )

    @cached_property
    def classes(self) -> Plot | None:
        """Accuracy by class, clean and attacked; None where there are too many classes, or nothing is known of them."""
        shares = self.shares
        if not self.model.detailed or not shares or not self.few:
            return None
        columns, column = self.row.evidence.columns, self.column or CLEAN
        if column not in columns or self.labels is None:
            return None
        clean = self.labels.shares(columns[CLEAN].on(columns[column])) if CLEAN in columns else []
        robust = self.labels.shares(columns[column])
        return by_class(f"{self.id}-classes", clean, robust, column) if any(s.n for s in robust) else None

    @cached_property
    def shares(self) -> dict[str, list[Share]]:
        """What stands of each class, by column; `worst` last."""
        columns: Mapping[str, Fallen] = self.row.evidence.columns
        if self.labels is None or not any(f.among(sum(self.labels.images))[1] for f in columns.values()):
            return {}
        names = (*(h.name for h in self.section.heads), WORST) if self.model.detailed else (CLEAN, self.column)
        return {name: self.labels.shares(columns[name]) for name in names if name in columns}

    @cached_property
    def weakest(self) -> list[Share]:
        """The classes of which least stands; all where they are few."""
        found = ordered(self.shares.get(self.column) or self.shares.get(CLEAN) or [])
        return found if len(found) <= MANY else found[:HARDEST]

    @cached_property
    def confusions(self) -> list[tuple[str, Confusion]]:
        """For what images were taken, by column, the one that says most first; none where no sidecar can be read."""
        evidence, found = self.row.evidence, []
        order = [
            self.column,
            *(name for name in evidence.exams if name != self.column and not evidence.columns[name].bound),
        ]
        for name in order:
            if name not in evidence.exams or self.labels is None:
                continue
            exam, fallen = evidence.exams[name], evidence.columns[name]
            clean = evidence.clean if name == WORST or self._strict(name) else None
            try:
                found.append((name, confusion(exam, clean, self.labels, fallen.n, self.model.sidecars.predicted)))
            except MissingError:
                continue
        return found

    def _strict(self, name: str) -> bool:
        return next(h.strict for h in self.section.heads if h.name == name)

    @property
    def matrix(self) -> Plot | None:
        """The first of these, drawn; None where there is none or there are too many classes."""
        if not self.confusions or len(self.confusions[0][1].names) > MANY:
            return None
        name, found = self.confusions[0]
        return confusions(f"{self.id}-confusion", found, name)

    @cached_property
    def eps(self) -> Plot | None:
        """Robust accuracy over eps, a line a minimum-norm attack; None where there is none."""
        curves: Mapping[str, Distances] = self.row.curves
        limit = _eps(self.section.threat)
        if not curves or not limit:
            return None
        reach = max(next((d for d, a in c.points() if a <= 0.01), 4 * limit) for c in curves.values())
        end = min(max(reach, 1.5 * limit), 4 * limit)
        drawn = [Curve(name, tuple(c.points(end))) for name, c in curves.items()]
        return over_eps(f"{self.id}-eps", drawn, limit, end, self.section.threat or "")

    @cached_property
    def passes(self) -> Plot | None:
        """Robust accuracy over passes, a line a column; the hardest of them where there are many."""
        evidence = self.row.evidence
        found: list[Curve] = []
        strict = {h.name for h in self.section.heads if h.strict}
        known = {name: f for name, f in evidence.columns.items() if name in strict & evidence.exams.keys() and f.n}
        for name in sorted(known, key=lambda name: known[name].standing / known[name].n):
            if known[name].bound or len(found) == STYLES:
                continue
            try:
                steps = spent_until_fallen(evidence.exams[name], evidence.clean, known[name].n, self.model.sidecars)
            except MissingError:
                continue
            if steps:
                found.append(Curve(name, tuple(steps)))
        telling = len(found) > 1 or any(len(c.steps) > 3 for c in found)
        return over_passes(f"{self.id}-passes", found) if telling else None


def _eps(threat: str | None) -> float:
    """The size of a threat; 0 where it has none."""
    from fractions import Fraction

    try:
        return float(Fraction((threat or "").partition(":")[2]))
    except (ValueError, ZeroDivisionError, OverflowError):
        return 0.0
